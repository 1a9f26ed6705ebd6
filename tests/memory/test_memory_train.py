from dataclasses import replace

import jax
import numpy as np
import pytest
from memory_data import random_observations, rotating_observations

from wm_jax.errors import UserError
from wm_jax.memory import Memory, MemoryConfig, train
from wm_jax.memory.evaluation import evaluate
from wm_jax.memory.loss import loss
from wm_jax.memory.train import chunks_from, continue_from, epoch_positions, init, train_step
from wm_jax.optimizers import OptimizerConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")


def tile(length):
    length = np.asarray(length, np.int32)
    return np.cumsum(length, dtype=np.int32) - length, length


def test_an_epoch_reads_each_frame_at_most_once_and_keeps_the_order_within_episodes():
    start, length = tile(np.random.default_rng(0).integers(1, 60, size=200))
    positions = epoch_positions(start, length, batch_size=7, sequence_length=11, seed=3, epoch=5)
    frames = length.sum()
    assert positions.dtype == np.int32 and positions.shape == (frames // 77, 7, 11)
    assert len(np.unique(positions)) == positions.size
    assert positions.min() >= 0 and positions.max() < frames
    lanes = positions.swapaxes(0, 1).reshape(7, -1)
    last = np.cumsum(length) - 1
    follows = lanes[:, 1:] == lanes[:, :-1] + 1
    jumps = np.isin(lanes[:, :-1], last) & np.isin(lanes[:, 1:], start)
    assert (follows | jumps).all() and not follows.all()


def test_equal_episodes_as_long_as_a_sequence_are_read_whole():
    start, length = tile([50] * 12)
    positions = epoch_positions(start, length, batch_size=4, sequence_length=50, seed=0, epoch=0)
    assert positions.shape == (3, 4, 50)
    np.testing.assert_array_equal(positions - positions[:, :, :1], np.broadcast_to(np.arange(50), (3, 4, 50)))
    np.testing.assert_array_equal(np.sort(positions[:, :, 0].ravel()), start)


def test_epochs_differ_and_are_set_by_seed_and_number():
    arguments = (*tile([9, 20, 14, 30, 8, 25]), 2, 10)
    first = epoch_positions(*arguments, seed=1, epoch=0)
    np.testing.assert_array_equal(first, epoch_positions(*arguments, seed=1, epoch=0))
    for seed, epoch in [(1, 1), (2, 0)]:
        assert (first != epoch_positions(*arguments, seed=seed, epoch=epoch)).any()


def test_chunks_go_on_from_any_step():
    arguments = (*tile([9, 20, 14, 30, 8, 25]), 2, 10)
    chunks = [chunk for chunk, _ in zip(chunks_from(*arguments, seed=1, step=0), range(13), strict=False)]
    assert [bool(chunk.first) for chunk in chunks] == [step % 5 == 0 for step in range(13)]
    np.testing.assert_array_equal(chunks[7].positions, epoch_positions(*arguments, seed=1, epoch=1)[2])
    for step in (5, 8):
        for resumed, chunk in zip(chunks_from(*arguments, seed=1, step=step), chunks[step:], strict=False):
            np.testing.assert_array_equal(resumed.positions, chunk.positions)
            assert resumed.first == chunk.first


def test_too_few_frames_are_refused():
    with pytest.raises(UserError, match=r"lower world\.memory\.batch_size or world\.memory\.sequence_length"):
        next(chunks_from(*tile([30, 30]), batch_size=4, sequence_length=16, seed=0, step=0))


RECORDED = random_observations([40, 25, 31, 60, 17], [True, False, True, True, False])
CONFIG = MemoryConfig(
    hidden_size=8,
    mixtures=2,
    restart_input=True,
    predict_done=True,
    batch_size=3,
    sequence_length=10,
    steps=12,
    optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", clip=1.0),
)
MEMORY = Memory(CONFIG, latent_size=3, action_size=2)


def trained(state, step, stop):
    chunks = chunks_from(np.asarray(RECORDED.start), np.asarray(RECORDED.length), 3, 10, seed=0, step=step)
    for chunk, _ in zip(chunks, range(step, stop), strict=False):
        state, metrics = train_step(MEMORY, state, RECORDED, chunk, jax.random.key(7))
        assert np.isfinite(metrics["loss"])
    return state


def test_a_stopped_training_ends_with_the_same_bits_and_compiles_once(monkeypatch):
    traces = []

    def counted(*arguments):
        traces.append(arguments)
        return loss(*arguments)

    monkeypatch.setattr(train, "loss", counted)
    whole = jax.device_get(trained(init(MEMORY, jax.random.key(0)), 0, 12))
    stored = jax.device_get(trained(init(MEMORY, jax.random.key(0)), 0, 7))
    resumed = jax.device_get(trained(jax.device_put(stored), 7, 12))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert whole.step == 12
    assert len(traces) == 1


def test_state_is_carried_to_the_next_chunk_but_not_into_an_epoch():
    chunks = chunks_from(np.asarray(RECORDED.start), np.asarray(RECORDED.length), 3, 10, seed=0, step=0)
    chunk = next(chunks)
    chunk = replace(chunk, positions=np.tile(np.arange(5, 15, dtype=np.int32), (3, 1)))

    def losses(first, scale):
        state = init(MEMORY, jax.random.key(0))
        state = replace(state, memory_state=jax.tree.map(lambda array: array + scale, state.memory_state))
        return train_step(MEMORY, state, RECORDED, replace(chunk, first=np.asarray(first)), jax.random.key(7))[1][
            "loss"
        ]

    assert losses(first=False, scale=0.0) != losses(first=False, scale=0.5)
    assert losses(first=True, scale=0.0) == losses(first=True, scale=0.5) == losses(first=False, scale=0.0)


def test_going_on_keeps_the_given_weights_intact():
    params = MEMORY.init(jax.random.key(0))
    kept = jax.device_get(params)
    state = trained(continue_from(MEMORY, params), 0, 1)
    jax.tree.map(np.testing.assert_array_equal, kept, jax.device_get(params))
    assert state.step == 1
    assert (state.params["head"]["kernel"] != params["head"]["kernel"]).any()


def test_memory_learns_a_predictable_world():
    config = MemoryConfig(
        hidden_size=32,
        restart_input=True,
        predict_done=True,
        predict_reward=True,
        batch_size=32,
        sequence_length=25,
        steps=400,
        optimizer=OptimizerConfig(learning_rate=1e-2, final_learning_rate=1e-4, schedule="cosine", clip=1.0),
    )
    memory, recorded = Memory(config, latent_size=3, action_size=1), rotating_observations(100, seed=0)
    state = init(memory, jax.random.key(0))
    chunks = chunks_from(np.asarray(recorded.start), np.asarray(recorded.length), 32, 25, seed=0, step=0)
    for chunk, _ in zip(chunks, range(config.steps), strict=False):
        state, _ = train_step(memory, state, recorded, chunk, jax.random.key(1))
    report = evaluate(memory, state.params, rotating_observations(40, seed=1), jax.random.key(2))
    numbers = {name: value for name, value in report.items() if value is not None}
    assert numbers.keys() == report.keys()

    # A single Gaussian for each dimension that knows no dynamics: the two coordinates of a circle have variance 1/2.
    marginal = (2 * 0.5 * np.log(2 * np.pi * np.e * 0.5) + 0.5 * np.log(2 * np.pi * np.e * 1 / 80)) / 3
    assert numbers["nll"] < marginal - 1
    assert numbers["done_precision"] > 0.95 and numbers["done_recall"] > 0.95 and numbers["done_loss"] < 0.02
    assert numbers["reward_correlation"] > 0.98 and numbers["reward_correlation_100"] > 0.98
    np.testing.assert_allclose(numbers["reward_sum_100_predicted"], numbers["reward_sum_100_actual"], rtol=0.02)
    for horizon in (1, 5, 20, 50):
        baselines = (numbers[f"open_loop_{horizon}_{name}"] for name in ("repeat_last", "data_mean"))
        assert numbers[f"open_loop_{horizon}"] < 0.5 * min(baselines)
