"""Many dreams at once: every candidate of a population plays the same R dreams, in one compiled call.

The dreams share their random numbers: rollout r starts on the same frame and has the same noise for each candidate, so
that differences in return come from the candidates. It also makes the noise P times cheaper.

A lane is one dream of one candidate. Lanes advance together in blocks, several steps at a time; then finished dreams
are left out, so that the work follows the number of running dreams and not the longest one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.custom_batching import custom_vmap
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wm_jax import parallel
from wm_jax.dream.environment import Dream, DreamNoise, DreamState
from wm_jax.lanes import many, shares
from wm_jax.parallel import AXIS
from wm_jax.types import Action, Array, Key, Params, Population, Returns, State
from wm_jax.worlds import Actor, World

STEPS_BETWEEN_LOOKS = 32
"""Dream steps between two checks for running dreams; on an accelerator each check waits for the host."""
CPU_BLOCKS = (1024, 128, 32)
"""Lanes that advance together on a CPU: as many large blocks as the running dreams fill, for fast products, and smaller
ones for the rest, to skip finished dreams. Each is a multiple of the next."""
STEPS_UNROLLED = 8
"""Steps unrolled on an accelerator, where each kernel has a launch cost: counter and bookkeeping then take one kernel
for all of these steps."""
ACCELERATOR_BLOCKS = (4096,)
"""On an accelerator a thousand lanes take hardly longer than one: up to this many stay together until all of their
dreams are over; only larger numbers are compacted."""


@struct.dataclass
class DreamScores:
    """Results of each candidate's dreams."""

    returns: Array
    """[P, R] float32: sum of rewards up to the end of the dream."""
    lengths: Array
    """[P, R] int32: steps until the dream ended or was truncated, including the last."""


@struct.dataclass
class Trajectory:
    """One dream played for T steps from its start, whether or not it ended."""

    state: State
    """[T, ...]: state of the world model before each step."""
    action: Action
    """[T, A]"""
    reward: Array
    """[T]"""
    terminated: Array
    """[T] bool: the dream ends with this step (`wm_jax.dream.environment`)."""


@struct.dataclass
class _Players:
    """P candidates and S starts for the lanes."""

    weights: Population
    """[P, ...]"""
    temperature: Array
    """[P]: temperature of the candidate's dreams."""
    start: DreamState
    """[S, ...]"""
    noise_key: Key
    """[S]: the random numbers of step t follow from `fold_in(noise_key, t)`."""


@struct.dataclass
class _Numbers:
    """Random numbers of a step."""

    dream: DreamNoise
    actor: Key


@struct.dataclass
class _Lanes:
    """L dreams, one candidate on one start each."""

    candidate: Array
    """[L] int32: index among P."""
    start: Array
    """[L] int32: index among S."""
    alive: Array
    """[L] bool"""
    state: DreamState
    """[L, ...]"""
    carry: Any
    """[L, ...]: carry of the actor."""
    scores: DreamScores
    """[L]: so far."""


def _begin(dream: Dream, starts: State, key: Key) -> tuple[DreamState, Key]:
    """The start state of a rollout with this key, and the key that the random numbers of its steps are folded from."""
    reset_key, noise_key = jax.random.split(key)
    return dream.reset(starts, reset_key), noise_key


def _numbers(dream: Dream, key: Key, step: Array) -> _Numbers:
    """The random numbers of a step, in a dream with this key."""
    dream_key, actor_key = jax.random.split(jax.random.fold_in(key, step))
    return _Numbers(dream.noise(dream_key), actor_key)


@partial(jax.jit, static_argnames=("dream", "actor", "rollouts", "mesh"))
def population_returns(
    dream: Dream,
    actor: Actor,
    params: Params,
    starts: State,
    population: Population,
    key: Key,
    *,
    rollouts: int,
    first: Array | int = 0,
    temperature: Array | float | None = None,
    mesh: Mesh | None = None,
) -> DreamScores:
    """Play `rollouts` dreams, counted from number `first` [], with each candidate of `population` [P, ...]: scores [P,
    R]. `params`: weights of the world model; `starts` [S, ...]: states that dreams start in.

    Returns when all dreams are over, at the latest at the horizon. Rollout r has the key `fold_in(key, r)`.
    `temperature` [] overrides the dream's setting without recompiling. The lanes are distributed over the devices of
    `mesh`.

    `jax.vmap` over population, key or temperature plays the dreams of all evolutions side by side as lanes of one loop,
    and none waits for the others; over the world model's weights it plays one model after the other.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(rollouts, dtype=jnp.int32))
    begun, noise_keys = jax.vmap(partial(_begin, dream, starts))(keys)
    # Without weights there is only one candidate.
    size = max((len(leaf) for leaf in jax.tree.leaves(population)), default=1)
    tau = jnp.full(size, dream.config.temperature if temperature is None else temperature, jnp.float32)
    players = _Players(population, tau, begun, noise_keys)
    # Ordered by rollout: each device's equal part then has good and bad candidates.
    number = jnp.arange(rollouts * size, dtype=jnp.int32)
    play = custom_vmap(partial(_play_on_mesh, dream, actor, mesh))
    play.def_vmap(partial(_play_side_by_side, play))
    scores = play(dream.prepare(params), players, number % size, number // size)
    return jax.tree.map(lambda array: array.reshape(rollouts, size).T, scores)


def _play_side_by_side(
    play: Callable[..., DreamScores], count: int, batched: Any, *arguments: Any
) -> tuple[DreamScores, Any]:
    """The `jax.vmap` rule of `play` for E evolutions: one `play` with E times the candidates, starts and lanes."""
    if any(jax.tree.leaves(batched[0])):

        def alone(e: Array) -> DreamScores:
            own = jax.tree.map(lambda array, many: array[e] if many else array, arguments, tuple(batched))
            params, players, *lanes = own
            # All evolutions may share the random numbers.
            return play(params, players.replace(noise_key=jax.random.clone(players.noise_key)), *lanes)

        scores = jax.lax.map(alone, jnp.arange(count, dtype=jnp.int32))
        return scores, jax.tree.map(lambda _: True, scores)
    params, *rest = arguments
    players, candidate, start = jax.tree.map(
        lambda array, many: array if many else jnp.broadcast_to(array, (count, *array.shape)), rest, batched[1:]
    )
    evolution = jnp.arange(count, dtype=jnp.int32)[:, None]
    candidate += evolution * players.temperature.shape[1]
    start += evolution * players.noise_key.shape[1]
    players = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), players)
    # Interleaved by lane, not ordered by evolution, so that no device gets only the evolution with the longest dreams.
    scores = play(params, players, candidate.T.reshape(-1), start.T.reshape(-1))
    scores = jax.tree.map(lambda array: array.reshape(-1, count).T, scores)
    return scores, jax.tree.map(lambda _: True, scores)


def _play_on_mesh(
    dream: Dream, actor: Actor, mesh: Mesh | None, params: Params, players: _Players, candidate: Array, start: Array
) -> DreamScores:
    """The scores [L] of the lanes `candidate` [L] on `start` [L], distributed equally over the devices."""
    devices = 1 if mesh is None else mesh.size
    count = len(candidate)
    each = math.ceil(count / devices)
    platform = parallel.platform(mesh)
    blocks, unroll = blocks_of(each, platform), 1 if platform == "cpu" else STEPS_UNROLLED

    def dealt(array: Array) -> Array:
        """An equal part per device, padded with zeros to whole blocks."""
        parts = jnp.pad(array, (0, devices * each - count)).reshape(devices, each)
        return jnp.pad(parts, ((0, 0), (0, -each % blocks[-1]))).reshape(-1)

    lanes = (dealt(candidate), dealt(start), dealt(jnp.ones(count, bool)))
    play = partial(_play, dream, actor, blocks, unroll)
    if mesh is not None:
        whole, parts = PartitionSpec(), PartitionSpec(AXIS)
        # No device waits for another before all its own dreams are over.
        play = jax.shard_map(play, mesh=mesh, in_specs=(whole, whole, parts, parts, parts), out_specs=parts,
                             check_vma=False)  # fmt: skip
    scores = play(params, players, *lanes)
    if mesh is not None:
        # The search runs identically on every device and needs the scores of all.
        scores = jax.lax.with_sharding_constraint(scores, NamedSharding(mesh, PartitionSpec()))
    return jax.tree.map(lambda array: array.reshape(devices, -1)[:, :each].reshape(-1)[:count], scores)


def steps_between_looks(dream: Dream) -> int:
    """Steps that a block of lanes advances between two checks for running dreams."""
    return min(STEPS_BETWEEN_LOOKS, dream.config.horizon)


def blocks_of(lanes: int, platform: str) -> tuple[int, ...]:
    """Sizes of the blocks in which a device's lanes advance; the largest is reduced to the number of lanes."""
    blocks = CPU_BLOCKS if platform == "cpu" else ACCELERATOR_BLOCKS
    smaller = [size for size in blocks[1:] if size <= lanes]
    largest = math.ceil(lanes / math.ceil(lanes / blocks[0]))
    return tuple(dict.fromkeys([largest - largest % (smaller[0] if smaller else 1), *smaller]))


def _play(
    dream: Dream, actor: Actor, blocks: tuple[int, ...], unroll: int, params: Params, players: _Players,
    candidate: Array, start: Array, alive: Array,
) -> DreamScores:  # fmt: skip
    """The scores [L] of one device's lanes, in `blocks` of these sizes, with `unroll` unrolled steps: candidate [L],
    start [L], and initially alive [L]."""
    steps = steps_between_looks(dream)
    play_block = partial(_play_block, dream, actor, unroll, params, players)
    count = len(candidate)
    lanes = _Lanes(
        candidate, start, alive,
        state=jax.tree.map(lambda array: array[start], players.start),
        carry=many(actor.begin(), count),
        scores=DreamScores(jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.int32)),
    )  # fmt: skip

    def look(progress: tuple[Array, _Lanes]) -> tuple[Array, _Lanes]:
        """Running dreams come first in `order`; only their blocks advance."""
        begun, lanes = progress
        order = jnp.argsort(~lanes.alive)
        # [steps, S]
        each_step = jax.vmap(partial(_numbers, dream), (0, None))
        numbers = jax.vmap(each_step, (None, 0))(players.noise_key, begun + jnp.arange(steps, dtype=jnp.int32))

        def forward(first: Array, size: int, number: Array, lanes: _Lanes) -> _Lanes:
            chosen = jax.lax.dynamic_slice(order, (first + number * size,), (size,))
            moved = play_block(jax.tree.map(lambda array: array[chosen], lanes), numbers)
            return jax.tree.map(lambda array, part: array.at[chosen].set(part, unique_indices=True), lanes, moved)

        first, alive = jnp.int32(0), lanes.alive.sum(dtype=jnp.int32)
        for size in blocks:
            left = alive - first
            count = left // size if size > blocks[-1] else (left + size - 1) // size
            lanes = jax.lax.fori_loop(0, count, partial(forward, first, size), lanes)
            first += count * size
        return begun + steps, lanes

    return jax.lax.while_loop(lambda progress: progress[1].alive.any(), look, (jnp.int32(0), lanes))[1].scores


def _play_block(
    dream: Dream, actor: Actor, unroll: int, params: Params, players: _Players, lanes: _Lanes, numbers: _Numbers
) -> _Lanes:
    """The steps [steps] of some lanes, with the `numbers` [steps, S, ...] of each start."""
    world, temperature = World(dream.model, params), players.temperature[lanes.candidate]
    shared = shares(players.weights)
    weights = jax.tree.map(lambda array: array[0] if shared else array[lanes.candidate], players.weights)
    act = jax.vmap(actor.act, (None if shared else 0, None, 0, 0, 0))
    step = jax.vmap(dream.step, (None, 0, 0, 0, 0))

    def advance(lanes: _Lanes, numbers: _Numbers) -> tuple[_Lanes, None]:
        met = jax.tree.map(lambda array: array[lanes.start], numbers)
        action, carry = act(weights, world, lanes.state.world, lanes.carry, met.actor)
        state, reward, terminated, truncated = step(params, lanes.state, action, met.dream, temperature)
        scores = DreamScores(
            returns=lanes.scores.returns + jnp.where(lanes.alive, reward, 0), lengths=lanes.scores.lengths + lanes.alive
        )
        alive = lanes.alive & ~terminated & ~truncated
        return _Lanes(lanes.candidate, lanes.start, alive, state, carry, scores), None

    return jax.lax.scan(advance, lanes, numbers, unroll=unroll)[0]


@partial(jax.jit, static_argnames=("dream", "actor", "steps"))
def trajectory(
    dream: Dream,
    actor: Actor,
    params: Params,
    starts: State,
    weights: Params,
    key: Key,
    *,
    steps: int,
    temperature: Array | None = None,
) -> Trajectory:
    """One candidate's dream over `steps` steps; rollout r of `population_returns` is the one with key `fold_in(key,
    r)`."""
    start, noise_key = _begin(dream, starts, key)
    prepared = dream.prepare(params)
    world = World(dream.model, prepared)

    def advance(carried: tuple[DreamState, Any], number: Array) -> tuple[tuple[DreamState, Any], Trajectory]:
        state, carry = carried
        numbers = _numbers(dream, noise_key, number)
        action, carry = actor.act(weights, world, state.world, carry, numbers.actor)
        following, reward, terminated, _ = dream.step(prepared, state, action, numbers.dream, temperature)
        return (following, carry), Trajectory(state.world, action, reward, terminated)

    return jax.lax.scan(advance, (start, actor.begin()), jnp.arange(steps, dtype=jnp.int32))[1]


@dataclass(frozen=True)
class DreamFitness:
    """The mean return in the dream. `jax.tree_util.Partial(DreamFitness(...), params, starts, temperature)` is a
    `Fitness` that compiled code takes as an argument, so that its arrays do not become constants."""

    dream: Dream
    actor: Actor
    rollouts: int
    """R: dreams per candidate."""
    mesh: Mesh | None = None
    """Devices that the dreams are distributed over; None: the default device."""

    def __call__(
        self, params: Params, starts: State, temperature: Array | float, population: Population, key: Key
    ) -> Returns:
        """[P]: mean over the rollouts, at `temperature` []."""
        scores = population_returns(
            self.dream, self.actor, params, starts, population, key,
            rollouts=self.rollouts, temperature=temperature, mesh=self.mesh,
        )  # fmt: skip
        return scores.returns.mean(axis=1)
