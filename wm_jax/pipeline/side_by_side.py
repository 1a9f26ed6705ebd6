"""Searches side by side: every temperature with every seed, in the dream as one compiled program."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.dream import Dream, population_returns, start_states
from wm_jax.dream.starts import expected_rows
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.lanes import alone
from wm_jax.models import Models
from wm_jax.parallel import AXIS
from wm_jax.pipeline import machine
from wm_jax.pipeline.context import Context
from wm_jax.search import Dreams, Search
from wm_jax.search.config import EvolveConfig
from wm_jax.search.protocol import bytes_of_dreams, lane_size
from wm_jax.types import FLOAT, Array, Key, Observations, Params, State
from wm_jax.worlds import Actor

GENERATIONS_IN_CALL = 5
"""At most this many generations run between two moments at which the loop can log, save or stop."""
PLANNED_IN_CALL = 512
"""Dreams of planners that one call goes on with, about, in an evaluation: minutes may go by in each."""
SHARE_OF_MEMORY = 0.6
"""What searches may take of a device's memory: the world model, encoded frames and a block's products need some, and the
formulas are no exact account."""


@dataclass(frozen=True)
class Variant:
    """What one of the searches has of its own."""

    temperature: float
    """tau of its dreams."""
    seed: int
    """Number of its random stream: the same at each temperature."""


def variants(experiment: Experiment) -> list[Variant]:
    """The E searches of an experiment, temperature by temperature."""
    temperatures = experiment.evolve.temperatures or (experiment.dream.temperature,)
    return [Variant(temperature, seed) for temperature in temperatures for seed in range(experiment.evolve.seeds)]


def keys(key: Key, searches: list[Variant]) -> Key:
    """[E]: a key for each search, the same for the same seed."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array([variant.seed for variant in searches], jnp.uint32))


def generations_in_call(config: EvolveConfig) -> int:
    """Generations of one compiled call."""
    return math.gcd(config.generations, config.evaluate_every, GENERATIONS_IN_CALL)


@partial(jax.jit, static_argnames=("search", "count", "mesh"), donate_argnames="states")
def iterate(
    search: Search, states: Any, dreams: Dreams, temperatures: Array, first: Array | int, keys: Key, count: int,
    mesh: Mesh | None = None,
) -> tuple[Any, dict[str, Array]]:  # fmt: skip
    """Generations `first` [] to `first + count - 1` of E searches: their states [E, ...], which are used up, and metrics
    [E, count]. `temperatures` [E] stand in for that of `dreams`, `keys` [E].

    Where there is one for each of the devices of `mesh`, they are dealt out over them, so that a device keeps, and
    decomposes, the covariances of its own ones only. All have as many: copies, whose results are dropped, fill up.
    """

    def one(state: Any, temperature: Array, key: Key) -> tuple[Any, dict[str, Array]]:
        return search.iterate(state, replace(dreams, temperature=temperature), first, key, count)

    size = len(temperatures)
    if mesh is None or mesh.size == 1 or size < mesh.size:
        return jax.vmap(one)(states, temperatures, keys)
    whole, each = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(AXIS)))
    number = jnp.arange(-(-size // mesh.size) * mesh.size, dtype=jnp.int32) % size

    def dealt(array: Array) -> Array:
        return jax.lax.with_sharding_constraint(array[number], each)

    found = jax.vmap(one)(*jax.tree.map(dealt, (states, temperatures, keys)))
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array[:size], whole), found)


@partial(jax.jit, static_argnames=("dream", "actor", "rollouts", "mesh"))
def returns_of(
    dream: Dream, actor: Actor, dreams: Dreams, controllers: Params, temperatures: Array, keys: Key,
    generation: Array | int, first: Array | int, rollouts: int, mesh: Mesh | None,
) -> Array:  # fmt: skip
    """[E, rollouts]: what each of the `controllers` [E, ...] scores, at its temperature of `temperatures` [E], in dreams
    from number `first` [] on that follow from its key of `keys` [E] and the `generation` [] that it is from."""

    def one(weights: Params, temperature: Array, key: Key) -> Array:
        return population_returns(
            dream, actor, dreams.params, dreams.starts, alone(weights), jax.random.fold_in(key, generation),
            rollouts=rollouts, first=first, temperature=temperature, mesh=mesh,
        ).returns[0]  # fmt: skip

    return jax.vmap(one)(controllers, temperatures, keys)


class DreamGenerations:
    """Generations in the dream, some in one compiled call, with searches that do not fit in memory in turn."""

    def __init__(
        self, context: Context, round_number: int, params: Params, recorded: Observations, tell: Callable[[str], None]
    ):
        """`tell` is told in words how far a long evaluation is, and may end it."""
        self.tell = tell
        config, models = context.evolve(round_number), context.models
        self.dream, self.actor, self.mesh = models.dream, models.actor, context.mesh
        self.search = models.search(config.generations, context.mesh)
        self.rollouts = config.evaluation_rollouts
        self.in_call = generations_in_call(config)
        found = variants(context.experiment)
        purposes = ("generations", "evaluation of means")
        self.temperatures, self.keys, self.evaluation_keys = parallel.replicate(
            self.mesh,
            (
                jnp.array([variant.temperature for variant in found], jnp.float32),
                *(keys(context.key(purpose, round_number), found) for purpose in purposes),
            ),
        )

        def table(dream: Dream) -> State:
            return start_states(dream, params, recorded, context.key("starts", round_number))

        learning = models.start_dream(self.search)
        self.scored = parallel.replicate(self.mesh, Dreams(params, table(self.dream), self.temperatures[0]))
        # A search that learns in the dream that it is scored in has the same table.
        self.begin = self.scored.starts if learning == self.dream else parallel.replicate(self.mesh, table(learning))
        starts = bytes_of_starts(models, self.search, len(recorded.start), float(recorded.length.mean()))
        self.groups = _groups(context, self.search, len(found), starts)

    def __call__(self, states: Any, first: int) -> tuple[Any, dict[str, Array]]:
        """Generations `first` to `first + in_call - 1`: the searches' states [E, ...], which are used up, and metrics
        [E, in_call]."""
        dreams = replace(self.scored, starts=self.begin)
        # They are the same in every call.
        keys = jax.random.clone(self.keys)
        evolved = [
            iterate(
                self.search, jax.tree.map(lambda array, group=group: array[group], states), dreams,
                self.temperatures[group], first, keys[group], self.in_call, self.mesh,
            )
            for group in self.groups
        ]  # fmt: skip
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *evolved)

    def returns(self, controllers: Params, generation: int) -> Array:
        """[E, rollouts]: what the controllers [E, ...] of a generation score."""
        planned = self.actor.planned_dreams
        size = min(self.rollouts, max(1, PLANNED_IN_CALL // planned)) if planned else self.rollouts
        found = []
        for first in range(0, self.rollouts, size):
            if first:
                self.tell(f"{first}/{self.rollouts} dreams of the evaluation")
            found.append(self._returns(controllers, generation, first, size))
        return jnp.concatenate(found, axis=1)[:, : self.rollouts]

    def _returns(self, controllers: Params, generation: int, first: int, count: int) -> Array:
        """[E, count]: of dreams `first` to `first + count - 1`."""
        keys = jax.random.clone(self.evaluation_keys)
        found = [
            returns_of(
                self.dream, self.actor, self.scored, jax.tree.map(lambda array, group=group: array[group], controllers),
                self.temperatures[group], keys[group], generation, jnp.int32(first), count, self.mesh,
            )
            for group in self.groups
        ]  # fmt: skip
        return jnp.concatenate(found)


def _groups(context: Context, search: Search, count: int, starts: int) -> list[slice]:
    """The searches that fit in memory at a time beside the `starts`; says so where there are many."""
    rest, work = search.bytes_at_rest(), bytes_at_work(context.experiment, context.models, search, context.mesh.size)
    memory = parallel.on_main(machine.device_memory)
    found = groups(count, starts, rest, work, memory)
    if count > 1:
        size = found[0].stop
        context.screen.say(
            f"  {count} evolutions, {size} side by side, in about {(starts + count * rest + size * work) / 2**20:,.0f} MiB "
            f"of a device's {memory / 2**20:,.0f}" + (f", {len(found)} such groups in turn" if len(found) > 1 else "")
        )
    return found


def bytes_of_starts(models: Models, search: Search, episodes: int, length: float) -> int:
    """Memory of the states that dreams start in, with so many recorded episodes of this mean length: a table for the dreams
    that C is scored in, and another where the search learns in others."""
    dreams = {models.dream, models.start_dream(search)}
    return FLOAT * lane_size(models.world) * sum(expected_rows(dream.config, episodes, length) for dream in dreams)


def bytes_at_work(experiment: Experiment, models: Models, search: Search, devices: int = 1) -> int:
    """Memory that one search needs on each of `devices`: its own, or that of the dreams that its candidate is evaluated in,
    where that is more."""
    rollouts = experiment.evolve.evaluation_rollouts
    lanes = math.ceil(rollouts / devices)
    dreams = bytes_of_dreams(models.world, actors.size(models.actor), lanes, rollouts)
    # New and old.
    dreams += FLOAT * 2 * lanes * models.actor.planned_dreams * lane_size(models.world)
    return max(search.bytes_at_work(devices), dreams)


def groups(count: int, shared: int, rest: int, work: int, memory: int) -> list[slice]:
    """`count` searches, which take `shared` bytes together, and each `rest` at rest and `work` at work, cut into as few
    groups as can be at work in `memory` bytes, one group after the other.

    They depend on nothing else, so that a run that goes on has the same ones. Raises `UserError` where not even one fits.
    """
    fitting = (int(SHARE_OF_MEMORY * memory) - shared - count * rest) // work
    if fitting < 1:
        raise UserError(
            f"{count} evolutions take about {(shared + count * rest + work) / 2**30:.1f} GiB at least, and "
            f"{SHARE_OF_MEMORY:.0%} of the device's {memory / 2**30:.1f} GiB are for them; lower evolve.seeds, "
            "evolve.evaluation_rollouts, dream.episodes or the sizes of search.*"
        )
    size = math.ceil(count / math.ceil(count / fitting))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
