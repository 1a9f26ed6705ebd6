"""Experiment: one frozen tree of all settings of a run."""

import dataclasses
import re
import runpy
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from typeguard import TypeCheckError, check_type

from wm_jax import formats, pretrained
from wm_jax.actors import ACTORS, ActorConfig
from wm_jax.actors.mlp import MLPConfig
from wm_jax.data.files import real, require_readable, sha256
from wm_jax.dream import ENDS, REWARDS, DreamConfig
from wm_jax.errors import UserError, require_choice, require_range, unreadable
from wm_jax.explore import EXPLORERS, ExplorerConfig
from wm_jax.explore.noise import NoiseConfig
from wm_jax.registry import PartConfig, Registry, load_parts
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search import SEARCHES, SearchConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig, TuneConfig
from wm_jax.search.none import NoSearchConfig
from wm_jax.worlds import WORLDS, WorldConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

REGISTRIES: dict[str, Registry[Any]] = {
    "world.kind": WORLDS,
    "actor.kind": ACTORS,
    "search.kind": SEARCHES,
    "tune.search.kind": SEARCHES,
    "explorer.kind": EXPLORERS,
    "dream.reward": REWARDS,
    "dream.end": ENDS,
}
"""The settings that name a registered part."""
CONTENTS, GONE = "sha256:", "a file that is gone"
"""Placeholders for a file where settings are compared: a prefix for its digest, and the value for a missing file."""
KIND = ".kind"
"""Suffix of the settings that choose a part; the part brings settings of its own."""


@dataclass(frozen=True)
class Experiment:
    """All settings of a run. The stages follow the paper: collect, train V, train M, evolve C in the dream, score in
    the actual environment."""

    name: str = "experiment"
    """Name of the run's folder, runs/NAME; --run-dir overrides it."""
    task: str = "car_racing"
    """A built-in task (car_racing, take_cover, swing_up, swing_up_dm, swing_up_planet), or a Python file that defines
    TASK."""
    parts: tuple[str, ...] = ()
    """Python files or installed modules that register your own parts: world models, actors, searches, explorers, rules
    of the dream."""
    seed: int = 0
    """Seed of all random numbers of the run."""
    held_out: float = 0.05
    """Share of the recorded episodes held out from the world model's training; reports show the losses on them."""
    mirror: bool = False
    """Whether to add the mirror image of every recorded episode to the data of V, M and the dream's starts. It doubles
    the data, and M learns both sides equally well; otherwise C may exploit the side that M models worse."""
    initial: str | None = None
    """A bundle of the same task, or the name of a shipped agent; the first round trains its world model further. None:
    random weights. A learner with `steps` 0 keeps the bundle's weights. Use another `seed` than the bundle's: the same
    seed would record the episodes that the bundle was trained on."""
    initial_learners: tuple[str, ...] = ()
    """The learners that start from the bundle's weights, such as vision or memory; empty: all."""
    initial_actor: bool = False
    """Whether the first round's search starts from the bundle's C, too, for example to tune it in the actual
    environment. It stays deployed if the search only makes it worse. The `actor` settings must be those of the
    bundle."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    explorer: ExplorerConfig = field(default_factory=NoiseConfig)
    """How C's actions are changed while it collects, in the rounds after the first."""
    world: WorldConfig = field(default_factory=VisionMemoryConfig)
    """The world model."""
    dream: DreamConfig = field(default_factory=DreamConfig)
    actor: ActorConfig = field(default_factory=MLPConfig)
    """C: the controller, its inputs and its architecture."""
    search: SearchConfig = field(default_factory=CMAESConfig)
    """The search for C's weights."""
    evolve: EvolveConfig = field(default_factory=EvolveConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    devices: int = 0
    """Devices to distribute the population and the batches over; 0: all. It changes only the last bits of results."""
    checkpoint_seconds: float = 60.0
    """Seconds between two checkpoints of a training or a search; each is saved at the next logged step. A killed run loses
    about this much work. Scores are saved in blocks of episodes. It changes no result."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs the extra `tensorboard`)."""

    @property
    def searched(self) -> bool:
        """Whether C has weights to search for."""
        return self.search.kind != NoSearchConfig.kind

    @property
    def searches(self) -> dict[str, EvolveConfig]:
        """The searches for C by stage: evolution, then tuning if it is enabled. The C of the last one is deployed."""
        return {"evolve": self.evolve} | ({"tune": self.tune.as_evolution} if self.tune.generations else {})

    @property
    def exploring(self) -> "Experiment | None":
        """The same experiment with the explorer's search in place of C's; None if the explorer has no controller of its
        own. That search runs in the dream, with another reward, and never validates in the actual environment."""
        goal = self.explorer.goal
        if goal is None:
            return None
        dream = dataclasses.replace(self.dream, reward=goal.reward, full_return=None)
        evolve = dataclasses.replace(
            self.evolve, fitness="dream", select="dream", actual_episodes=0, temperatures=(), seeds=1, max_steps=None,
            patience=None, generations=goal.generations,
        )  # fmt: skip
        return dataclasses.replace(
            self, dream=dream, evolve=evolve, rounds=dataclasses.replace(self.rounds, generations=0)
        )

    @property
    def views(self) -> int:
        """Copies of each recorded episode in the data: 2 with `mirror`, else 1."""
        return 1 + self.mirror

    def __post_init__(self) -> None:
        require_range("seed", self.seed, 0, 2**31 - 1)
        require_range("held_out", self.held_out, 0.0, 0.5)
        require_range("devices", self.devices, 0)
        require_range("checkpoint_seconds", self.checkpoint_seconds, 0.0)


def load(path: Path) -> Experiment:
    """The `CONFIG` that an experiment's Python file exports. Raises `UserError` if it is missing, has an unknown
    setting, or has a setting of the wrong type, and `ForeignError` if the file fails to run."""
    if not path.is_file():
        raise UserError(f"experiment {path} does not exist; give a Python file that exports CONFIG")
    require_readable(path)
    try:
        config = runpy.run_path(str(path)).get("CONFIG")
    except UserError as error:
        raise UserError(f"experiment {path}: {error}") from error
    except Exception as error:
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        hint = _nearest(wrong[1]) if wrong else ""
        if isinstance(error, ImportError) and "wm_jax" in str(error):
            hint = "; CHANGELOG.md lists moved parts and settings"
        told = unreadable(f"experiment {path}", error)
        raise UserError(f"{told}{hint}") if hint or wrong else told from error
    if not isinstance(config, Experiment):
        raise UserError(f"{path} must export CONFIG, an Experiment; found {type(config).__name__}")
    # Rebuild it as if read from a run's folder: Python itself does not check types.
    return with_paths_from(_build(Experiment, to_dict(config), f"experiment {path}", ""), path.parent)


def with_paths_from(config: Experiment, folder: Path) -> Experiment:
    """The same settings, with relative file paths resolved against `folder`: a run may be resumed from another
    folder."""

    def file(name: str) -> str:
        return str(real(folder / name)) if name.endswith(".py") else name

    initial = None if config.initial is None else str(real(pretrained.located(config.initial, folder)))
    return dataclasses.replace(config, task=file(config.task), initial=initial, parts=tuple(map(file, config.parts)))


def to_share(config: Experiment) -> Experiment:
    """The same settings with file names instead of paths: the author's folders mean nothing elsewhere."""
    initial = None if config.initial is None else Path(config.initial).name
    task = Path(config.task).name if config.task.endswith(".py") else config.task
    parts = tuple(Path(part).name if part.endswith(".py") else part for part in config.parts)
    return dataclasses.replace(config, task=task, initial=initial, parts=parts)


def to_dict(config: Experiment) -> dict[str, Any]:
    """The settings as a JSON-compatible dict."""
    return dataclasses.asdict(config)


def flatten(config: Experiment) -> dict[str, Any]:
    """The settings by full name, as on the command line: {"world.vision.latent_size": 32, …}."""

    def walk(prefix: str, value: Any) -> typing.Iterator[tuple[str, Any]]:
        for name, inner in value.items():
            if isinstance(inner, dict):
                yield from walk(f"{prefix}{name}.", inner)
            else:
                yield f"{prefix}{name}", list(inner) if isinstance(inner, tuple) else inner

    return dict(walk("", to_dict(config)))


def kinds(config: Experiment) -> dict[str, str]:
    """The kind of each part, by setting: {"world.kind": "vision_memory", …}."""
    return {name: value for name, value in flatten(config).items() if name.endswith(KIND)}


def with_kinds(config: Experiment, wanted: Mapping[str, str]) -> Experiment:
    """The same settings with parts of these kinds; a part whose kind changes gets its default settings."""
    for name, kind in wanted.items():
        *outer, group, _ = name.split(".")
        holder = getattr(config, outer[0]) if outer else config
        if getattr(holder, group).kind != kind:
            holder = dataclasses.replace(holder, **{group: REGISTRIES[name][kind]()})
            config = dataclasses.replace(config, **{outer[0]: holder}) if outer else holder
    return config


def digests(config: Experiment) -> dict[str, str]:
    """The SHA-256 of every file in the settings, by file name; a missing bundle is left out. Raises `UserError` if two
    files have the same name."""
    paths = [Path(file) for file in dict.fromkeys((config.task, *config.parts)) if file.endswith(".py")]
    for number, path in enumerate(paths):
        if twin := next((other for other in paths[:number] if other.name == path.name), None):
            raise UserError(f"task and parts name two files called {path.name}, {twin} and {path}; other commands "
                            "could not tell them apart; rename one")  # fmt: skip
    if config.initial is not None and Path(config.initial).is_file():
        paths.append(Path(config.initial))
    return {path.name: _digest(path) for path in paths}


def identity(config: Experiment) -> dict[str, Any]:
    """The settings by full name (`flatten`), with files identified by content instead of path. A part that a user's
    file registers is identified by that file's content too. Raises `UserError` if a file is missing, except for a
    bundle, which is not needed once the run has started."""
    values = flatten(config)
    if config.task.endswith(".py"):
        values["task"] = f"{CONTENTS}{_digest(Path(config.task))}"
    if config.initial is not None:
        path = Path(config.initial)
        values["initial"] = f"{CONTENTS}{_digest(path)}" if path.is_file() else GONE
    for name, registry in REGISTRIES.items():
        digest = registry.digest(values[name])
        values[name] = values[name] if digest is None else f"{values[name]}, {CONTENTS}{digest}"
    return values


def _digest(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the file's path by --task or --parts")
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _digest_of(path: Path, modified: int, size: int) -> str:
    """Cached while the file is unchanged: a run asks many times."""
    return sha256(path)


def from_dict(values: dict[str, Any], source: str, found: int = formats.FORMAT) -> Experiment:
    """The experiment whose `to_dict` was stored in `source`, in the format `found`; loads its `parts`. Raises
    `UserError` that names a wrong setting."""
    if not isinstance(values, dict):
        raise UserError(f"{source}: the settings must be a group of settings, found {values!r}")
    values = formats.upgrade_config(values) if found == 1 else values
    parts = values.get("parts", ())
    for part in parts if isinstance(parts, list | tuple) else ():
        load_parts(part)
    return _build(Experiment, values, source, "")


def _build(kind: Any, values: Any, source: str, prefix: str) -> Any:
    """The dataclass `kind` from a JSON object."""
    if not isinstance(values, dict):
        raise UserError(f"{source}: {prefix or 'the settings'} must be a group of settings, found {values!r}")
    if issubclass(kind, PartConfig):
        name = values.get("kind", DEFAULTS[prefix])
        require_choice(f"{source}: {prefix}kind", name, kind.registry.names())
        kind = kind.registry[name]
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise UserError(f"{source}: there is no setting {prefix}{name}{_nearest(name)}")
    built = {name: _value(hints[name], value, source, f"{prefix}{name}") for name, value in values.items()}
    try:
        return kind(**built)
    except UserError as error:
        raise UserError(f"{source}: {in_full(str(error), [prefix + name for name in hints])}") from None


def in_full(message: str, names: Sequence[str]) -> str:
    """`message` with the full name of the setting that it begins with, chosen from `names`. A part does not know its
    place: its search.population can be tune.search.population."""
    name, _, rest = message.partition(" ")
    longer = [full for full in names if full.endswith(f".{name}")]
    return f"{longer[0]} {rest}" if longer and name not in names else message


def _value(hint: Any, value: Any, source: str, name: str) -> Any:
    """A setting of type `hint` from JSON."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, source, f"{name}.")
    value = tuple(value) if isinstance(value, list) else value
    try:
        return check_type(value, hint)
    except TypeCheckError as error:
        raise UserError(f"{source}: {name} is {value!r}: {error}") from None


DEFAULTS = {name.removesuffix("kind"): value for name, value in kinds(Experiment()).items()}
"""The default kind of each part: {"world.": "vision_memory", …}."""


def _nearest(name: str) -> str:
    """A hint at the setting that was probably meant."""
    known = {full.rsplit(".", 1)[-1]: full for full in flatten(Experiment())}
    groups = {old.rstrip("."): new.rstrip(".") for old, new in formats.RENAMED.items()}
    if name in groups or name in {old.rsplit(".", 1)[-1] for old in groups}:
        new = groups.get(name) or next(new for old, new in groups.items() if old.rsplit(".", 1)[-1] == name)
        return f"; it is now called {new} (CHANGELOG.md)"
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {known[near[0]]}?" if near else ""
