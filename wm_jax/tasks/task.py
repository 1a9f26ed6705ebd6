"""The description of an environment (`Task`), which every other package reads.

To add an environment, write one file that defines `TASK`: beside the built-in ones, or anywhere, given by its path.
"""

import os
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium
import numpy as np

from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.extras import need
from wm_jax.tasks.calls import FRAME_SHAPE, checked_action, own, wrong

if TYPE_CHECKING:
    from wm_jax.envs import JaxEnvironment

INTERNAL = ("task", "calls")
"""Modules of this folder that are not tasks."""

Act = Callable[[int, np.ndarray], np.ndarray]
"""(step number, uint8 frame of `FRAME_SHAPE`) → action [A] float32 in [-1, 1]."""
ScriptedPolicy = Callable[[np.random.Generator], Act]
"""Makes a policy for one episode, from the episode's own generator."""


@dataclass(frozen=True)
class PolicySettings:
    """Settings of scripted policies; each policy reads those that concern it."""

    max_holds: tuple[int, ...] = (10,)
    """`held` and `wander` hold an action for 1 to n steps; n is drawn from these once for each episode."""
    sweep_steps: int = 100
    """`sweep` goes right and left alternately, for this many steps each."""

    def __post_init__(self) -> None:
        if not self.max_holds:
            raise UserError("collect.max_holds must name at least one number of steps, found none")
        for steps in self.max_holds:
            require_range("collect.max_holds", steps, 1)
        require_range("collect.sweep_steps", self.sweep_steps, 1)


class Pool(Protocol):
    """Many episodes, stepped by one call in threads. Episode i uses the i-th of the seeds that the pool was made with.
    Observations, rewards and actions are the bare environment's, with the episodes along the first axis."""

    def reset(self, episodes: np.ndarray) -> np.ndarray:
        """Start these episodes [n]; returns their first observations [n, ...]."""
        ...

    def send(self, actions: np.ndarray, episodes: np.ndarray) -> None:
        """Step these episodes [n] with `actions` [n, ...]; returns at once."""
        ...

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The results: (observations [n, ...], rewards [n], terminated [n], truncated [n]), in the order sent."""
        ...


CONTROLS = ("rest", "left", "right", "up", "down")
"""The names of `Task.controls`."""


@dataclass(frozen=True)
class Task:
    """An environment as seen by V, M and C."""

    name: str
    """The task's name. Weights trained on a task of another name are refused."""
    action_size: int
    """A: how many numbers in [-1, 1] C outputs and M receives."""
    max_steps: int
    """Steps after which an episode is cut off (truncated)."""
    backends: Mapping[str, Callable[[], gymnasium.Env]] = field(default_factory=dict)
    """Makers of the bare environment, by name. The first one is the reference, on which scores are measured. A maker
    raises `UserError` if its package is not installed."""
    jax_backends: Mapping[str, "Callable[[], JaxEnvironment]"] = field(default_factory=dict)
    """Makers of environments in JAX, by name, besides or instead of `backends`; they rank after `backends`. Their
    episodes are played on the device. Import the environment inside the maker, because worker processes have no JAX."""
    frame: Callable[[Any], np.ndarray] = lambda observation: observation
    """Observation → uint8 frame of `FRAME_SHAPE`: crop, then resize by area. A JAX environment draws the frame
    itself."""
    environment_action: Callable[[np.ndarray], Any] = lambda action: action
    """Action [A] → the argument of the environment's `step`. A JAX environment receives the action itself."""
    policies: Mapping[str, Callable[[np.random.Generator, PolicySettings], Act]] = field(default_factory=dict)
    """Policies that are not learned, by name, for the first collection and for baselines; one must be called `random`.
    A JAX environment has its own (`JaxEnvironment.scripts`)."""
    pools: Mapping[str, Callable[[Sequence[int]], Pool]] = field(default_factory=dict)
    """Makers of pools, from the seeds of their episodes, by the names of those backends that have pools. A maker raises
    `UserError` if its package is not installed."""
    actions: tuple[tuple[float, ...], ...] = ()
    """Discrete actions, each of A numbers, for actors that choose an action by number. Empty: the task has none."""
    reward_range: tuple[float, float] = (float("-inf"), float("inf"))
    """M learns rewards clipped to this range: rare huge ones (a lap's penalty) would dominate the rest. With
    `world.memory.reward_loss` poisson, jumps are counted from its lower end."""
    mirror: tuple[float, ...] | None = None
    """[A]: factors for the numbers of an action if left and right are exchanged. None if the mirror image of an episode
    is not a possible episode."""
    controls: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Actions [A] for a visitor who drives, by name: `rest`, with no key held, and any of left, right, up and down. If
    several keys are held, their differences from `rest` are added. Empty: left and right change the first number, up
    and down the second."""
    frames_per_second: int = 50
    """Steps in one second of the environment's own time: the speed at which films play."""
    typical_length: int = 1000
    """Average steps of an episode of the first collection; used only to estimate a run's cost."""
    typical_frame_bytes: int = 5000
    """Average bytes of a recorded frame on disk; used only to estimate a run's cost."""

    def __post_init__(self) -> None:
        low, high = self.reward_range
        for name, fits, expected in (
            ("name", isinstance(self.name, str) and self.name, "a word"),
            ("action_size", _is_whole(self.action_size), "a whole number, 1 at least"),
            ("max_steps", _is_whole(self.max_steps), "a whole number, 1 at least"),
            ("backends", self.backends or self.jax_backends, "at least one maker of an environment, by name"),
            ("policies", "random" in self.policies or not self.backends, "policies by name, one of them `random`"),
            (
                "jax_backends",
                not set(self.jax_backends) & set(self.backends),
                "functions by other names than `backends`",
            ),
            ("jax_backends", all(map(callable, self.jax_backends.values())), "functions by name"),
            ("pools", set(self.pools) <= set(self.backends), f"by the names of backends ({', '.join(self.backends)})"),
            ("frame", callable(self.frame), "a function"),
            ("environment_action", callable(self.environment_action), "a function"),
            ("backends", all(map(callable, self.backends.values())), "functions by name"),
            ("policies", all(map(callable, self.policies.values())), "functions by name"),
            ("pools", all(map(callable, self.pools.values())), "functions by name"),
            ("reward_range", low < high, "(lower end, higher end)"),
            ("frames_per_second", self.frames_per_second > 0, "a number above 0"),
            ("typical_length", self.typical_length > 0, "a number above 0"),
            ("typical_frame_bytes", self.typical_frame_bytes > 0, "a number above 0"),
        ):
            if not fits:
                raise UserError(f"the task {self.name}: {name} must be {expected}, found {getattr(self, name)!r}")
        fits = all(len(action) == self.action_size for action in self.controls.values())
        if self.controls and not (fits and {"rest"} <= self.controls.keys() <= set(CONTROLS)):
            raise UserError(f"the task {self.name}: controls must be actions of {self.action_size} numbers, `rest` and "
                            f"any of {', '.join(CONTROLS[1:])}; found {dict(self.controls)}")  # fmt: skip
        for action in self.actions:
            if len(action) != self.action_size or not all(-1 <= number <= 1 for number in action):
                raise UserError(f"the task {self.name}: actions must be of {self.action_size} numbers from -1 to 1, found "
                                f"{action}")  # fmt: skip
        if self.mirror is not None and len(self.mirror) != self.action_size:
            raise UserError(f"the task {self.name} has actions of {self.action_size} numbers but its mirror has "
                            f"{len(self.mirror)}: {self.mirror}; give one factor for each")  # fmt: skip

    def name_of(self, function: str) -> str:
        """The name of one of the task's own functions in error messages."""
        return f"the task {self.name}: {function}"

    @property
    def all_controls(self) -> dict[str, tuple[float, ...]]:
        """`controls`, or the default controls if there are none."""
        if self.controls:
            return dict(self.controls)
        rest = (0.0,) * self.action_size
        ends = {"left": (0, -1.0), "right": (0, 1.0), "up": (1, 1.0), "down": (1, -1.0)}
        keys = {name: (*rest[:i], end, *rest[i + 1 :]) for name, (i, end) in ends.items() if i < self.action_size}
        return {"rest": rest, **keys}

    @property
    def backend_names(self) -> list[str]:
        """All backends; the reference comes first."""
        return [*self.backends, *self.jax_backends]

    def environment(self, backend: str | None = None) -> "JaxEnvironment | None":
        """The JAX environment of a backend (default: the reference); None if the backend is not in JAX. Raises
        `UserError` if its actions have another size than the task's, or if it has no script called `random`."""
        backend = backend or self.backend_names[0]
        require_choice("backend", backend, self.backend_names)
        if backend not in self.jax_backends:
            return None
        told = self.name_of(f"jax_backends[{backend!r}]")
        environment = own(told, self.jax_backends[backend])()
        if environment.action_size != self.action_size:
            wrong(told, f"an environment with actions of {self.action_size} numbers", environment.action_size)
        if "random" not in environment.scripts:
            wrong(told, "an environment with scripts by name, one of them `random`", list(environment.scripts))
        return environment

    def make(self, backend: str | None = None) -> gymnasium.Env:
        """The bare environment of a backend (default: the reference). A JAX environment's observation is its frame."""
        environment = self.environment(backend)
        if environment is not None:
            from wm_jax.envs.gymnasium_face import JaxEnv

            return JaxEnv(environment, self.frames_per_second, pictures=True)
        backend = backend or self.backend_names[0]
        return own(self.name_of(f"backends[{backend!r}]"), self.backends[backend])()

    @property
    def policy_names(self) -> list[str]:
        """Names of all policies."""
        environment = self.environment()
        return list(self.policies if environment is None else environment.scripts)

    def policy(self, name: str, settings: PolicySettings = PolicySettings()) -> ScriptedPolicy:
        """The policy of that name; every action is checked. Raises `UserError` if the task has no such policy."""
        require_choice(f"policy of {self.name}", name, self.policy_names)
        environment = self.environment()
        what = self.name_of(f"policies[{name!r}]")
        if environment is None:
            draw = own(what, self.policies[name])
        else:
            from wm_jax.envs.scripts import on_host

            draw = on_host(environment, name)

        def drawn(generator: np.random.Generator) -> Act:
            act = own(what, draw(generator, settings))
            return lambda step, frame: checked_action(what, act(step, frame), self.action_size)

        return drawn


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and bool(number >= 1)


@cache
def _pygame() -> Any:
    """pygame, imported when the first picture is resized: dreams do not need it."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    return need("pygame", "games")


def resize(image: np.ndarray) -> np.ndarray:
    """Resize uint8 [height, width, 3 or 4] (RGB, RGBA) to `FRAME_SHAPE` by area averages; four channels are faster.

    Each value is within 2 of the exact mean over the pixel's area.
    """
    height, width, channels = image.shape
    pygame = _pygame()
    pixels = np.ascontiguousarray(image).data
    surface = pygame.image.frombuffer(pixels, (width, height), "RGB" if channels == 3 else "RGBA")
    small = pygame.transform.smoothscale(surface, (FRAME_SHAPE[1], FRAME_SHAPE[0]))
    frame = np.frombuffer(pygame.image.tobytes(small, "RGB"), np.uint8).reshape(FRAME_SHAPE)
    # pygame's fixed-point sums are truncated, once for each direction in which it shrinks: 255 becomes 253.
    return frame + np.uint8((height > FRAME_SHAPE[0]) + (width > FRAME_SHAPE[1]))


def load_task(name: str) -> Task:
    """The task of that name, or the `TASK` of the Python file at that path.

    Raises `UserError` if there is no such task or file, if the file has a syntax error, or if it defines no TASK;
    `ForeignError` if its code fails.
    """
    if name.endswith(".py"):
        task = _run(Path(name)).get("TASK")
    else:
        names = [module.name for module in iter_modules([str(Path(__file__).parent)]) if module.name not in INTERNAL]
        require_choice("task", name, sorted(names))
        module = own(f"the task's module {name}", partial(import_module, f"wm_jax.tasks.{name}"))()
        task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        raise UserError(f"{name} must define TASK, a wm_jax.tasks.Task; found {type(task).__name__}")
    return task


def _run(path: Path) -> dict[str, Any]:
    """The definitions of the user's file."""
    if not path.is_file():
        raise UserError(f"task file {path} does not exist; give a path to a Python file that defines TASK")
    try:
        compile(path.read_bytes(), path, "exec")
    except OSError as error:
        raise UserError(f"task file {path} cannot be read: {error.strerror}; check its permissions") from error
    except (SyntaxError, ValueError) as error:
        raise UserError(f"task file {path} cannot be run: {type(error).__name__}: {error}") from error
    return own(f"task file {path}", runpy.run_path)(str(path))
