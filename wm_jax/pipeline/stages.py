"""What a stage is: one object that says what it depends on, what it leaves and how it runs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_jax.experiment import Experiment, identity
from wm_jax.pipeline.context import Context
from wm_jax.run import RunDir, StageDir

WITHOUT_EFFECT = ("collect.workers", "devices")
"""Settings that change how fast a stage is, not what comes of it; of `devices`, the last bits."""
LATER = "later_steps", "train_ratio"
"""A learner's settings that concern the rounds after the first alone."""


class Stage(ABC):
    """One stage of a round. A new one is a subclass, and its place in `plan.stages`."""

    name: str
    """As --stages names it."""
    folder: str
    """Where its results are in a run's folder."""

    def due(self, round_number: int, last: int) -> bool:
        """Whether a round has it, of rounds 0 to `last`."""
        return True

    @abstractmethod
    def depends(self, later: bool) -> tuple[str, ...]:
        """Settings, by name or group ("dream."), that it depends on beside those of the stages before it: in the first
        round, or in later ones."""

    @abstractmethod
    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The files that it leaves in its folder."""

    @abstractmethod
    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Do it, in its folder; returns its summary. Every process of a run calls it.

        Started again after a kill, it goes on from what it has left there and ends with the same bits, on the same devices
        with as many cores: XLA shares sums out over the cores that it finds, and rounds them accordingly.
        """


@dataclass(frozen=True)
class Step:
    """One stage of one round."""

    stage: Stage
    round_number: int

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the others: the stage's name, and the round."""
        return self.stage.name, self.round_number

    def folder(self, run: RunDir) -> StageDir:
        """Where its results are."""
        return run.stage(self.stage.folder, self.round_number)

    def outputs(self, context: Context) -> list[Path]:
        """The files that it leaves."""
        folder = self.folder(context.run).path
        return [folder / name for name in self.stage.outputs(context, self.round_number)]

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """The settings that this stage, itself, depends on; files by their contents."""
        groups = self.stage.depends(later=self.round_number > 0)

        def matters(name: str) -> bool:
            grouped = not name.endswith(LATER) and any(g.endswith(".") and name.startswith(g) for g in groups)
            return name not in WITHOUT_EFFECT and (name in groups or grouped)

        return {name: value for name, value in identity(experiment).items() if matters(name)}

    def __str__(self) -> str:
        return f"{self.stage.name} (round {self.round_number})"
