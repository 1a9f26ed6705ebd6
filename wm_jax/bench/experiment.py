"""Measures the parts of any experiment, with random weights and random recordings, compared with this machine's maximum
speed.
"""

import math
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import FIRST, GENERATIONS, KEY, horizon_of
from wm_jax.bench.limit import products
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Training, Work, interleaved, waited
from wm_jax.data import observations
from wm_jax.data.episodes import EpisodeStore
from wm_jax.data.records import Episode, write_episode, write_index
from wm_jax.data.training import Learner, TrainingData
from wm_jax.dream import ENDS, population_returns, start_states
from wm_jax.experiment import Experiment
from wm_jax.lanes import alone
from wm_jax.models import Models
from wm_jax.pipeline.progress import Screen
from wm_jax.rollouts.agent import Agent, act, initial_state
from wm_jax.search import PopulationSearch, Search
from wm_jax.search.protocol import Dreams
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Array, Observations, Outcome, Params, State
from wm_jax.worlds import WorldModel

SIDE = 2048
"""Rows and columns of the matrices whose products measure the machine: large enough for its best rate."""
LANES = 16
"""Agents that act side by side."""
POOL, SQUARE = 64, 8
"""Distinct frames in the recordings, and the side of their single-coloured squares: noise would take long to write."""
LENGTH = 200
"""Minimum steps of a recorded episode."""
STEPS = 1_000_000
"""Steps of a training, more than are measured."""
PRODUCTS = "operations at the rate of large matrix products"


@dataclass(frozen=True)
class Part:
    """A part of an experiment's work."""

    name: str
    unit: str
    work: Work
    beside: str
    """Name of the measured work that sets the limit."""
    factor: float | None
    """The limit is this many times that work's rate; None if unknown."""
    against: str
    """Description of the limit."""

    def row(self, rates: dict[str, float]) -> Row:
        """Its row of the table, from all rates."""
        limit = None if self.factor is None else self.factor * rates[self.beside]
        return Row(self.name, rates[self.name], f"{self.unit}/s", limit, "" if limit is None else self.against)


@ENDS.register
def never(outcome: Outcome, model: WorldModel) -> Array:
    """No dream ends, so that their length does not depend on what random weights predict."""
    return jnp.zeros((), jnp.float32)


def measure(experiment: Experiment, config: BenchConfig, screen: Screen) -> Result:
    """Rows for the dream, a generation of the search in it, each learner's training, and acting."""
    horizon = min(experiment.dream.horizon, horizon_of(config))
    endless = replace(experiment.dream, horizon=horizon, end=never.__name__, full_return=None)
    models = Models(replace(experiment, dream=endless))
    search, params = models.search(experiment.evolve.generations), models.world.init(jax.random.clone(KEY))
    large = [(1 if jax.default_backend() == "cpu" else 100, [(SIDE, SIDE, SIDE)])]
    with tempfile.TemporaryDirectory() as folder:
        store, recorded = record(models, params, Path(folder))
        data = TrainingData(store, np.arange(len(store)), np.zeros(0, int), recorded)
        dream, words = dreaming(models, params, recorded, search, config)
        acts, encode = acting(models, params)
        learners = models.world.learners.items()
        trainings = [training(name, learner, params[name], data) for name, learner in learners]
        parts = [dream, *searching(models, params, recorded, search), *trainings, acts]
        # Training uses JAX's default precision.
        works = {part.name: part.work for part in parts} | {
            "encoding": encode,
            "dream's products": products(large, endless.precision),
            "products": products(large, "default"),
        }
        rates = interleaved("experiment", works, config.seconds, screen)
    sizes = f"{models.task.name}, {words}; C reads {models.actor.words}; a generation: {search.words}"
    return Result(sizes, tuple(part.row(rates) for part in parts))


def record(models: Models, params: Params, folder: Path) -> tuple[EpisodeStore, Observations]:
    """Random episodes, on disk and encoded by the world model: enough for a batch of each learner."""
    learners, actions = models.world.learners.values(), models.world.action_size
    length = max([LENGTH, *(learner.units // learner.batch_size + 1 for learner in learners)])
    count = max([2, *(math.ceil(learner.units / length) for learner in learners)])
    generator = np.random.default_rng(0)
    small = (POOL, FRAME_SHAPE[0] // SQUARE, FRAME_SHAPE[1] // SQUARE, FRAME_SHAPE[2])
    pool = generator.integers(0, 256, small, np.uint8).repeat(SQUARE, axis=1).repeat(SQUARE, axis=2)
    which = generator.integers(POOL, size=(count, length))
    action = np.tanh(generator.standard_normal((count, length, actions), np.float32))
    reward = np.zeros((count, length), np.float32)
    episodes = (Episode(pool[which[i]], action[i], reward[i], True, i, models.task.name) for i in range(count))
    write_index(folder, [write_episode(folder, number, episode) for number, episode in enumerate(episodes)])
    store, encoded = EpisodeStore([folder]), jax.jit(models.world.encode)(params, pool)
    encoded = jax.tree.map(lambda array: np.asarray(array)[which.reshape(-1)], encoded)
    recorded = observations.build(
        encoded, action.reshape(-1, actions), reward.reshape(-1), store.lengths, np.ones(count, bool)
    )
    return store, recorded


def dreaming(
    models: Models, params: Params, recorded: Observations, search: Search, config: BenchConfig
) -> tuple[Part, str]:
    """A population's dreams, compared with the world model's operations; and their number, as text."""
    dream, horizon = models.dream, models.dream.config.horizon
    population, rollouts = config.population, config.rollouts
    if isinstance(search, PopulationSearch):
        population, rollouts = search.population, search.rollouts
    if not actors.size(models.actor):
        population = 1
    candidates = jax.vmap(models.actor.init)(jax.random.split(jax.random.clone(KEY), population))
    starts = start_states(dream, params, recorded, jax.random.clone(KEY))
    play = partial(population_returns, dream, models.actor, params, starts, candidates, KEY, rollouts=rollouts)
    operations = operations_of_a_step(models.world, params, starts)
    work = waited(play, population * rollouts * horizon)
    factor = 1 / operations if operations else None
    part = Part("dream", "steps", work, "dream's products", factor, f"the model's {PRODUCTS}")
    return part, f"{population} × {rollouts} dreams of {horizon:,} steps"


def operations_of_a_step(model: WorldModel, params: Params, starts: State) -> float:
    """Floating-point operations of one step of one dream, as counted by XLA; 0 if XLA does not report them."""
    state = jax.tree.map(lambda array: array[0], starts)
    lowered = jax.jit(model.imagine).lower(
        params, state, jnp.zeros(model.action_size, jnp.float32), model.noise(jax.random.clone(KEY)), 1.0
    )
    return (lowered.cost_analysis() or {}).get("flops", 0)


def searching(models: Models, params: Params, recorded: Observations, search: Search) -> list[Part]:
    """Generations in the dream, compared with their dreams alone; empty if C has no weights to search for."""
    if not actors.size(models.actor):
        return []
    starts = start_states(models.start_dream(search), params, recorded, jax.random.clone(KEY))
    dreams = Dreams(params, starts, jnp.float32(models.dream.config.temperature))
    iterate = partial(
        jax.jit(search.iterate, static_argnums=4), search.init(jax.random.clone(KEY), None, starts), dreams, FIRST, KEY
    )
    work, steps = waited(partial(iterate, GENERATIONS), GENERATIONS), search.dream_steps
    return [Part("search: generations", "generations", work, "dream", 1 / steps if steps else None, "the dreams alone")]


def training(name: str, learner: Learner, params: Params, data: TrainingData) -> Part:
    """A learner's steps, compared with its own count of operations."""
    mesh, learner = parallel.mesh(1), learner.with_steps(STEPS)
    advance = learner.advance(data, 0, 0, KEY, mesh)
    flop = learner.flop(sum(leaf.size for leaf in jax.tree.leaves(params)))
    work = Training(lambda state: advance(state)[0], learner.start(params, mesh), learner.units)
    factor = learner.units / flop if flop else None
    return Part(f"{name}: training", learner.unit, work, "products", factor, f"its {PRODUCTS}")


def acting(models: Models, params: Params) -> tuple[Part, Work]:
    """The agent acting, without the environment, compared with encoding alone, which is part of the work."""
    agent = Agent(models.world, models.actor)
    table = alone(models.actor.init(jax.random.clone(KEY)))
    frames = np.random.default_rng(0).integers(0, 256, (LANES, *FRAME_SHAPE), np.uint8)
    whole = partial(act, agent, params, table, initial_state(agent, table, LANES), frames)
    encode = partial(jax.jit(models.world.encode), params, frames)
    part = Part("agent: acting", "frames", waited(whole, LANES), "encoding", 1.0, "encoding alone")
    return part, waited(encode, LANES)
