"""CMA-ES (Hansen's tutorial, arXiv 1604.00772), which the paper evolves C with (section 2.4 and appendix A.4), on
evosax.

A generation is ask -> fitness -> rank -> tell; one compiled call runs many. Evolution treats the fitness as a black
box. Only here are weights one flat array [D] (`actors.protocol.flat`).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from wm_jax.actors import protocol as actors
from wm_jax.dream import Dream, DreamFitness
from wm_jax.errors import require_range
from wm_jax.optimizers import jax_defaults
from wm_jax.search.protocol import SEARCHES, PopulationSearch, SearchConfig
from wm_jax.types import FLOAT, Array, Curve, Key, Metrics, Params, Population, Returns, State
from wm_jax.worlds import Actor

FLOOR = 1e-8
"""Added to the covariance's diagonal; also the lower bound of its eigenvalues."""


@SEARCHES.register
@dataclass(frozen=True)
class CMAESConfig(SearchConfig):
    """CMA-ES. The defaults are the paper's."""

    kind: Literal["cma_es"] = "cma_es"
    population: int = 64
    """P: candidates per generation."""
    rollouts: int = 16
    """R: dreams or actual episodes per candidate; the mean return is its fitness."""
    sigma: float = 0.1
    """Standard deviation of the first generation's weights. In a search that starts from a controller, keep it below
    the sigma of the search that found it: far from a working controller most candidates are worse."""

    def __post_init__(self) -> None:
        require_range("search.population", self.population, 4, 2**20)
        require_range("search.rollouts", self.rollouts, 1, 2**20)
        require_range("search.sigma", self.sigma, 1e-6, 1e3)

    def build(self, actor: Actor, dream: Dream, generations: int, mesh: Mesh | None = None) -> "CMAES":
        """The search for the weights of an actor; it does not depend on the number of generations."""
        return CMAES(self, DreamFitness(dream, actor, self.rollouts, mesh))


def strict_rank_weights(population: Array, fitness: Array, state: Any, params: Any) -> Array:
    """Recombination weights [P] of `fitness` [P], lower is better: each rank is used once, also for ties.

    evosax's own function gives tied candidates their average rank, truncated to an integer. The weights then no longer
    have the sum that the update assumes, for example when many candidates reach the horizon. Here ties are broken in
    the order of sampling, which is independent of quality. Values that are not finite rank worst; if none is finite,
    all weights are 0.
    """
    finite = jnp.isfinite(fitness)
    ranks = jnp.argsort(jnp.argsort(jnp.where(finite, fitness, jnp.inf)))
    return jnp.where(finite.any(), params.weights[ranks], 0)


@cache
def _strategy(population: int, size: int) -> tuple[Any, Any]:
    """evosax's algorithm and its constants, made once and outside of any trace."""
    # Imported here: acting and dreaming need no search and start faster without it.
    from evosax.algorithms import CMA_ES

    with jax.ensure_compile_time_eval(), jax_defaults("highest"):
        strategy = CMA_ES(population, jnp.zeros(size), fitness_shaping_fn=strict_rank_weights)
        return strategy, _single(strategy.default_params)


def _single(tree: Any) -> Any:
    """evosax's numbers as float32 arrays, whatever JAX's default is, and without weak types, so that a state restored
    from disk causes no recompilation."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _decompose(state: Any) -> Any:
    """The state with its covariance's eigenvectors and the square roots of its eigenvalues, which are kept above 0."""
    covariance = (state.C + state.C.T) / 2 + FLOOR * jnp.eye(len(state.C), dtype=jnp.float32)
    values, basis = jnp.linalg.eigh(covariance)
    return state.replace(C=covariance, B=basis, D=jnp.sqrt(jnp.maximum(values, FLOOR)))


@dataclass(frozen=True)
class CMAES(PopulationSearch):
    """A `PopulationSearch`; its state is evosax's, all arrays.

    Metrics of a generation: best, mean, worst and std of the candidates' finite returns (not finite themselves if there
    is none), sigma, and non_finite, the number of the other candidates, which rank worst.
    """

    sizes: ClassVar[tuple[str, ...]] = ("search.rollouts", "search.population")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            "population",
            ("mean",),
            "C: returns of the population",
            "The population's returns, and the evaluated candidates with one standard error.",
            band=("worst", "best"),
        ),
        Curve("sigma", ("sigma",), "CMA-ES: step size σ", "The search's step size."),
    )

    config: CMAESConfig
    fitness: DreamFitness
    """Fitness of candidates in the dream."""

    @property
    def population(self) -> int:
        """P: candidates per generation."""
        return self.config.population

    def bytes_at_rest(self) -> int:
        """The covariance and its eigenvectors, new and old."""
        return FLOAT * 4 * self.size**2

    def bytes_at_work(self, devices: int) -> int:
        """The intermediate results of `ask` and `tell`, and the dreams."""
        return FLOAT * (6 * self.size**2 + 3 * self.population * self.size) + super().bytes_at_work(devices)

    def init(self, key: Key, begin: Params | None = None, starts: State | None = None) -> Any:
        """The state before the first generation: the mean is `begin`, or 0; the covariance is sigma^2 times
        identity."""
        strategy, params = _strategy(self.population, self.size)
        mean = jnp.zeros(self.size, jnp.float32) if begin is None else actors.flat(begin)
        with jax_defaults("highest"):
            state = _single(strategy.init(key, mean, params))
        # The tutorial's test for a stalled step size counts generations from one less than evosax, which matters in the
        # first.
        return state.replace(std=jnp.float32(self.config.sigma), generation_counter=jnp.int32(-1))

    def ask(self, state: Any, generation: Array | int, key: Key) -> tuple[Population, Any]:
        """The candidates [P, ...] of the state's `generation` [], from 0; pass the returned state to `tell`.

        They are drawn by the tutorial's equations (38)-(40), but with the covariance's symmetric root B D B^T instead
        of B D. The distribution is the same, and the samples do not depend on which eigenvectors a device finds when
        eigenvalues are nearly equal, as they are at first.

        The covariance is decomposed every max(1, floor(1 / (10 n (c_1 + c_mu)))) generations (the tutorial's appendix
        B.2). `generation` is an argument, not part of the state, so that searches side by side share the condition.
        """
        _, params = _strategy(self.population, self.size)
        gap = max(1, int(1 / (10 * self.size * (float(params.c_1) + float(params.c_mu)))))
        draws = jax.random.normal(jax.random.fold_in(key, generation), (self.population, self.size), jnp.float32)
        with jax.default_matmul_precision("highest"):
            state = jax.lax.cond(generation % gap == 0, _decompose, lambda state: state, state)
            steps = ((draws @ state.B) * state.D[None]) @ state.B.T
        return self._unflat(state.mean[None] + state.std * steps), state

    def tell(self, state: Any, population: Population, returns: Returns) -> tuple[Any, Metrics]:
        """The state of the next generation, from this one's candidates [P, ...] and their returns [P]."""
        strategy, params = _strategy(self.population, self.size)
        finite = jnp.isfinite(returns)
        with jax_defaults("highest"):
            # evosax minimises. Its CMA-ES draws nothing in `tell`; only its other strategies use the key.
            fitness = -returns.astype(jnp.float32)
            state, _ = strategy.tell(jax.random.key(0), actors.flat(population, 1), fitness, state, params)
        return state, {
            "best": returns.max(where=finite, initial=-jnp.inf),
            "mean": returns.mean(where=finite),
            "worst": returns.min(where=finite, initial=jnp.inf),
            "std": returns.std(where=finite),
            "sigma": state.std,
            "non_finite": (~finite).sum(dtype=jnp.int32),
        }

    def candidate(self, state: Any) -> Params:
        """The distribution's mean. (The best candidate of a generation is partly lucky.)"""
        return self._unflat(state.mean)

    def vital(self, state: Any) -> Any:
        """The part of the state that must be finite for it to be saved."""
        return state.mean, state.C

    def _unflat(self, weights: Array) -> Params:
        return actors.unflat(actors.shapes(self.actor), weights)
