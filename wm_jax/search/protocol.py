"""The interface of a search for a controller (`Search`): in the dream, or from the fitness of candidates.

A new search is one file in this folder, or in a user's own file; `SEARCHES.register` registers its settings
(docs/extending/).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from wm_jax.actors import protocol as actors
from wm_jax.actors.protocol import ExploringActor
from wm_jax.dream import Dream, DreamFitness
from wm_jax.dream.rollout import STEPS_BETWEEN_LOOKS, steps_between_looks
from wm_jax.registry import PartConfig, Registry
from wm_jax.types import FLOAT, Array, Curve, Fitness, Key, Metrics, Params, Population, Returns, State
from wm_jax.worlds import Actor, WorldModel
from wm_jax.worlds.protocol import shapes

SEARCHES: "Registry[type[SearchConfig]]" = Registry("search.kind", "wm_jax.search")


@struct.dataclass
class Dreams:
    """The arguments of a dream."""

    params: Params
    """Weights of the world model."""
    starts: State
    """[S, ...]: states that dreams start in."""
    temperature: Array
    """[]: tau."""


class Search(ABC):
    """A search for a controller. Hashable; every method is pure.

    The random numbers of a generation follow from the key and its number, so that a search resumed from a saved state
    with the same key gives the same result as one without a break. Independent searches run side by side under
    `jax.vmap` over state, temperature and key.
    """

    watch: ClassVar[str]
    """Name of the metric that shows its progress."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """Curves of its metrics for the report."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """Settings that increase its memory use, in the order in which to lower them if memory runs out."""

    @property
    def start(self) -> Literal["first", "anywhere"] | None:
        """Where the dreams that it learns in start; None: by `dream.start`."""
        return None

    @property
    @abstractmethod
    def words(self) -> str:
        """Description of a generation, for reports."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, list[int]]:
        """Sizes of a generation."""

    @property
    @abstractmethod
    def dream_steps(self) -> int:
        """Largest number of dream steps in a generation, over all dreams."""

    @property
    def steps_in_loop(self) -> int | None:
        """Dream steps in its innermost loop; None: unknown."""
        return None

    @abstractmethod
    def bytes_at_rest(self) -> int:
        """Bytes that one search needs while others run: its state, old and new."""

    @abstractmethod
    def bytes_at_work(self, devices: int) -> int:
        """Additional bytes that a running search needs on each of this many devices."""

    @abstractmethod
    def init(self, key: Key, begin: Params | None = None, starts: State | None = None) -> Any:
        """The state before the first generation; `begin`: weights to start from, if any; `starts` [S, ...]: the states
        that dreams start in, if there is a dream."""

    @abstractmethod
    def iterate(self, state: Any, dreams: Dreams, first: Array | int, key: Key, count: int) -> tuple[Any, Metrics]:
        """Generations `first` [] to `first + count - 1` in the dream: the state after them and metrics stacked [count]."""

    @abstractmethod
    def candidate(self, state: Any) -> Params:
        """The weights to evaluate and deploy."""

    def vital(self, state: Any) -> Any:
        """The part of the state that must be finite for it to be saved."""
        return self.candidate(state)


@struct.dataclass
class Experience:
    """T decisions in each of B episodes; each decision holds for several steps."""

    inputs: Array
    """[B, T, F]: the policy's inputs."""
    drawn: Array
    """[B, T, X]: its samples."""
    reward: Array
    """[B, T, steps]: of each step of a decision; 0 after the end."""
    length: Array
    """[B] int32: steps of the episode."""
    terminated: Array
    """[B] bool: whether it was terminated rather than truncated."""


class EpisodeSearch(Search):
    """A search that can also learn from whole episodes of the actual environment, played by an exploring actor."""

    @property
    @abstractmethod
    def episodes(self) -> int:
        """Episodes per generation."""

    @property
    @abstractmethod
    def words_in_actual(self) -> str:
        """Description of a generation in the actual environment, for reports."""

    @property
    @abstractmethod
    def least_decisions(self) -> int:
        """Fewest decisions that it can learn from in a generation."""

    @property
    @abstractmethod
    def player(self) -> ExploringActor:
        """The actor that plays the episodes."""

    @abstractmethod
    def player_weights(self, state: Any, generation: Array | int) -> Params:
        """The player's weights in a generation []."""

    @abstractmethod
    def learn(self, state: Any, experience: Experience, generation: Array | int, key: Key) -> tuple[Any, Metrics]:
        """The state after a generation [], and its metrics."""


class PopulationSearch(Search):
    """A search that needs only the fitness of candidates, so that they can also play in the actual environment."""

    watch = "mean"

    fitness: DreamFitness
    """Fitness of candidates in the dream."""

    @property
    @abstractmethod
    def population(self) -> int:
        """P: candidates per generation."""

    @abstractmethod
    def ask(self, state: Any, generation: Array | int, key: Key) -> tuple[Population, Any]:
        """The candidates [P, ...] of a generation [], from 0, and the state for `tell`."""

    @abstractmethod
    def tell(self, state: Any, population: Population, returns: Returns) -> tuple[Any, Metrics]:
        """The state of the next generation, from this one's candidates [P, ...] and their returns [P]; and its metrics,
        among them the mean return. Returns that are not finite rank last and are left out of the metrics. A metric that
        is not finite itself means that there was nothing to learn from, and stops a run with a single search."""

    @property
    def episodes(self) -> int:
        """Episodes per generation in the actual environment."""
        return self.population * self.rollouts

    @property
    def rollouts(self) -> int:
        """R: episodes per candidate; the mean return is its fitness."""
        return self.fitness.rollouts

    @property
    def actor(self) -> Actor:
        """The actor whose weights it searches for."""
        return self.fitness.actor

    @property
    def size(self) -> int:
        """D: number of weights."""
        return actors.size(self.actor)

    @property
    def words(self) -> str:
        """Description of a generation."""
        return f"{self.population} candidates × {self.rollouts} rollouts"

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Sizes of a generation."""
        return {
            "population": [self.population, self.size],
            "rollouts of a generation": [self.population, self.rollouts],
        }

    @property
    def dream_steps(self) -> int:
        """Steps of all dreams if each reaches the horizon."""
        return self.population * self.rollouts * self.fitness.dream.config.horizon

    @property
    def steps_in_loop(self) -> int:
        """Steps between two checks for running dreams."""
        return steps_between_looks(self.fitness.dream)

    def bytes_at_rest(self) -> int:
        """The candidate, new and old."""
        return FLOAT * 2 * self.size

    def bytes_at_work(self, devices: int) -> int:
        """The candidates, the states of their dreams and the dreams' noise."""
        lanes = math.ceil(self.population * self.rollouts / devices)
        dreams = bytes_of_dreams(self.fitness.dream.model, self.size, lanes, self.rollouts)
        return FLOAT * self.population * self.size + dreams

    def iterate(self, state: Any, dreams: Dreams, first: Array | int, key: Key, count: int) -> tuple[Any, Metrics]:
        """Generations `first` [] to `first + count - 1` in the dream."""
        fitness = jax.tree_util.Partial(self.fitness, dreams.params, dreams.starts, dreams.temperature)
        return self.evolve(state, fitness, first, key, count)

    @partial(jax.jit, static_argnames=("self", "count"))
    def evolve(self, state: Any, fitness: Fitness, first: Array | int, key: Key, count: int) -> tuple[Any, Metrics]:
        """Generations `first` [] to `first + count - 1` in one compiled call: the state after them and the metrics
        stacked [count].

        `fitness` must be traceable: a `jax.tree_util.Partial` of a hashable function and its arrays. It gets a new key
        in each generation.
        """

        # Every call gets the same key; random numbers also depend on the generation's number.
        ask_key, fitness_key = jax.random.split(jax.random.clone(key))

        def generation(state: Any, number: Array) -> tuple[Any, Metrics]:
            population, state = self.ask(state, number, ask_key)
            return self.tell(state, population, fitness(population, jax.random.fold_in(fitness_key, number)))

        return jax.lax.scan(generation, state, first + jnp.arange(count, dtype=jnp.int32))


@dataclass(frozen=True)
class SearchConfig(PartConfig):
    """Base of a search's settings."""

    registry: ClassVar[Registry[Any]] = SEARCHES

    def build(self, actor: Actor, dream: Dream, generations: int, mesh: Mesh | None = None) -> Search:
        """The search with this many generations for the weights of an actor; its dreams are distributed over the
        devices of `mesh`. Raises `UserError` if it does not support this kind of actor."""
        raise NotImplementedError


def lane_size(model: WorldModel) -> int:
    """Numbers in the state of one dream."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(model)[2]))


def bytes_of_dreams(model: WorldModel, size: int, lanes: int, starts: int) -> int:
    """Memory of `lanes` dreams of controllers with `size` weights, on `starts` different starts: per dream the state,
    new and old, and the weights that act in it; per start the state, the noise of its next steps and the random bits
    behind it."""
    noise = jax.tree.leaves(jax.eval_shape(lambda: model.noise(jax.random.key(0))))
    numbers = STEPS_BETWEEN_LOOKS * sum(math.prod(leaf.shape) for leaf in noise)
    return FLOAT * (lanes * 2 * (lane_size(model) + size) + starts * (lane_size(model) + 2 * numbers))
