"""Searches side by side: every temperature with every seed. In the dream they are one compiled program."""

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
from wm_jax.lanes import alone, in_call
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
"""Maximum number of generations between two points at which the loop can log, save or stop."""
SHARE_OF_MEMORY = 0.6
"""Share of a device's memory that searches may use. The rest is for the world model, encoded frames and temporaries;
the formulas are approximate."""


@dataclass(frozen=True)
class Variant:
    """What distinguishes one search from the others."""

    temperature: float
    """Temperature tau of its dreams."""
    seed: int
    """Number of its random stream, the same at each temperature."""


def variants(experiment: Experiment) -> list[Variant]:
    """The E searches of an experiment, sorted by temperature."""
    temperatures = experiment.evolve.temperatures or (experiment.dream.temperature,)
    return [Variant(temperature, seed) for temperature in temperatures for seed in range(experiment.evolve.seeds)]


def keys(key: Key, searches: list[Variant]) -> Key:
    """[E]: a key for each search; searches of the same seed have the same key."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array([variant.seed for variant in searches], jnp.uint32))


def generations_in_call(config: EvolveConfig) -> int:
    """Generations in one compiled call."""
    return math.gcd(config.generations, config.evaluate_every, GENERATIONS_IN_CALL)


@partial(jax.jit, static_argnames=("search", "count", "mesh"), donate_argnames="states")
def iterate(
    search: Search, states: Any, dreams: Dreams, temperatures: Array, first: Array | int, keys: Key, count: int,
    mesh: Mesh | None = None,
) -> tuple[Any, dict[str, Array]]:  # fmt: skip
    """Run generations `first` [] to `first + count - 1` of E searches. Returns their states [E, ...] (the old ones are
    donated) and metrics [E, count]. `temperatures` [E] and `keys` [E] replace those of `dreams`.

    If there are at least as many searches as devices in `mesh`, they are split over the devices. Each device then
    keeps, and decomposes, only the covariances of its own searches. All devices have the same number: copies fill the
    gaps, and their results are dropped.
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
    """[E, rollouts]: returns of the `controllers` [E, ...], each at its own temperature (`temperatures` [E]), in dreams
    numbered from `first` []. The dreams follow from the controller's key (`keys` [E]) and its `generation` []."""

    def one(weights: Params, temperature: Array, key: Key) -> Array:
        return population_returns(
            dream, actor, dreams.params, dreams.starts, alone(weights), jax.random.fold_in(key, generation),
            rollouts=rollouts, first=first, temperature=temperature, mesh=mesh,
        ).returns[0]  # fmt: skip

    return jax.vmap(one)(controllers, temperatures, keys)


class DreamGenerations:
    """Generations in the dream, several in one compiled call. Searches that do not fit in memory together run in
    groups."""

    def __init__(
        self, context: Context, round_number: int, params: Params, recorded: Observations, tell: Callable[[str], None]
    ):
        """`tell` receives the progress of a long evaluation as text; it may raise to end it."""
        self.tell = tell
        config, models = context.evolve(round_number), context.models
        self.dream, self.actor, self.mesh = models.dream, models.actor, context.mesh
        self.search = models.search(config.generations, context.mesh)
        self.rollouts = config.evaluation_rollouts
        self.in_call, self.together = generations_in_call(config), dreams_in_call(context.experiment, models)
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
        # A search that learns in the dream that scores it uses the same table of start states.
        self.begin = self.scored.starts if learning == self.dream else parallel.replicate(self.mesh, table(learning))
        starts = bytes_of_starts(models, self.search, len(recorded.start), float(recorded.length.mean()))
        self.groups = _groups(context, self.search, len(found), starts)

    def __call__(self, states: Any, first: int) -> tuple[Any, dict[str, Array]]:
        """Run generations `first` to `first + in_call - 1`. Returns the searches' states [E, ...] (the old ones are
        donated) and metrics [E, in_call]."""
        dreams = replace(self.scored, starts=self.begin)
        # The keys are the same in every call.
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
        """[E, rollouts]: returns of the controllers [E, ...] of a generation."""
        size = self.together
        found = []
        for first in range(0, self.rollouts, size):
            if first:
                self.tell(f"{first}/{self.rollouts} dreams of the evaluation")
            found.append(self._returns(controllers, generation, first, size))
        return jnp.concatenate(found, axis=1)[:, : self.rollouts]

    def _returns(self, controllers: Params, generation: int, first: int, count: int) -> Array:
        """[E, count]: returns in dreams `first` to `first + count - 1`."""
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
    """Groups of searches that fit in memory together, besides the `starts`. Prints the groups if there are several
    searches."""
    rest, work = search.bytes_at_rest(), bytes_at_work(context.experiment, context.models, search, context.mesh.size)
    memory = parallel.on_main(machine.device_memory)
    found = groups(count, starts, rest, work, memory)
    if count > 1:
        size = found[0].stop
        context.screen.say(
            f"  {count} searches, {size} at a time, use about {(starts + count * rest + size * work) / 2**20:,.0f} MiB "
            f"of each device's {memory / 2**20:,.0f} MiB" + (f", in {len(found)} groups" if len(found) > 1 else "")
        )
    return found


def dreams_in_call(experiment: Experiment, models: Models) -> int:
    """Dreams of a search's candidate that are evaluated in one call: all, unless a planner would take too long."""
    planned = experiment.dream.horizon * models.actor.planned_steps
    return in_call(experiment.evolve.evaluation_rollouts, experiment.evolve.evolutions * planned)


def bytes_of_starts(models: Models, search: Search, episodes: int, length: float) -> int:
    """Memory of the start states of dreams, for this many recorded episodes of this mean length: one table for the
    dreams that score C, and another if the search learns in other dreams."""
    dreams = {models.dream, models.start_dream(search)}
    return FLOAT * lane_size(models.world) * sum(expected_rows(dream.config, episodes, length) for dream in dreams)


def bytes_at_work(experiment: Experiment, models: Models, search: Search, devices: int = 1) -> int:
    """Memory that one search needs on each of `devices`: the search's own, or that of its candidate's evaluation,
    whichever is larger."""
    rollouts = dreams_in_call(experiment, models)
    lanes = math.ceil(rollouts / devices)
    dreams = bytes_of_dreams(models.world, actors.size(models.actor), lanes, rollouts)
    # Old and new states.
    dreams += FLOAT * 2 * lanes * models.actor.planned_dreams * lane_size(models.world)
    return max(search.bytes_at_work(devices), dreams)


def groups(count: int, shared: int, rest: int, work: int, memory: int) -> list[slice]:
    """Split `count` searches into as few consecutive groups as fit in `memory` bytes. All searches together take
    `shared` bytes; each takes `rest` bytes at rest and `work` bytes at work.

    The groups depend on nothing else, so a resumed run has the same ones. Raises `UserError` if not even one search
    fits.
    """
    fitting = (int(SHARE_OF_MEMORY * memory) - shared - count * rest) // work
    if fitting < 1:
        raise UserError(
            f"searches side by side ({count}) take at least about {(shared + count * rest + work) / 2**30:.1f} GiB, but "
            f"{SHARE_OF_MEMORY:.0%} of the device's {memory / 2**30:.1f} GiB are available for them; lower evolve.seeds, "
            "evolve.evaluation_rollouts, dream.episodes or the sizes of search.*, or choose a smaller actor"
        )
    size = math.ceil(count / math.ceil(count / fitting))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
