"""How a controller is found (`Search`), whatever it is a controller of: in the dream, or from what candidates are worth.

A new search is one file in this folder, or in a file of a user's own, whose settings are registered by `SEARCHES.register`
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
from wm_jax.actors.protocol import Trying
from wm_jax.dream import Dream, DreamFitness
from wm_jax.dream.rollout import STEPS_BETWEEN_LOOKS, steps_between_looks
from wm_jax.registry import PartConfig, Registry
from wm_jax.types import FLOAT, Array, Curve, Fitness, Key, Metrics, Params, Population, Returns, State
from wm_jax.worlds import Actor, WorldModel
from wm_jax.worlds.protocol import shapes

SEARCHES: "Registry[type[SearchConfig]]" = Registry("search.kind", "wm_jax.search")


@struct.dataclass
class Dreams:
    """What a dream is played with."""

    params: Params
    """The world model's weights."""
    starts: State
    """[S, ...]: the states that dreams start in."""
    temperature: Array
    """[]: tau."""


class Search(ABC):
    """How a controller is found. Hashable; every method is pure.

    The random numbers of a generation follow from the key and its number, so that a search that goes on from a saved state
    with the same key ends as if it had never stopped. Independent searches run side by side under `jax.vmap` over state,
    temperature and key.
    """

    watch: ClassVar[str]
    """The metric that says how well it goes."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """What a report draws of its metrics."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """Settings that its memory grows with, in the order in which to lower them where there is too little."""

    @property
    def start(self) -> Literal["first", "anywhere"] | None:
        """Where the dreams start that it learns in; None: where `dream.start` says."""
        return None

    @property
    @abstractmethod
    def words(self) -> str:
        """What a generation is, for reports."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, list[int]]:
        """What a generation is made of."""

    @property
    @abstractmethod
    def dream_steps(self) -> int:
        """Steps that a generation's dreams go at most, all together."""

    @property
    def steps_in_loop(self) -> int | None:
        """Steps that its dreams go in its innermost loop; None: not told."""
        return None

    @abstractmethod
    def bytes_at_rest(self) -> int:
        """Memory that one search needs while others are at work: its state, old and new."""

    @abstractmethod
    def bytes_at_work(self, devices: int) -> int:
        """Memory that one search needs on each of so many devices, besides."""

    @abstractmethod
    def init(self, key: Key, begin: Params | None = None, starts: State | None = None) -> Any:
        """The state before the first generation; `begin`: weights to go on from, if any; `starts` [S, ...]: the states that
        dreams start in, where there is a dream."""

    @abstractmethod
    def iterate(self, state: Any, dreams: Dreams, first: Array | int, key: Key, count: int) -> tuple[Any, Metrics]:
        """Generations `first` [] to `first + count - 1` in the dream: the state after them and metrics stacked [count]."""

    @abstractmethod
    def candidate(self, state: Any) -> Params:
        """The weights that are evaluated and deployed."""

    def vital(self, state: Any) -> Any:
        """What must be finite for the state to be worth saving."""
        return self.candidate(state)


@struct.dataclass
class Experience:
    """Decisions of B episodes, D in each: one every so many steps."""

    inputs: Array
    """[B, D, F]: what the policy read."""
    drawn: Array
    """[B, D, X]: what it drew."""
    reward: Array
    """[B, D, steps]: of each step of a decision; 0 after the last."""
    length: Array
    """[B] int32: steps of the episode."""
    terminated: Array
    """[B] bool: whether it ended by itself."""


class EpisodeSearch(Search):
    """A search that can also learn from whole episodes of the actual environment, in which an actor tries things out."""

    @property
    @abstractmethod
    def episodes(self) -> int:
        """Episodes of a generation."""

    @property
    @abstractmethod
    def words_in_actual(self) -> str:
        """What a generation is there, for reports."""

    @property
    @abstractmethod
    def batches(self) -> int:
        """Decisions that it needs at least to learn from a generation."""

    @property
    @abstractmethod
    def player(self) -> Trying:
        """What plays them."""

    @abstractmethod
    def trying(self, state: Any, generation: Array | int) -> Params:
        """The player's weights in a generation []."""

    @abstractmethod
    def learn(self, state: Any, experience: Experience, generation: Array | int, key: Key) -> tuple[Any, Metrics]:
        """The state after a generation [], and its metrics."""


class PopulationSearch(Search):
    """A search that only asks what candidates are worth, so that they can play in the actual environment too."""

    watch = "mean"

    fitness: DreamFitness
    """What candidates are worth in the dream."""

    @property
    @abstractmethod
    def population(self) -> int:
        """P: candidates of a generation."""

    @abstractmethod
    def ask(self, state: Any, generation: Array | int, key: Key) -> tuple[Population, Any]:
        """The candidates [P, ...] of a generation [], from 0, and the state to `tell`."""

    @abstractmethod
    def tell(self, state: Any, population: Population, returns: Returns) -> tuple[Any, Metrics]:
        """The state of the next generation, from this one's candidates [P, ...] and their returns [P]; and its metrics, the
        mean return among them. Returns that are not finite rank last, and are left out of metrics: one of these that is not
        finite itself says that there was nothing to learn from, and stops a run of one search."""

    @property
    def episodes(self) -> int:
        """Episodes of a generation, in the actual environment."""
        return self.population * self.rollouts

    @property
    def rollouts(self) -> int:
        """R: episodes whose mean return is what a candidate is worth."""
        return self.fitness.rollouts

    @property
    def actor(self) -> Actor:
        """What it finds the weights of."""
        return self.fitness.actor

    @property
    def size(self) -> int:
        """D"""
        return actors.size(self.actor)

    @property
    def words(self) -> str:
        """What a generation is."""
        return f"{self.population} candidates × {self.rollouts} rollouts"

    @property
    def shapes(self) -> dict[str, list[int]]:
        """What a generation is made of."""
        return {
            "population": [self.population, self.size],
            "rollouts of a generation": [self.population, self.rollouts],
        }

    @property
    def dream_steps(self) -> int:
        """Steps of all dreams if each lasts to the horizon."""
        return self.population * self.rollouts * self.fitness.dream.config.horizon

    @property
    def steps_in_loop(self) -> int:
        """Steps between two looks at who is alive."""
        return steps_between_looks(self.fitness.dream)

    def bytes_at_rest(self) -> int:
        """The candidate, new and old."""
        return FLOAT * 2 * self.size

    def bytes_at_work(self, devices: int) -> int:
        """The candidates, the states of their dreams and these dreams' noise."""
        lanes = math.ceil(self.population * self.rollouts / devices)
        dreams = bytes_of_dreams(self.fitness.dream.model, self.size, lanes, self.rollouts)
        return FLOAT * self.population * self.size + dreams

    def iterate(self, state: Any, dreams: Dreams, first: Array | int, key: Key, count: int) -> tuple[Any, Metrics]:
        """Generations `first` [] to `first + count - 1` in the dream."""
        fitness = jax.tree_util.Partial(self.fitness, dreams.params, dreams.starts, dreams.temperature)
        return self.evolve(state, fitness, first, key, count)

    @partial(jax.jit, static_argnames=("self", "count"))
    def evolve(self, state: Any, fitness: Fitness, first: Array | int, key: Key, count: int) -> tuple[Any, Metrics]:
        """Generations `first` [] to `first + count - 1` in one compiled call: the state after them and the metrics stacked
        [count].

        `fitness` must be traceable: a `jax.tree_util.Partial` of a hashable function and the arrays that it needs. It gets
        a key of its own in each generation.
        """

        # The same key comes with every call; what is drawn hangs on the generation's number, too.
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
        """The search of so many generations for the weights of an actor; its dreams lie on the devices of `mesh`. Raises
        `UserError` where it cannot find an actor of this kind."""
        raise NotImplementedError


def lane_size(model: WorldModel) -> int:
    """Numbers that the state of one dream has."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(model)[2]))


def bytes_of_dreams(model: WorldModel, size: int, lanes: int, starts: int) -> int:
    """Memory of so many dreams of controllers with `size` weights, on so many starts: the states, new and old, and the
    weights that act in them; of each start the state, and its next steps' numbers with the bits that they are made of."""
    noise = jax.tree.leaves(jax.eval_shape(lambda: model.noise(jax.random.key(0))))
    numbers = STEPS_BETWEEN_LOOKS * sum(math.prod(leaf.shape) for leaf in noise)
    return FLOAT * (lanes * 2 * (lane_size(model) + size) + starts * (lane_size(model) + 2 * numbers))
