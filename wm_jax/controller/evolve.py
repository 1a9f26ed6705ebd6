"""CMA-ES (Hansen's tutorial, arXiv 1604.00772), as the paper evolves C (section 2.4 and appendix A.4), on evosax.

ask -> fitness -> rank -> tell is one generation; many are one compiled call. Evolution does not know what is behind the
fitness.
"""

from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from evosax.algorithms.distribution_based.cma_es import CMA_ES, Params, State, eigen_decomposition

from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.types import Array, Fitness, Key, Population, Returns, Weights

Metrics = dict[str, Array]
"""Of one generation: best, mean, worst and std of the candidates' returns, sigma, and non_finite, the number of returns
that were not finite and ranked worst."""


@dataclass(frozen=True)
class EvolveConfig:
    """How C is evolved. The defaults are the paper's."""

    search: Literal["cma_es", "policy_gradient"] = "cma_es"
    """How C is searched: by CMA-ES (the paper), a population at a time, or by policy gradient, whose settings are those of
    `gradient` and not population, rollouts and sigma: for a C of tens of thousands of weights, in dreams only."""
    population: int = 64
    """P: candidates a generation."""
    rollouts: int = 16
    """R: dreams, or actual episodes, whose mean return is a candidate's fitness."""
    fitness: Literal["dream", "actual"] = "dream"
    """Where candidates play: in M's dream, or in the actual environment, as the paper's Car Racing does, where of M only
    its memory is used. There all candidates of a generation meet the same episodes, and each generation meets new ones."""
    environments: int = 16
    """With `fitness` actual: environments stepped side by side."""
    backend: str | None = None
    """Which of the task's backends is played, by candidates with `fitness` actual and in validation; the reference unless
    given. Scores are the reference's in any case."""
    max_steps: int | None = None
    """With `fitness` actual: a candidate's episodes are cut off after this many steps; the task's own limit unless given.
    Validation and scores are whole episodes in any case."""
    patience: int | None = None
    """With `fitness` actual: they are also cut off after this many steps in a row without a positive reward, which spares
    what is lost and no longer tells good candidates from bad ones."""
    sigma: float = 0.1
    """Standard deviation of the first generation's weights; their mean is 0."""
    generations: int = 2000
    """Generations in all."""
    evaluate_every: int = 25
    """Generations between two evaluations of the distribution's mean."""
    evaluation_rollouts: int = 1024
    """Dreams that the mean is evaluated on."""
    select: Literal["dream", "actual"] = "dream"
    """Which score of the evaluated means decides what is deployed: the dream's (the paper), or the actual environment's
    in `actual_episodes`."""
    actual_episodes: int = 8
    """Episodes in the actual environment, never those of the final score, that each evaluated mean plays: they show when
    C begins to cheat its dream. 0 plays none."""
    temperatures: tuple[float, ...] = ()
    """Temperatures whose evolutions run side by side, as the paper's table has them; none is dream.temperature alone."""
    seeds: int = 1
    """Evolutions at each temperature, independent of each other."""

    @property
    def evolutions(self) -> int:
        """E: how many run side by side."""
        return max(1, len(self.temperatures)) * self.seeds

    @property
    def validated_in(self) -> str:
        """Where evaluated means play their validation episodes, in words."""
        return "the actual environment" + (f" ({self.backend})" if self.backend else "")

    def __post_init__(self) -> None:
        _require_search("evolve", self)
        require_range("evolve.generations", self.generations, 1)
        require_range("evolve.evaluation_rollouts", self.evaluation_rollouts, 1)
        require_choice("evolve.select", self.select, ("dream", "actual"))
        require_range("evolve.actual_episodes", self.actual_episodes, 1 if self.select == "actual" else 0)
        require_choice("evolve.search", self.search, ("cma_es", "policy_gradient"))
        if self.search == "policy_gradient" and self.fitness == "actual":
            raise UserError("evolve.search is 'policy_gradient' but evolve.fitness is 'actual': the gradient comes from "
                            "dreams; set evolve.fitness to 'dream', or evolve.search to 'cma_es'")  # fmt: skip
        for temperature in self.temperatures:
            require_range("evolve.temperatures", temperature, 1e-3, 100.0)
            if self.temperatures.count(temperature) > 1:
                raise UserError(f"evolve.temperatures has {temperature} more than once; for several evolutions at one "
                                "temperature raise evolve.seeds")  # fmt: skip
        require_range("evolve.seeds", self.seeds, 1)
        self._check_actual()

    def _check_actual(self) -> None:
        """Raise `UserError` where evolution in the actual environment is asked for what only a dream has."""
        require_choice("evolve.fitness", self.fitness, ("dream", "actual"))
        for name in ("max_steps", "patience"):
            limit = getattr(self, name)
            if limit is not None and self.fitness == "dream":
                raise UserError(f"evolve.{name} is {limit} but evolve.fitness is 'dream', where dream.horizon says how "
                                f"long a rollout lasts; leave evolve.{name} out")  # fmt: skip
        if self.fitness == "actual" and self.select == "dream":
            raise UserError("evolve.select is 'dream' but evolve.fitness is 'actual': no mean has a dream's score; set "
                            "evolve.select to 'actual'")  # fmt: skip
        if self.fitness == "actual" and self.temperatures:
            raise UserError(f"evolve.temperatures is {self.temperatures} but evolve.fitness is 'actual', which has no "
                            "temperature; leave it empty, and raise evolve.seeds for several evolutions")  # fmt: skip


@dataclass(frozen=True)
class TuneConfig:
    """How C goes on being evolved after its dreams: in the actual environment, from the controller that they made, V and M
    staying as they are. All is meant as in `EvolveConfig` with `fitness` actual."""

    generations: int = 0
    """0: C stays as the dreams made it."""
    population: int = 64
    """P"""
    rollouts: int = 16
    """R"""
    sigma: float = 0.03
    """Smaller than where the search began: most of what lies far from a controller that can do something can do less."""
    evaluate_every: int = 25
    """Generations between two validations of the distribution's mean; the best one is deployed."""
    actual_episodes: int = 8
    """Episodes of a validation."""
    environments: int = 16
    """Environments stepped side by side."""
    backend: str | None = None
    """Which of the task's backends is played, in validation too."""
    max_steps: int | None = None
    """A candidate's episodes are cut off after this many steps."""
    patience: int | None = None
    """They are also cut off after this many steps in a row without a positive reward."""

    def __post_init__(self) -> None:
        _require_search("tune", self)
        require_range("tune.generations", self.generations, 0)
        require_range("tune.actual_episodes", self.actual_episodes, 1)

    @property
    def search(self) -> EvolveConfig:
        """The search that this is, where it has any generations."""
        return EvolveConfig(fitness="actual", select="actual", **asdict(self))


def _require_search(group: str, config: EvolveConfig | TuneConfig) -> None:
    """Raise `UserError` where a number of this `group` of settings makes no search."""
    require_range(f"{group}.population", config.population, 4)
    require_range(f"{group}.rollouts", config.rollouts, 1)
    require_range(f"{group}.sigma", config.sigma, 1e-6, 1e3)
    require_range(f"{group}.evaluate_every", config.evaluate_every, 1)
    require_range(f"{group}.environments", config.environments, 1, 1024)
    for name in ("max_steps", "patience"):
        limit = getattr(config, name)
        if limit is not None:
            require_range(f"{group}.{name}", limit, 1)


def strict_rank_weights(population: Population, fitness: Array, state: State, params: Params) -> Array:
    """Recombination weights [P] of `fitness` [P], lower is better: each rank is given away once, whatever the ties.

    evosax's own function gives tied candidates one average rank, cut to an integer, so that the weights no longer sum
    to what the update counts on, as where many candidates reach the horizon. Here ties go to the candidate drawn
    first, which says nothing about its quality. Anything not finite ranks worst.
    """
    ranks = jnp.argsort(jnp.argsort(jnp.where(jnp.isfinite(fitness), fitness, jnp.inf)))
    return params.weights[ranks]


class _TutorialCMAES(CMA_ES):
    """evosax's CMA-ES, brought to Hansen's tutorial in two points, and with candidates that do not hang on rounding.

    The covariance is not decomposed on every `ask`, but where `Evolution.ask` finds it due, and the test for a stalled
    step size counts generations as the tutorial does (evosax is one ahead, which shows in the first).
    """

    def _ask(self, key: Key, state: State, params: Params) -> tuple[Population, State]:
        draws = jax.random.normal(key, (self.population_size, self.num_dims))
        # Eq. (38)-(40), with the covariance's symmetric root B D B^T instead of B D: the same distribution, but no longer
        # at the mercy of which eigenvectors a device finds where eigenvalues are nearly the same, as they are at first.
        return state.mean + state.std * ((draws @ state.B) * state.D) @ state.B.T, state

    def h_std(self, norm_p_std: Array, generation_counter: int, params: Params) -> Array:
        return super().h_std(norm_p_std, generation_counter - 1, params)


def _decompose(state: State) -> State:
    """The state with its covariance's eigenvectors and the roots of its eigenvalues."""
    covariance, basis, scales = eigen_decomposition(state.C)
    return state.replace(C=covariance, B=basis, D=scales)


@cache
def _strategy(population: int, size: int) -> tuple[CMA_ES, Params]:
    """evosax's algorithm and its constants, made once and outside of any trace."""
    with jax.ensure_compile_time_eval():
        strategy = _TutorialCMAES(population, jnp.zeros(size), fitness_shaping_fn=strict_rank_weights)
        return strategy, strategy.default_params


@dataclass(frozen=True)
class Evolution:
    """The search for a controller of `size` weights: a hashable recipe; the state is evosax's, all arrays.

    The random numbers of a generation follow from the key and the number of the generation in the state, so a search
    that goes on from a saved state with the same key ends as if it had never stopped.
    """

    WATCH: ClassVar[str] = "mean"
    """The metric that says how well it goes."""

    config: EvolveConfig
    size: int
    """D"""

    def init(self, key: Key, mean: Weights | None = None) -> State:
        """The state before the first generation: `mean` [D], 0 unless given; covariance sigma^2 times identity."""
        strategy, params = _strategy(self.config.population, self.size)
        mean = jnp.zeros(self.size) if mean is None else mean
        state = strategy.init(key, mean, params).replace(std=jnp.float32(self.config.sigma))
        # Without weak types, a state restored from disk compiles nothing anew.
        return jax.tree.map(lambda array: jnp.asarray(array, array.dtype), state)

    def ask(self, state: State, generation: Array | int, key: Key) -> tuple[Population, State]:
        """The candidates [P, D] of the state's `generation` [], from 0; the state returned is the one to `tell`.

        The covariance is decomposed every max(1, floor(1 / (10 n (c_1 + c_mu)))) generations (the tutorial's appendix
        B.2). `generation` is not read from the state, so that evolutions side by side, which are all in the same one,
        agree on what is due.
        """
        strategy, params = _strategy(self.config.population, self.size)
        gap = max(1, int(1 / (10 * self.size * (float(params.c_1) + float(params.c_mu)))))
        with jax.default_matmul_precision("highest"):
            state = jax.lax.cond(generation % gap == 0, _decompose, lambda state: state, state)
            return strategy.ask(jax.random.fold_in(key, generation), state, params)

    def tell(self, state: State, population: Population, returns: Returns) -> tuple[State, Metrics]:
        """The state of the next generation, from this one's candidates [P, D] and their returns [P]."""
        strategy, params = _strategy(self.config.population, self.size)
        with jax.default_matmul_precision("highest"):
            # evosax minimises. Its CMA-ES draws nothing in `tell`; the key is there for others.
            state, _ = strategy.tell(jax.random.key(0), population, -returns, state, params)
        return state, {
            "best": returns.max(),
            "mean": returns.mean(),
            "worst": returns.min(),
            "std": returns.std(),
            "sigma": state.std,
            "non_finite": (~jnp.isfinite(returns)).sum(),
        }

    @partial(jax.jit, static_argnames=("self", "count"))
    def generations(
        self, state: State, first: Array | int, fitness: Fitness, key: Key, count: int
    ) -> tuple[State, dict[str, Array]]:
        """Run generations `first` [] to `first + count - 1` in one compiled call: the state after them and the metrics
        stacked [count].

        `fitness` must be traceable: a `jax.tree_util.Partial` of a hashable function and the arrays that it needs.
        It gets a key of its own in each generation. Independent evolutions run side by side under `jax.vmap` over state,
        key and whichever of the fitness's arrays they differ by, `first` being the same for all.
        """

        def generation(state: State, number: Array) -> tuple[State, Metrics]:
            ask_key, fitness_key = jax.random.split(key)
            population, state = self.ask(state, number, ask_key)
            return self.tell(state, population, fitness(population, jax.random.fold_in(fitness_key, number)))

        return jax.lax.scan(generation, state, first + jnp.arange(count))

    def mean(self, state: State) -> Weights:
        """The distribution's mean [D]: what is evaluated and deployed. (A generation's best is best partly by luck.)"""
        return state.mean

    def vital(self, state: State) -> Any:
        """What must be finite for the state to be worth saving."""
        return state.mean, state.C
