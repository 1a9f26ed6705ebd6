"""Evolutions side by side: every temperature with every seed, in the dream as one compiled program."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wm_jax import parallel
from wm_jax.controller import Evolution, PolicyGradient, critic_of
from wm_jax.dream import DreamFitness, DreamState, moments, population_returns
from wm_jax.dream.rollout import STEPS_BETWEEN_LOOKS
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.pipeline import machine
from wm_jax.pipeline.context import Context, Models
from wm_jax.types import Array, Key, Latents, Params, Weights

GENERATIONS_IN_CALL = 5
"""At most this many generations run between two moments at which the loop can log, save or stop."""
FLOAT = 4
"""Bytes of a float32."""
SHARE_OF_MEMORY = 0.6
"""What evolutions may take of a device's memory: M, latents and a block's products need some, and the formulas are no exact
account."""


@dataclass(frozen=True)
class Variant:
    """What one of the evolutions has of its own."""

    temperature: float
    """tau of its dreams."""
    seed: int
    """Number of its random stream: the same at each temperature."""


def variants(experiment: Experiment) -> list[Variant]:
    """The E evolutions of an experiment, temperature by temperature."""
    temperatures = experiment.evolve.temperatures or (experiment.dream.temperature,)
    return [Variant(temperature, seed) for temperature in temperatures for seed in range(experiment.evolve.seeds)]


def keys(key: Key, evolutions: list[Variant]) -> Key:
    """[E]: a key for each evolution, the same for the same seed."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array([variant.seed for variant in evolutions]))


@partial(jax.jit, static_argnames=("evolution", "fitness", "count"), donate_argnames="states")
def generations(
    evolution: Evolution,
    fitness: DreamFitness,
    states: Any,
    first: Array | int,
    params: Params,
    latents: Latents,
    temperatures: Array,
    keys: Key,
    count: int,
) -> tuple[Any, dict[str, Array]]:
    """Generations `first` [] to `first + count - 1` of E evolutions: their states [E, ...], which are used up, and metrics
    [E, count]. `temperatures` [E], `keys` [E]; all dreams are the lanes of one loop."""

    def one(state: Any, temperature: Array, key: Key) -> tuple[Any, dict[str, Array]]:
        dreams = jax.tree_util.Partial(fitness, params, latents, temperature)
        return evolution.generations(state, first, dreams, key, count)

    return jax.vmap(one)(states, temperatures, keys)


@partial(jax.jit, static_argnames=("search", "count"), donate_argnames="states")
def gradients(
    search: PolicyGradient,
    states: Any,
    first: Array | int,
    params: Params,
    starts: DreamState,
    temperatures: Array,
    keys: Key,
    count: int,
) -> tuple[Any, dict[str, Array]]:
    """`generations` of E policy gradients, whose dreams begin from `starts` [S, ...]."""

    def one(state: Any, temperature: Array, key: Key) -> tuple[Any, dict[str, Array]]:
        return search.generations(state, first, params, starts, temperature, key, count)

    return jax.vmap(one)(states, temperatures, keys)


@partial(jax.jit, static_argnames=("fitness", "rollouts"))
def returns_of(
    fitness: DreamFitness,
    params: Params,
    latents: Latents,
    controllers: Weights,
    temperatures: Array,
    keys: Key,
    generation: Array | int,
    rollouts: int,
) -> Array:
    """[E, rollouts]: what each of the `controllers` [E, D] scores, at its temperature of `temperatures` [E], in dreams that
    follow from its key of `keys` [E] and the `generation` [] that it is from."""

    def one(weights: Weights, temperature: Array, key: Key) -> Array:
        return population_returns(
            fitness.dream, fitness.policy, params, latents, weights[None], jax.random.fold_in(key, generation),
            rollouts=rollouts, temperature=temperature, mesh=fitness.mesh,
        ).returns[0]  # fmt: skip

    return jax.vmap(one)(controllers, temperatures, keys)


class Dreams(ABC):
    """Generations of searches in M's dream, some in one compiled call, with those that do not fit in memory in turn."""

    def __init__(self, context: Context, round_number: int, params: Params, latents: Latents):
        config, models = context.evolve(round_number), context.models
        self.rollouts = config.evaluation_rollouts
        self.in_call = math.gcd(config.generations, config.evaluate_every, GENERATIONS_IN_CALL)
        self.fitness = DreamFitness(models.dream, models.controller, config.rollouts, context.mesh)
        found = variants(context.experiment)
        self.params, self.latents, self.temperatures, self.keys, self.evaluation_keys = parallel.replicate(
            context.mesh,
            (
                *(params, latents, jnp.array([variant.temperature for variant in found])),
                *(keys(context.key(name, round_number), found) for name in ("generations", "evaluation of means")),
            ),
        )
        self.groups = _groups(context, len(found))

    @abstractmethod
    def _generations(self, searches: Any, first: int, temperatures: Array, keys: Key) -> tuple[Any, dict[str, Array]]:
        """`__call__` for the searches of one group."""

    def __call__(self, searches: Any, first: int) -> tuple[Any, dict[str, Array]]:
        """Generations `first` to `first + in_call - 1`: the searches [E, ...], which are used up, and metrics
        [E, in_call]."""
        evolved = [
            self._generations(
                jax.tree.map(lambda array, group=group: array[group], searches), first, self.temperatures[group],
                self.keys[group],
            )
            for group in self.groups
        ]  # fmt: skip
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *evolved)

    def returns(self, means: Weights, generation: int) -> Array:
        """[E, rollouts]: what the means [E, D] of a generation score."""
        found = [
            returns_of(
                self.fitness, self.params, self.latents, means[group], self.temperatures[group],
                self.evaluation_keys[group], generation, self.rollouts,
            )
            for group in self.groups
        ]  # fmt: skip
        return jnp.concatenate(found)


class Evolutions(Dreams):
    """By CMA-ES."""

    begin = None
    """A search begins at 0."""

    def __init__(self, context: Context, round_number: int, params: Params, latents: Latents):
        super().__init__(context, round_number, params, latents)
        self.evolution = Evolution(context.evolve(round_number), context.models.controller.size)

    def _generations(self, searches: Any, first: int, temperatures: Array, keys: Key) -> tuple[Any, dict[str, Array]]:
        return generations(
            self.evolution, self.fitness, searches, first, self.params, self.latents, temperatures, keys, self.in_call
        )


class Gradients(Dreams):
    """By policy gradient; every device does the same."""

    def __init__(self, context: Context, round_number: int, params: Params, latents: Latents):
        super().__init__(context, round_number, params, latents)
        config, models = context.experiment.gradient, context.models
        steps = context.evolve(round_number).generations
        self.evolution = PolicyGradient(config, models.controller, models.dream, steps)
        found = moments(models.dream, params, latents, context.key("moments", round_number), config.episodes)
        self.begin = parallel.replicate(context.mesh, found)

    def _generations(self, searches: Any, first: int, temperatures: Array, keys: Key) -> tuple[Any, dict[str, Array]]:
        return gradients(self.evolution, searches, first, self.params, self.begin, temperatures, keys, self.in_call)


def _groups(context: Context, count: int) -> list[slice]:
    """The evolutions that fit in memory at a time; says so where there are many."""
    rest = bytes_at_rest(context.experiment, context.models)
    work = bytes_at_work(context.experiment, context.models, context.mesh.size)
    memory = parallel.on_main(machine.memory)
    found = groups(count, rest, work, memory)
    if count > 1:
        size = found[0].stop
        context.screen.say(
            f"  {count} evolutions, {size} side by side, in about {(count * rest + size * work) / 2**20:,.0f} MiB of a "
            f"device's {memory / 2**20:,.0f}" + (f", {len(found)} such groups in turn" if len(found) > 1 else "")
        )
    return found


def bytes_at_rest(experiment: Experiment, models: Models) -> int:
    """Memory that one evolution needs while others are at work: its search, new and old."""
    if experiment.evolve.search == "policy_gradient":
        # The weights of both networks, Adam's two moments of each, and the dreams.
        networks = 3 * (models.controller.size + critic_of(models.controller).size)
        return FLOAT * 2 * (networks + experiment.gradient.dreams * _lane(models))
    return FLOAT * 4 * models.controller.size**2


def bytes_at_work(experiment: Experiment, models: Models, devices: int = 1) -> int:
    """Memory that one evolution needs on each of `devices`: its search's matrices, and the states and the noise of its
    dreams."""
    config, gradient, memory = experiment.evolve, experiment.gradient, models.memory
    lane = 2 * (_lane(models) + models.controller.size)
    noise = 2 * STEPS_BETWEEN_LOOKS * memory.latent_size
    if config.search == "policy_gradient":
        # Each decision's features, once as played and once in batches.
        search, dreams = 0, gradient.dreams * (2 * gradient.decisions + 2) * _lane(models)
    else:
        # The covariance, its eigenvectors, and what `ask` and `tell` make of them on the way.
        search = 6 * models.controller.size**2 + 4 * config.population * models.controller.size
        dreams = math.ceil(config.population * config.rollouts / devices) * lane + config.rollouts * noise
    evaluation = math.ceil(config.evaluation_rollouts / devices) * lane + config.evaluation_rollouts * noise
    return FLOAT * (search + max(dreams, evaluation))


def _lane(models: Models) -> int:
    """Numbers that one dream's state has."""
    return models.memory.latent_size + 2 * models.memory.config.hidden_size


def groups(count: int, rest: int, work: int, memory: int) -> list[slice]:
    """`count` evolutions, which take `rest` bytes each at rest and `work` at work, cut into as few groups as can be at work
    in `memory` bytes, one group after the other.

    They depend on nothing else, so that a run that goes on has the same ones. Raises `UserError` where not even one fits.
    """
    fitting = (int(SHARE_OF_MEMORY * memory) - count * rest) // work
    if fitting < 1:
        raise UserError(
            f"{count} evolutions take about {(count * rest + work) / 2**30:.1f} GiB at least, and {SHARE_OF_MEMORY:.0%} of "
            f"the device's {memory / 2**30:.1f} GiB are for them; lower evolve.seeds, evolve.population, evolve.rollouts "
            "or evolve.evaluation_rollouts"
        )
    size = math.ceil(count / math.ceil(count / fitting))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
