"""A stage: an object that states its dependencies and its outputs, and runs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_jax.experiment import Experiment, identity
from wm_jax.pipeline.context import Context
from wm_jax.run import RunDir, StageDir

WITHOUT_EFFECT = ("collect.workers", "devices")
"""Settings that change a stage's speed but not its result; `devices` changes the last bits."""
LATER = "later_steps", "train_ratio"
"""A learner's settings that affect only the rounds after the first."""


class Stage(ABC):
    """One stage of a round. To add a stage, write a subclass and insert it in `plan.stages`."""

    name: str
    """Its name for --stages."""
    folder: str
    """Folder of its results in a run's folder."""

    def due(self, round_number: int, last: int) -> bool:
        """Whether a round has this stage; rounds are numbered 0 to `last`."""
        return True

    @abstractmethod
    def depends(self, later: bool) -> tuple[str, ...]:
        """Settings that it depends on, by name or group ("dream."), in the first round or in later ones; those of
        earlier stages are added."""

    @abstractmethod
    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The files that it writes to its folder."""

    @abstractmethod
    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Run it in its folder; returns its summary. Every process of a run calls it.

        Restarted after a kill, it continues from what it has written. It ends with the same bits, on the same devices
        with as many cores: XLA splits sums over the available cores, which affects rounding.
        """


@dataclass(frozen=True)
class Step:
    """One stage of one round."""

    stage: Stage
    round_number: int

    @property
    def key(self) -> tuple[str, int]:
        """Identifies the step: the stage's name, and the round."""
        return self.stage.name, self.round_number

    def folder(self, run: RunDir) -> StageDir:
        """The folder of its results."""
        return run.stage(self.stage.folder, self.round_number)

    def outputs(self, context: Context) -> list[Path]:
        """The files that it writes."""
        folder = self.folder(context.run).path
        return [folder / name for name in self.stage.outputs(context, self.round_number)]

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """The settings that this stage itself depends on; files are represented by their contents."""
        groups = self.stage.depends(later=self.round_number > 0)

        def matters(name: str) -> bool:
            grouped = not name.endswith(LATER) and any(g.endswith(".") and name.startswith(g) for g in groups)
            return name not in WITHOUT_EFFECT and (name in groups or grouped)

        return {name: value for name, value in identity(experiment).items() if matters(name)}

    def __str__(self) -> str:
        return f"{self.stage.name} (round {self.round_number})"
