"""Play episodes of a JAX environment on the device: each compiled call scans many steps of all lanes, with the
environment, its rendering, the world model and the actor inside.

Lanes are computed in groups of the same size, whatever their number, so that on a CPU an episode is the same to the last
bit however many are played. Planners have smaller groups: a lane without an episode costs as much as the others.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.stages import Traced

from wm_jax.envs import JaxEnvironment, Script
from wm_jax.envs.gymnasium_face import seed_of
from wm_jax.envs.protocol import CHANCE
from wm_jax.errors import UserError
from wm_jax.lanes import PLANNING, choose, in_call
from wm_jax.rollouts.limits import Limits
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.tasks.calls import LIMIT, own
from wm_jax.types import Action, Array, Key

TOGETHER = 16
"""Lanes per group; planners have groups of `PLANNING`."""
STEPS = 50
"""Most steps per compiled call; after each call the host checks which lanes are over and whether to stop."""


class CompiledPolicy(ABC):
    """Acts in a compiled scan. Hashable; its weights are passed separately."""

    sees: bool
    """Whether it needs frames."""

    @property
    def planned_steps(self) -> float:
        """StepResults that it dreams for each step of an episode."""
        return 0.0

    @abstractmethod
    def begin(self, weights: Any, rows: Array, seeds: Array) -> Any:
        """The state [B, ...] before the first step of episodes with these `seeds` [B] and controllers `rows` [B]."""

    @abstractmethod
    def act(self, weights: Any, state: Any, frames: Array | None, observations: Array) -> tuple[Any, Action]:
        """The next state [B, ...] and actions [B, A], from frames [B, 64, 64, 3] and the environment's observations [B,
        F]."""


@struct.dataclass
class ScriptState:
    """State of a script in [B] episodes."""

    carry: Any
    seed: Array
    step: Array


def _script_key(seed: Array, step: Array | int) -> Key:
    """A script's key after this many steps, 0 for the first frame; distinct from the keys of environment and agent."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**32 - 1), step)


def _own(part: JaxEnvironment | Script, method: str) -> Callable[..., Any]:
    """A method of a user's part; if it raises while it is traced, the error names it."""
    return own(f"{method} of {type(part).__qualname__}", getattr(part, method))


@dataclass(frozen=True)
class ScriptPolicy(CompiledPolicy):
    """An environment's script as a policy."""

    script: Script
    sees = False

    def begin(self, weights: None, rows: Array, seeds: Array) -> ScriptState:
        """The script's first state, each lane with its own key."""
        first = _own(self.script, "begin")
        carry = jax.vmap(lambda seed: first(_script_key(seed, 0)))(seeds)
        return ScriptState(carry, seeds, jnp.zeros_like(seeds, jnp.int32))

    def act(
        self, weights: None, state: ScriptState, frames: Array | None, observations: Array
    ) -> tuple[ScriptState, Action]:
        """The script's actions."""
        step = state.step + 1
        keys = jax.vmap(_script_key)(state.seed, step)
        action, carry = jax.vmap(_own(self.script, "act"))(state.carry, observations, keys)
        return ScriptState(carry, state.seed, step), action


class DeviceDriver(ABC):
    """Drives episodes on the device."""

    name: str
    """Name of the source of the actions, for error messages."""

    @abstractmethod
    def compiled(self) -> tuple[CompiledPolicy, Any]:
        """The policy and its weights."""


class ScriptDriver(DeviceDriver):
    """A driver with an environment's script."""

    name = "a scripted policy"

    def __init__(self, script: Script):
        self.script = script

    def compiled(self) -> tuple[CompiledPolicy, Any]:
        """The script; it has no weights."""
        return ScriptPolicy(self.script), None


@struct.dataclass
class LaneState:
    """State of [G, B] lanes, in groups of B."""

    environment: Any
    observation: Array
    """[..., F]"""
    policy: Any
    seed: Array
    """[...] uint32"""
    step: Array
    """[...] int32: steps done."""
    idle: Array
    """[...] int32: steps in a row without a positive reward."""
    over: Array
    """[...] bool"""


@struct.dataclass
class StepResults:
    """Results of steps of all lanes, [G, T, B, ...]; meaningless for lanes that are over."""

    reward: Array
    over: Array
    """After the step."""
    terminated: Array
    action: Action
    measures: dict[str, Array]
    """Measures of the state after the step (`JaxEnvironment.measures`)."""
    frame: Array | None
    """Before the step; None if not recorded."""


def key_seed(seed: int) -> int:
    """The seed in [0, 2³¹) of the keys of an episode with environment seed `seed`, as in the Gymnasium wrapper."""
    return seed_of(np.random.default_rng(seed))


def chance(seed: Array, step: Array) -> Key:
    """The environment's key after this many steps, in an episode with this `key_seed`."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), CHANCE)


def _in_groups(function: Callable[[Any], Any], arguments: Any) -> Any:
    """Apply `function` to each group of `arguments` [G, ...]: one after the other on a CPU, so that a group fits in its
    cache; elsewhere all at once."""
    return jax.lax.platform_dependent(
        arguments, cpu=lambda arguments: jax.lax.map(function, arguments), default=jax.vmap(function)
    )


@partial(jax.jit, static_argnames=("environment", "policy"))
def _begin(
    environment: JaxEnvironment, policy: CompiledPolicy, weights: Any, rows: Array, seeds: Array, over: Array
) -> LaneState:
    """Lanes [G, B] on the first frame of their episodes; lanes without an episode are `over`."""

    def begin(group: tuple[Array, Array, Array]) -> LaneState:
        rows, seeds, over = group
        reset = _own(environment, "reset")
        state, observation = jax.vmap(lambda seed: reset(chance(seed, jnp.int32(0))))(seeds)
        none = jnp.zeros_like(rows)
        return LaneState(state, observation, policy.begin(weights, rows, seeds), seeds, none, none, over)

    return _in_groups(begin, (rows, seeds, over))


@partial(jax.jit, static_argnames=("environment", "policy", "limits", "steps", "record"), donate_argnames="state")
def _advance(
    environment: JaxEnvironment,
    policy: CompiledPolicy,
    weights: Any,
    state: LaneState,
    limits: Limits,
    steps: int,
    record: bool,
) -> tuple[LaneState, StepResults]:
    """Run `steps` steps of all lanes."""

    def step(state: LaneState, _: None) -> tuple[LaneState, StepResults]:
        frames = jax.vmap(_own(environment, "frame"))(state.environment) if record or policy.sees else None
        acting, action = policy.act(weights, state.policy, frames, state.observation)
        keys = jax.vmap(chance)(state.seed, state.step + 1)
        following, observation, reward, terminated, truncated = jax.vmap(_own(environment, "step"))(
            state.environment, action, keys
        )
        done = state.step + 1
        idle = jnp.where(reward > 0, 0, state.idle + 1)
        if limits.max_steps is not None:
            truncated |= done >= limits.max_steps
        if limits.patience is not None:
            truncated |= idle >= limits.patience
        # If both happen in one step it counts as truncated, as in every other backend (`rollouts.lanes.TaskEnv`).
        ends = terminated | truncated
        new = LaneState(following, observation, acting, state.seed, done, idle, ends)
        new = choose(state.over, state, new)
        measures = jax.vmap(_own(environment, "measures"))(following)
        return new, StepResults(reward, new.over, terminated & ~truncated, action, measures, frames if record else None)

    return _in_groups(lambda group: jax.lax.scan(step, group, None, steps), state)


@dataclass
class PlayResults:
    """Results of episodes so far, by lane."""

    rewards: list[np.ndarray]
    """[B, T] for each call."""
    frames: list[np.ndarray]
    """[B, T, 64, 64, 3] uint8 for each call; empty if not recorded."""
    actions: list[np.ndarray]
    """[B, T, A] for each call; empty if not recorded."""
    terminated: np.ndarray
    """[B]"""
    length: np.ndarray
    """[B]: steps so far."""
    over: np.ndarray
    """[B]"""
    measures: dict[str, np.ndarray]
    """[B] each: sums over the steps so far."""


def play(
    environment: JaxEnvironment, driver: DeviceDriver, episodes: Sequence[tuple[int, int]], max_steps: int,
    patience: int | None, record: bool, tick: Callable[[PlayResults], None],
) -> PlayResults:  # fmt: skip
    """Play episodes (environment seed, row of the controller), all side by side, truncated after `max_steps` or by
    `Limits.patience`. `tick` is called with the results so far after every compiled call; an exception from it stops
    the play.

    Raises `UserError` if an action is outside [-1, 1] or a reward is not finite.
    """
    policy, weights = driver.compiled()
    count = len(episodes)
    shape = _shape(policy, count)
    padded = [*episodes, *[episodes[-1]] * (math.prod(shape) - count)]
    seeds = np.array([key_seed(seed) for seed, _ in padded], np.uint32)
    rows = np.array([row for _, row in padded], np.int32)
    over = np.arange(len(padded)) >= count
    state = _begin(environment, policy, weights, *(array.reshape(shape) for array in (rows, seeds, over)))
    results = PlayResults([], [], [], np.zeros(count, bool), np.zeros(count, int), np.zeros(count, bool), {})
    # The last call may exceed `max_steps`: lanes that are over do not change, and no shorter call need be compiled.
    steps, limits = _steps(policy, len(padded), max_steps), Limits(max_steps, patience)
    for first in range(0, max_steps, steps):
        state, found = _advance(environment, policy, weights, state, limits, steps, record)
        _add(results, jax.device_get(found), driver.name, [seed for seed, _ in episodes], first)
        tick(results)
        if results.over.all():
            break
    return results


def _add(results: PlayResults, found: StepResults, name: str, seeds: Sequence[int], first: int) -> None:
    """Add the results of steps, which begin with step `first`."""

    def by_lane(array: np.ndarray) -> np.ndarray:
        """[G, T, B, ...] → [L, T, ...]"""
        lanes = np.moveaxis(array, 2, 1)
        return lanes.reshape(-1, *lanes.shape[2:])[: len(seeds)]

    outcome = found.reward, found.over, found.terminated, found.action
    reward, over, terminated, action = (by_lane(np.asarray(array)) for array in outcome)
    alive = np.concatenate([~results.over[:, None], ~over[:, :-1]], axis=1)
    _check(name, seeds, first, alive, reward, action)
    results.terminated |= (terminated & alive).any(axis=1)
    results.length += alive.sum(axis=1)
    results.over = over[:, -1]
    results.rewards.append(reward)
    for measure, array in found.measures.items():
        summed = (by_lane(np.asarray(array)) * alive).sum(axis=1)
        results.measures[measure] = results.measures.get(measure, 0) + summed
    if found.frame is not None:
        results.frames.append(by_lane(np.asarray(found.frame)))
        results.actions.append(action)


def _check(
    name: str, seeds: Sequence[int], first: int, alive: np.ndarray, reward: np.ndarray, action: np.ndarray
) -> None:
    """Raise `UserError` if an action is outside [-1, 1] or a reward is not finite in a step that is `alive` [B, T]."""
    for what, found, right in (
        (f"{name} must return numbers from -1 to 1", action, (np.abs(action) <= LIMIT).all(axis=-1)),
        ("step of the environment must return a finite reward", reward, np.isfinite(reward)),
    ):
        lanes, steps = np.nonzero(~right & alive)
        if len(lanes):
            raise UserError(f"{what}, found {found[lanes[0], steps[0]]} in step {first + steps[0]} of the episode of seed "
                            f"{seeds[lanes[0]]}")  # fmt: skip


def trace(
    environment: JaxEnvironment,
    policy: CompiledPolicy,
    weights: Any,
    lanes: int,
    max_steps: int,
    lay: Callable[[Any], Any],
) -> Traced:
    """A recording call of `play` with this many lanes, traced for `weights` of these shapes; `lay` assigns shapes to
    devices."""
    shape = _shape(policy, lanes)
    rows, seeds, over = (jax.ShapeDtypeStruct(shape, kind) for kind in (jnp.int32, jnp.uint32, jnp.bool_))
    state = jax.eval_shape(partial(_begin, environment, policy), weights, rows, seeds, over)
    steps = _steps(policy, math.prod(shape), max_steps)
    return _advance.trace(environment, policy, *lay((weights, state)), Limits(max_steps), steps, True)


def _shape(policy: CompiledPolicy, lanes: int) -> tuple[int, int]:
    """(G, B): groups, and lanes per group, for at least this many lanes."""
    size = PLANNING if policy.planned_steps else TOGETHER
    return -(-lanes // size), size


def _steps(policy: CompiledPolicy, lanes: int, max_steps: int) -> int:
    """StepResults per compiled call."""
    return in_call(min(STEPS, max_steps), lanes * policy.planned_steps)


def check_frame(environment: JaxEnvironment, name: str) -> None:
    """Raise `UserError` unless the environment renders frames in V's format."""
    frame = jax.eval_shape(
        lambda seed: _own(environment, "frame")(_own(environment, "reset")(chance(seed, jnp.int32(0)))[0]),
        jnp.uint32(0),
    )
    if frame.shape != FRAME_SHAPE or frame.dtype != jnp.uint8:
        raise UserError(f"{name}: frame must return uint8 {list(FRAME_SHAPE)}, found {frame.dtype} {list(frame.shape)}")
