"""The dream: steps per second of a population's dreams, against matrix products alone and two reference loops.

A step is one dream going one step; only dreams that are alive count.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.bench.config import BenchConfig
from wm_jax.bench.limit import Turn, operations, products
from wm_jax.bench.references import reference
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Work, compiled, interleaved
from wm_jax.controller import Controller, Evolution, EvolveConfig, PolicyConfig
from wm_jax.dream import Dream, DreamConfig, DreamFitness, population_returns, trajectory
from wm_jax.dream.rollout import blocks_of
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.pipeline.progress import Screen
from wm_jax.types import Array, Latents, LatentStats, Params, Population

ACTION_SIZE = 1
LOOPS = {
    "torch": "a batched loop in eager PyTorch, as many dreams",
    "numpy": "one dream at a time in NumPy, as the original",
}
"""NAME_dream.py in `benchmarks/`, and what it is."""
GENERATIONS = 3
"""In a call with ask and tell: as many as share one eigendecomposition at the paper's size."""
LOOP_STEPS = 64
"""Steps that the reference loops go in a run; a step costs them the same, however many there are."""
ALIVE = -1e4
"""Done bias with which nobody dies."""
MEAN_LIFE = 1 / 3
"""Of the horizon, about, where dreams do die."""
LIVES = 512
"""Steps that a dream that may die can live, at least."""
KEY = jax.random.key(0)
FIRST = np.int32(0)
"""Number of the first generation of a call."""


@dataclass(frozen=True)
class Setup:
    """Random models of the sizes asked for, and whom to play with."""

    config: BenchConfig
    dream: Dream
    policy: Controller
    params: Params
    """With these nobody dies before the horizon."""
    latents: Latents
    population: Population

    @property
    def dreams(self) -> int:
        """Played side by side: P * R."""
        return len(self.population) * self.config.rollouts

    @property
    def words(self) -> str:
        """The sizes."""
        memory, config = self.dream.memory, self.config
        return (
            f"{len(self.population)} × {config.rollouts} dreams of {self.dream.config.horizon:,} steps, "
            f"Z {memory.latent_size}, H {config.hidden_size}, K {config.mixtures}, A {memory.action_size}, "
            f"D {self.policy.size:,}"
        )

    def products(self) -> Turn:
        """The matrix products of all these dreams: the LSTM's and the head's, a step of a block at a time where blocks are
        equal, else of all."""
        config, outputs = self.config, self.params["head"]["kernel"].shape[1]
        inputs, block = self.params["gates"]["kernel"].shape[0], blocks_of(self.dreams)[0]
        block = self.dreams if self.dreams % block else block
        shapes = [(block, inputs, 4 * config.hidden_size), (block, config.hidden_size, outputs)]
        return self.dream.config.horizon * self.dreams // block, shapes


def set_up(config: BenchConfig) -> Setup:
    """The dream, the policy and the population of these sizes; weights and recordings are random."""
    horizon = config.horizon or (128 if jax.default_backend() == "cpu" else 2100)
    network = MemoryConfig(config.hidden_size, config.mixtures, predict_done=True, restart_input=True)
    memory = Memory(network, config.latent_size, ACTION_SIZE)
    policy = Controller(PolicyConfig("zhc", bias=False), config.latent_size, config.hidden_size, ACTION_SIZE)
    return Setup(
        config=config,
        dream=Dream(memory, DreamConfig(horizon=horizon, precision=config.precision)),
        policy=policy,
        params=_with_done_bias(memory.init(jax.random.key(1)), ALIVE),
        latents=recordings(np.full(64, 1), config.latent_size, ACTION_SIZE),
        population=0.1 * jax.random.normal(jax.random.key(2), (config.population, policy.size)),
    )


def recordings(length: np.ndarray, latent_size: int, action_size: int) -> Latents:
    """Random episodes of `length` [E] frames."""
    frames = int(length.sum())
    draw = np.random.default_rng(0).standard_normal
    return Latents(
        stats=LatentStats(
            jnp.asarray(draw((frames, latent_size)), jnp.float16), jnp.zeros((frames, latent_size), jnp.float16)
        ),
        action=jnp.asarray(np.tanh(draw((frames, action_size))), jnp.float32),
        reward=jnp.ones(frames),
        start=jnp.asarray(np.cumsum(length) - length, jnp.int32),
        length=jnp.asarray(length, jnp.int32),
        terminated=jnp.ones(len(length), bool),
    )


def playing(setup: Setup) -> tuple[Callable[[Params], Array], float]:
    """M's weights → lengths [P, R] of the dreams, compiled; and the seconds that compiling took."""
    executable, seconds = compiled(
        population_returns, setup.dream, setup.policy, setup.params, setup.latents, setup.population, KEY,
        rollouts=setup.config.rollouts,
    )  # fmt: skip
    return lambda params: executable(params, setup.latents, setup.population, KEY).lengths, seconds


def steps_of(play: Callable[[Params], Array], params: Params) -> Work:
    """All dreams once; returns the steps of those alive."""
    return lambda: float(np.asarray(play(params)).sum(dtype=np.int64))


def mortal(setup: Setup) -> Params:
    """The same M with another done bias, at which dreams die anywhere, after `MEAN_LIFE` of the horizon on average."""
    memory, horizon = setup.dream.memory, setup.dream.config.horizon
    assert isinstance(memory, Memory)
    play = partial(trajectory, setup.dream, setup.policy, setup.params, setup.latents, steps=horizon)
    some = setup.population[:16]
    film = jax.vmap(play, out_axes=1)(some, jax.random.split(KEY, len(some)))
    restart = jnp.zeros((horizon, len(some))).at[0].set(1)
    _, h = memory.unroll(setup.params, memory.initial_state((len(some),)), film.z, film.action, restart)
    logit = np.asarray(memory.predict(setup.params, h).done_logit) - ALIVE
    thresholds = np.quantile(logit, np.linspace(1, 0, 200))
    over = logit > thresholds[:, None, None]
    lives = np.where(over.any(axis=1), over.argmax(axis=1) + 1, horizon).mean(axis=1)
    return _with_done_bias(setup.params, -float(thresholds[np.argmax(lives <= MEAN_LIFE * horizon)]))


def _with_done_bias(params: Params, bias: float) -> Params:
    head = params["head"]
    return {**params, "head": {**head, "bias": head["bias"].at[-1].set(bias)}}


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: dream steps per second where nobody dies, against matrix products of the same shapes."""
    setup = set_up(config)
    play, _ = playing(setup)
    # Lives of a few steps would say nothing of the looks at who is alive.
    longer = set_up(dataclasses.replace(config, horizon=max(setup.dream.config.horizon, LIVES)))
    play_longer, _ = playing(longer)
    dying = mortal(longer)
    lives = np.asarray(play_longer(dying)) / longer.dream.config.horizon
    evolve, compile_seconds = _generations(setup)
    works = {
        "products": products([setup.products()], config.precision),
        "alive": steps_of(play, setup.params),
        "dying": steps_of(play_longer, dying),
        "evolve": evolve,
        **_loops(setup, screen),
    }
    speeds = interleaved("dream", works, config.seconds, screen)
    rates = {name: speed.rate for name, speed in speeds.items()}
    rates["products"] *= setup.dreams * setup.dream.config.horizon / operations([setup.products()])
    steps, alive = "steps/s", rates["alive"]
    generations = 1 / speeds["alive"].seconds
    rows = [
        Row("dream", alive, steps, rates["products"], "matrix products of the same shapes"),
        Row(
            f"dream: mean life {lives.mean():.2f} of {longer.dream.config.horizon:,} steps",
            rates["dying"],
            steps,
            alive,
            "nobody dies",
        ),
        *(Row(f"dream: {name}", alive, steps, rates[name], words) for name, words in LOOPS.items() if name in rates),
        Row("dream: generations", generations, "1/s"),
        Row(
            "dream: generations, ask and tell",
            rates["evolve"],
            "1/s",
            generations,
            f"without ask and tell, dreams of {setup.dream.config.horizon:,} steps",
        ),
        Row("dream: compile time of a generation", compile_seconds, "s"),
    ]
    return Result(setup.words, tuple(rows))


def _loops(setup: Setup, screen: Screen) -> dict[str, Work]:
    """The reference loops, as far as they can be had here, with the same weights and as many dreams."""
    steps = min(LOOP_STEPS, setup.dream.config.horizon)
    weights = jax.tree.map(np.asarray, setup.params)
    population = np.repeat(np.asarray(setup.population), setup.config.rollouts, axis=0)
    starts = np.random.default_rng(0).standard_normal((len(population), setup.config.latent_size), np.float32)
    modules = {name: reference(f"{name}_dream", screen) for name in LOOPS}
    return {
        name: partial(module.Loop(weights, population, starts, setup.dream.config.temperature).play, steps)
        for name, module in modules.items()
        if module is not None
    }


def _generations(setup: Setup) -> tuple[Work, float]:
    """Whole generations, ask and tell included, in one call; and the seconds that compiling took."""
    config = setup.config
    evolution = Evolution(EvolveConfig(population=config.population, rollouts=config.rollouts), setup.policy.size)
    dreams = DreamFitness(setup.dream, setup.policy, config.rollouts)
    temperature = jnp.float32(setup.dream.config.temperature)
    fitness = jax.tree_util.Partial(dreams, setup.params, setup.latents, temperature)
    state = evolution.init(KEY)
    executable, seconds = compiled(Evolution.generations, evolution, state, FIRST, fitness, KEY, GENERATIONS)

    def work() -> float:
        jax.block_until_ready(executable(state, FIRST, fitness, KEY))
        return float(GENERATIONS)

    return work, seconds
