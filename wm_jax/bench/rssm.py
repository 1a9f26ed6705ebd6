"""The RSSM (DreamerV3's size1m): steps per second of its dreams, compared with matrix products of the same shapes, and
frames per second of its training, compared with the same network in PyTorch.
"""

from dataclasses import replace

import jax
import numpy as np

from wm_jax.actors.mlp import MLPConfig
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import block_of, candidates, horizon_of, steps_of
from wm_jax.bench.limit import Product, operations, products
from wm_jax.bench.references import reference
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Training, Work, compiled, interleaved
from wm_jax.data.observations import build
from wm_jax.dream import Dream, DreamConfig, population_returns, start_states
from wm_jax.pipeline.progress import Screen
from wm_jax.rssm import two_hot
from wm_jax.rssm.config import SIZE1M
from wm_jax.rssm.model import RSSM, Frames
from wm_jax.rssm.train import TrainState, continue_from, train_step
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Observations, Params
from wm_jax.worlds.rssm import RSSMWorld

KEY = jax.random.key(0)
ACTION_SIZE = 1


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: dream steps per second, including the reward head."""
    size = replace(
        SIZE1M,
        batch_size=min(SIZE1M.batch_size, config.sequences),
        sequence_length=min(SIZE1M.sequence_length, config.sequence_length),
    )
    model = RSSM(size, Frames(size.width), ACTION_SIZE)
    params, recorded = model.init(jax.random.clone(KEY)), recordings(size.batch_size, size.sequence_length)
    dreams, horizon = config.population * config.rollouts, horizon_of(config)
    turn = horizon * dreams // block_of(dreams), step_products(model, block_of(dreams))
    training, seconds = trained(model, params, recorded)
    works = {
        "dream": dreaming(model, params, recorded, config),
        "products": products([turn], config.precision),
        "training": training,
    }
    torch = reference("torch_rssm", screen)
    if torch is not None:
        batch = size.batch_size, size.sequence_length
        frames, action, reward = (
            np.swapaxes(np.asarray(array).reshape(*batch, *array.shape[1:]), 0, 1)
            for array in (recorded.encoded, recorded.action, recorded.reward)
        )
        works["torch"] = torch.Opponent(frames, action, reward, size).train
    rates = interleaved("rssm", works, config.seconds, screen)
    limit = rates["products"] * dreams * horizon / operations([turn])
    rows = (
        Row("rssm: dream", rates["dream"], "steps/s", limit, "matrix products of the same shapes"),
        Row("rssm: training", rates["training"], "frames/s", rates.get("torch"),
            "PyTorch, the same network and batch" if torch else ""),
        Row("rssm: compile time of a training step", seconds, "s"),
    )  # fmt: skip
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    sizes = (
        f"size1m, {weights:,} weights; {config.population} × {config.rollouts} dreams of {horizon:,} steps; "
        f"batches of {size.batch_size} × {size.sequence_length} frames"
    )
    return Result(sizes, rows)


def recordings(episodes: int, length: int) -> Observations:
    """Random episodes of `length` frames."""
    draw, frames = np.random.default_rng(0), episodes * length
    return build(
        draw.integers(0, 256, (frames, *FRAME_SHAPE), np.uint8),
        np.tanh(draw.standard_normal((frames, ACTION_SIZE))), draw.standard_normal(frames),
        np.full(episodes, length), np.zeros(episodes, bool),
    )  # fmt: skip


def dreaming(model: RSSM, params: Params, recorded: Observations, config: BenchConfig) -> Work:
    """Play a population's dreams; returns their steps."""
    world, weights = RSSMWorld(model), {"rssm": params}
    settings = DreamConfig(horizon=horizon_of(config), precision=config.precision, reward="predicted")
    dream = Dream(world, settings)
    actor = MLPConfig(features=("deterministic", "stochastic"), bias=False).build(dream)
    starts = start_states(dream, weights, recorded, jax.random.clone(KEY))
    population = candidates(actor, config.population)
    executable, _ = compiled(
        population_returns, dream, actor, weights, starts, population, KEY, rollouts=config.rollouts
    )
    return steps_of(lambda weights: executable(weights, starts, population, KEY).lengths, weights)


def step_products(model: RSSM, lanes: int) -> list[Product]:
    """The matrix products of one dreamt step of all lanes."""
    config, s = model.config, model.latent.size
    d, hidden, head, part = (
        config.deterministic_size,
        config.hidden_size,
        config.head_size,
        model.gru.size // config.blocks,
    )
    block = [(lanes, 3 * hidden + part, part), (lanes, part, 3 * part)]
    return [
        (lanes, d, hidden), (lanes, s, hidden), (lanes, ACTION_SIZE, hidden), *(config.blocks * block),
        (lanes, d, hidden), *((config.prior_layers - 1) * [(lanes, hidden, hidden)]),
        (lanes, hidden, model.latent.outputs),
        (lanes, d + s, head), (lanes, head, two_hot.BINS),
    ]  # fmt: skip


def trained(model: RSSM, params: Params, recorded: Observations) -> tuple[Work, float]:
    """Training steps on one batch, and the compile time in seconds."""
    positions = np.arange(len(recorded.action), dtype=np.int32).reshape(-1, model.config.sequence_length)
    batch, state = jax.device_put(positions), continue_from(model, params)
    train, seconds = compiled(train_step, model, state, recorded, batch, KEY)

    def step(state: TrainState) -> TrainState:
        return train(state, recorded, batch, KEY)[0]

    return Training(step, state, positions.size), seconds
