"""The dream: steps per second of a population's dreams, compared with matrix products alone and two reference loops.

One step is one dream advancing by one step; only dreams that are alive count.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLPConfig
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.limit import Turn, operations, products
from wm_jax.bench.references import reference
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Work, compiled, interleaved, waited
from wm_jax.data.observations import build
from wm_jax.dream import Dream, DreamConfig, DreamSource, DreamVectorEnv, population_returns, start_states, trajectory
from wm_jax.dream.rollout import blocks_of
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.pipeline.progress import Screen
from wm_jax.search.cma_es import CMAES, CMAESConfig
from wm_jax.types import Array, Observations, Params, Population, State
from wm_jax.vision import LatentStats, Vision, VisionConfig
from wm_jax.worlds import Actor
from wm_jax.worlds.vision_memory import VisionMemory

ACTION_SIZE = 1
LOOPS = {
    "torch": "a batched loop in eager PyTorch, as many dreams",
    "numpy": "one dream at a time in NumPy, as the original",
}
"""NAME_dream.py in `benchmarks/`, and its description."""
GENERATIONS = 3
"""Generations in a call with ask and tell: as many as share one eigendecomposition at the paper's size."""
LOOP_STEPS = 64
"""Steps of the reference loops in one run; each step costs the same."""
ALIVE = -1e4
"""A done bias with which no dream ends."""
MEAN_LIFE = 1 / 3
"""Approximate mean length of dreams that can end, as a share of the horizon."""
LIVES = 512
"""Minimum horizon of dreams that can end."""
FACES, EPISODE = 64, 300
"""Dreams of the vectorised Gymnasium environment, and frames of each episode that they start from."""
KEY = jax.random.key(0)
FIRST = np.int32(0)
"""Number of the first generation of a call."""


@dataclass(frozen=True)
class Setup:
    """Random models of the requested sizes, and a population to play with."""

    config: BenchConfig
    model: VisionMemory
    dream: Dream
    actor: Actor
    params: Params
    """With these, no dream ends before the horizon."""
    starts: State
    """[S, ...]"""
    population: Population
    """[P, ...]"""

    @property
    def dreams(self) -> int:
        """Number of dreams side by side: P * R."""
        return self.config.population * self.config.rollouts

    @property
    def words(self) -> str:
        """The sizes as text."""
        config = self.config
        return (
            f"{config.population} × {config.rollouts} dreams of {self.dream.config.horizon:,} steps, "
            f"Z {config.latent_size}, H {config.hidden_size}, K {config.mixtures}, A {ACTION_SIZE}, "
            f"D {actors.size(self.actor):,}"
        )

    def products(self) -> Turn:
        """The matrix products of all dreams: the LSTM's and the head's. One step of a block at a time if blocks are
        equal, else one step of all dreams."""
        config, memory = self.config, self.params["memory"]
        outputs, inputs = memory["head"]["kernel"].shape[1], memory["gates"]["kernel"].shape[0]
        block = block_of(self.dreams)
        shapes = [(block, inputs, 4 * config.hidden_size), (block, config.hidden_size, outputs)]
        return self.dream.config.horizon * self.dreams // block, shapes


def set_up(config: BenchConfig) -> Setup:
    """Build the dream, C and the population of these sizes; weights and recordings are random."""
    network = MemoryConfig(config.hidden_size, config.mixtures, predict_done=True, restart_input=True)
    vision = Vision(VisionConfig(latent_size=config.latent_size))
    model = VisionMemory(vision, Memory(network, config.latent_size, ACTION_SIZE))
    dream = Dream(model, DreamConfig(horizon=horizon_of(config), precision=config.precision))
    actor = MLPConfig(features=("z", "c", "h"), bias=False).build(dream)
    params = _with_done_bias(model.init(jax.random.key(1)), ALIVE)
    recorded = recordings(np.full(64, 1), config.latent_size, ACTION_SIZE)
    starts = start_states(dream, params, recorded, jax.random.clone(KEY))
    return Setup(config, model, dream, actor, params, starts, candidates(actor, config.population))


def block_of(dreams: int) -> int:
    """Dreams that advance together: those of a block if blocks are equal, else all."""
    block = blocks_of(dreams, jax.default_backend())[0]
    return dreams if dreams % block else block


def horizon_of(config: BenchConfig) -> int:
    """Steps of a dream."""
    return config.horizon or (128 if jax.default_backend() == "cpu" else 2100)


def candidates(actor: Actor, count: int) -> Population:
    """A population [count, ...] with weights from N(0, 0.1²)."""
    weights = 0.1 * jax.random.normal(jax.random.key(2), (count, actors.size(actor)), jnp.float32)
    return actors.unflat(actors.shapes(actor), weights)


def recordings(length: np.ndarray, latent_size: int, action_size: int) -> Observations:
    """Random episodes of `length` [E] frames."""
    frames = int(length.sum())
    draw = np.random.default_rng(0).standard_normal
    stats = LatentStats(draw((frames, latent_size)), np.zeros((frames, latent_size)))  # type: ignore[arg-type]
    return build(stats, np.tanh(draw((frames, action_size))), np.ones(frames), length, np.ones(len(length)))


def playing(setup: Setup) -> tuple[Callable[[Params], Array], float]:
    """A compiled function, the model's weights → lengths [P, R] of the dreams; and its compile time in seconds."""
    executable, seconds = compiled(
        population_returns, setup.dream, setup.actor, setup.params, setup.starts, setup.population, KEY,
        rollouts=setup.config.rollouts,
    )  # fmt: skip
    return lambda params: executable(params, setup.starts, setup.population, KEY).lengths, seconds


def steps_of(play: Callable[[Params], Array], params: Params) -> Work:
    """Play all dreams once; returns the steps of living dreams."""
    return lambda: float(np.asarray(play(params)).sum(dtype=np.int64))


def mortal(setup: Setup) -> Params:
    """The same M with another done bias: dreams end anywhere, on average after `MEAN_LIFE` of the horizon."""
    count, horizon = min(16, setup.config.population), setup.dream.config.horizon
    play = partial(trajectory, setup.dream, setup.actor, setup.params, setup.starts, steps=horizon)
    some = jax.tree.map(lambda array: array[:count], setup.population)
    film = jax.vmap(play, out_axes=1)(some, jax.random.split(jax.random.clone(KEY), count))
    # M predicted the end of a step from its state before the step.
    prediction = setup.model.memory.predict(setup.params["memory"], film.state.memory.h[1:])
    logit = np.asarray(prediction.done_logit) - ALIVE
    thresholds = np.quantile(logit, np.linspace(1, 0, 200))
    over = logit > thresholds[:, None, None]
    lives = np.where(over.any(axis=1), over.argmax(axis=1) + 1, horizon).mean(axis=1)
    return _with_done_bias(setup.params, -float(thresholds[np.argmax(lives <= MEAN_LIFE * horizon)]))


def _with_done_bias(params: Params, bias: float) -> Params:
    memory = params["memory"]
    head = {**memory["head"], "bias": memory["head"]["bias"].at[-1].set(bias)}
    return {**params, "memory": {**memory, "head": head}}


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: dream steps per second when no dream ends, compared with matrix products of the same shapes."""
    setup = set_up(config)
    play, _ = playing(setup)
    # Lives of a few steps would hide the cost of checking which dreams are alive.
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
        "first": _vectorised(longer, dying, "first"),
        "anywhere": _vectorised(longer, dying, "anywhere"),
        **_loops(setup, screen),
    }
    rates = interleaved("dream", works, config.seconds, screen)
    rates["products"] *= setup.dreams * setup.dream.config.horizon / operations([setup.products()])
    steps, alive = "steps/s", rates["alive"]
    generations = alive / (setup.dreams * setup.dream.config.horizon)
    rows = [
        Row("dream", alive, steps, rates["products"], "matrix products of the same shapes"),
        Row(
            f"dream: mean life {lives.mean():.2f} of {longer.dream.config.horizon:,} steps",
            rates["dying"],
            steps,
            alive,
            "no dream ends early",
        ),
        *(Row(f"dream: {name}", alive, steps, rates[name], words) for name, words in LOOPS.items() if name in rates),
        Row("dream: vectorised, start anywhere", rates["anywhere"], steps, rates["first"], "start first"),
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
    """The reference loops that can run here, with the same weights and as many dreams."""
    steps = min(LOOP_STEPS, setup.dream.config.horizon)
    weights = jax.tree.map(np.asarray, setup.params["memory"])
    population = np.repeat(np.asarray(actors.flat(setup.population, 1)), setup.config.rollouts, axis=0)
    starts = np.random.default_rng(0).standard_normal((len(population), setup.config.latent_size), np.float32)
    modules = {name: reference(f"{name}_dream", screen) for name in LOOPS}
    return {
        name: partial(module.Loop(weights, population, starts, setup.dream.config.temperature).play, steps)
        for name, module in modules.items()
        if module is not None
    }


def _vectorised(setup: Setup, params: Params, start: Literal["first", "anywhere"]) -> Work:
    """Steps of the vectorised Gymnasium environment, in whose dreams single lanes end and restart."""
    dream = dataclasses.replace(setup.dream, config=dataclasses.replace(setup.dream.config, start=start))
    recorded = recordings(np.full(FACES, EPISODE), setup.config.latent_size, ACTION_SIZE)
    faces = DreamVectorEnv(FACES, DreamSource(dream, params, recorded, frames_per_second=35))
    faces.reset(seed=0)
    action = np.zeros((FACES, ACTION_SIZE), np.float32)
    return waited(lambda: faces.step(action), FACES)


def _generations(setup: Setup) -> tuple[Work, float]:
    """Whole generations, with ask and tell, in one call; and the compile time in seconds."""
    search = search_of(setup)
    temperature = jnp.float32(setup.dream.config.temperature)
    fitness = jax.tree_util.Partial(search.fitness, setup.params, setup.starts, temperature)
    state = search.init(jax.random.clone(KEY))
    executable, seconds = compiled(CMAES.evolve, search, state, fitness, FIRST, KEY, GENERATIONS)
    return waited(partial(executable, state, fitness, FIRST, KEY), GENERATIONS), seconds


def search_of(setup: Setup) -> CMAES:
    """CMA-ES for C, with the same number of candidates and rollouts."""
    config = CMAESConfig(population=setup.config.population, rollouts=setup.config.rollouts)
    return config.build(setup.actor, setup.dream, GENERATIONS)
