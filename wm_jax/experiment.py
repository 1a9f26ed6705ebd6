"""Experiment: one frozen tree of settings, all that a run depends on."""

import dataclasses
import re
import runpy
import typing
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typeguard import TypeCheckError, check_type

from wm_jax.controller import EvolveConfig, GradientConfig, PolicyConfig, TuneConfig
from wm_jax.dream import DreamConfig
from wm_jax.errors import UserError, require_range
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.vision import VisionConfig


@dataclass(frozen=True)
class Experiment:
    """All settings of a run. The paper's order: collect, train V, train M, evolve C in the dream, score in the actual
    environment."""

    name: str = "experiment"
    """The run lives in runs/NAME unless --run-dir says otherwise."""
    task: str = "car_racing"
    """car_racing, take_cover, or the path of a Python file that defines TASK."""
    seed: int = 0
    """Every random number of the run follows from it."""
    held_out: float = 0.05
    """Share of the recorded episodes that V and M never train on, only report on."""
    mirror: bool = False
    """Every recorded episode counts twice, as it is and in the mirror, for V, for M and for the dream's starts: twice the
    data, and no side that M knows better than the other, where C would find its dreams easier."""
    initial: str | None = None
    """A bundle whose V and M the first round's training begins with; random weights unless given. With vision.steps or
    memory.steps 0 they stay as they are there. Give the run another `seed` than the bundle's: the same one records the very
    episodes that they have been trained on."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    controller: PolicyConfig = field(default_factory=PolicyConfig)
    evolve: EvolveConfig = field(default_factory=EvolveConfig)
    gradient: GradientConfig = field(default_factory=GradientConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    devices: int = 0
    """Devices to lay the population and the batches over; 0: all. It changes the last bits of results only."""
    checkpoint_seconds: float = 60.0
    """V, M and C are saved after so many seconds, at the next step that is logged: about what a kill costs. Scores are
    saved by blocks of episodes. It does not change any result."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs the extra `tensorboard`)."""

    @property
    def searches(self) -> dict[str, EvolveConfig]:
        """What C is searched by, by stage: its evolution, and the tuning where there is one; the last C is deployed."""
        return {"evolve": self.evolve} | ({"tune": self.tune.search} if self.tune.generations else {})

    @property
    def views(self) -> int:
        """What each recorded episode counts for."""
        return 1 + self.mirror

    def __post_init__(self) -> None:
        require_range("seed", self.seed, 0, 2**31 - 1)
        require_range("held_out", self.held_out, 0.0, 0.5)
        require_range("devices", self.devices, 0)
        require_range("checkpoint_seconds", self.checkpoint_seconds, 0.0)


def load(path: Path) -> Experiment:
    """The `CONFIG` that an experiment's Python file exports."""
    if not path.is_file():
        raise UserError(f"experiment {path} does not exist; give a Python file that exports CONFIG")
    try:
        config = runpy.run_path(str(path)).get("CONFIG")
    except UserError:
        raise
    except Exception as error:
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        hint = _nearest(wrong[1]) if wrong else ""
        raise UserError(f"experiment {path} cannot be read: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(config, Experiment):
        raise UserError(f"{path} must export CONFIG, an Experiment; found {type(config).__name__}")
    return with_paths_from(config, path.parent)


def with_paths_from(config: Experiment, folder: Path) -> Experiment:
    """The same settings, with the paths of a task file and of a bundle, if they are relative, taken from `folder`: a run
    outlives the folder that it was started in."""
    files = {"task": config.task if config.task.endswith(".py") else None, "initial": config.initial}
    paths = {name: str((folder / file).resolve()) for name, file in files.items() if file is not None}
    return dataclasses.replace(config, **paths)


def to_share(config: Experiment) -> Experiment:
    """The same settings with `initial` by its name alone: elsewhere nobody needs to know in which folder it lay."""
    return config if config.initial is None else dataclasses.replace(config, initial=Path(config.initial).name)


def to_dict(config: Experiment) -> dict[str, Any]:
    """The settings as JSON holds them."""
    return dataclasses.asdict(config)


def flatten(config: Experiment) -> dict[str, Any]:
    """The settings by full name, as the command line spells them: {"vision.latent_size": 32, …}."""

    def walk(prefix: str, value: Any) -> typing.Iterator[tuple[str, Any]]:
        for name, inner in value.items():
            if isinstance(inner, dict):
                yield from walk(f"{prefix}{name}.", inner)
            else:
                yield f"{prefix}{name}", list(inner) if isinstance(inner, tuple) else inner

    return dict(walk("", to_dict(config)))


def from_dict(values: dict[str, Any], source: str) -> Experiment:
    """The experiment whose `to_dict` was stored in `source`. Raises `UserError` that names a wrong setting."""
    return _build(Experiment, values, source, "")


def _build(kind: Any, values: Any, source: str, prefix: str) -> Any:
    """The dataclass `kind` from a JSON object."""
    if not isinstance(values, dict):
        raise UserError(f"{source}: {prefix or 'the settings'} must be a group of settings, found {values!r}")
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise UserError(f"{source}: there is no setting {prefix}{name}{_nearest(name)}")
    built = {name: _value(hints[name], value, source, f"{prefix}{name}") for name, value in values.items()}
    try:
        return kind(**built)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _value(hint: Any, value: Any, source: str, name: str) -> Any:
    """A setting of type `hint` from JSON."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, source, f"{name}.")
    value = tuple(value) if isinstance(value, list) else value
    try:
        return check_type(value, hint)
    except TypeCheckError as error:
        raise UserError(f"{source}: {name} is {value!r}, which {error}") from None


def _nearest(name: str) -> str:
    """A hint at the setting that may have been meant."""
    known = {full.rsplit(".", 1)[-1]: full for full in flatten(Experiment())}
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {known[near[0]]}?" if near else ""
