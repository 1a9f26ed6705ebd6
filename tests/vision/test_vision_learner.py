"""V's training as a run has it: on frames of the training episodes alone, and the same after a stop."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax import parallel
from wm_jax.data.episodes import EpisodeStore
from wm_jax.data.frames import frame_batches
from wm_jax.data.records import Episode, write_episode, write_index
from wm_jax.data.training import TrainingData
from wm_jax.experiment import Experiment, flatten
from wm_jax.optimizers import OptimizerConfig
from wm_jax.vision import Vision, VisionConfig, learner
from wm_jax.vision.learner import HELD_OUT_FRAMES, PICTURES, VisionLearner
from wm_jax.vision.train import continue_from, evaluate, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCHEDULE = OptimizerConfig(learning_rate=1e-3, schedule="cosine")
CONFIG = VisionConfig(latent_size=4, width=4, batch_size=3, steps=5, later_steps=2, optimizer=SCHEDULE)
LEARNER = VisionLearner(Vision(CONFIG))
PARAMS = LEARNER.init(jax.random.key(0))
KEY, MESH, SEED = jax.random.key(7), parallel.mesh(1), 11


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Four episodes of 5, 9, 4 and 12 frames, of which the second is held out."""
    folder, generator = tmp_path_factory.mktemp("recorded"), np.random.default_rng(0)

    def episode(length: int) -> Episode:
        frames = generator.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
        return Episode(frames, np.zeros((length, 1), np.float32), np.zeros(length, np.float32), True, 0, "made up")

    write_index(folder, [write_episode(folder, i, episode(length)) for i, length in enumerate((5, 9, 4, 12))])
    return TrainingData(EpisodeStore([folder]), np.array([0, 2, 3]), np.array([1]), None)


def trained(data: TrainingData, state: Any, begun: int, stop: int) -> tuple[Any, list[dict[str, Any]]]:
    """The state on the host after the steps `begun` … `stop` - 1, and their metrics."""
    advance, metrics = LEARNER.advance(data, SEED, begun, KEY, MESH), []
    for _ in range(begun, stop):
        state, found = advance(state)
        metrics.append(jax.device_get(found))
    return jax.device_get(state), metrics


def laid_out(state: Any) -> Any:
    """A state from the host on the devices, as a training has it there: anything else would be compiled anew."""
    return jax.tree.map(lambda array, like: jax.device_put(array, like.sharding), state, LEARNER.start(PARAMS, MESH))


def assert_same(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_what_is_stopped_goes_on_with_the_same_bits(data: TrainingData) -> None:
    kept = jax.device_get(PARAMS)
    whole, metrics = trained(data, LEARNER.start(PARAMS, MESH), 0, 5)
    stopped, before = trained(data, LEARNER.start(PARAMS, MESH), 0, 2)
    again, after = trained(data, laid_out(stopped), 2, 5)
    assert_same(whole, again)
    assert_same(metrics, before + after)
    assert_same(kept, jax.device_get(PARAMS))
    assert whole.step == 5 and not np.array_equal(
        whole.params["decoder"]["dense"]["kernel"], kept["decoder"]["dense"]["kernel"]
    )


def test_a_step_is_that_of_V_on_frames_of_the_training_episodes(data: TrainingData) -> None:
    state, metrics = LEARNER.start(PARAMS, MESH), {}
    assert_same(jax.device_get(state), jax.device_get(continue_from(LEARNER.model, PARAMS)))
    for frames in frame_batches(data.store, data.training, 3, SEED, 0, 2):
        state, metrics = train_step(LEARNER.model, state, parallel.rows(MESH, frames), KEY)
    found, told = trained(data, LEARNER.start(PARAMS, MESH), 0, 2)
    assert_same(found, jax.device_get(state))
    assert_same(told[-1], jax.device_get(metrics))
    assert LEARNER.watch in told[-1]
    assert {name for curve in LEARNER.curves for name in curve.metrics} <= told[-1].keys()


def test_it_lasts_as_long_as_it_is_told_and_nothing_else_changes() -> None:
    assert (LEARNER.steps, LEARNER.later_steps, LEARNER.batch_size, LEARNER.units) == (5, 2, 3, 3)
    assert LEARNER.with_steps(7) == VisionLearner(Vision(replace(CONFIG, steps=7))) != LEARNER
    assert hash(LEARNER.with_steps(5)) == hash(LEARNER) and LEARNER.with_steps(5) == LEARNER
    settings = flatten(Experiment())
    assert all(f"{LEARNER.settings}{name}" in settings for name in ("steps", "later_steps", "batch_size"))


def test_its_reports_are_of_all_held_out_frames_where_they_are_few(data: TrainingData) -> None:
    report = LEARNER.reporter(data)(PARAMS, KEY)
    frames = data.store.episode(1).frames
    expected = evaluate(LEARNER.model, PARAMS, frames, jax.random.clone(KEY))
    assert report.numbers == {f"held_out_{name}": float(value) for name, value in expected.items()}
    assert f"held_out_{LEARNER.watch}" in report.numbers
    shown = frames[[0, 1, 2, 3, 4, 5, 6, 8]]
    np.testing.assert_array_equal(report.frames, shown)
    drawn = jax.jit(lambda: LEARNER.model.decode(PARAMS, LEARNER.model.encode(PARAMS, jnp.asarray(shown)).mean))()
    assert drawn.shape == (PICTURES, 64, 64, 3)
    np.testing.assert_allclose(report.drawn, drawn, atol=1e-6)
    empty = LEARNER.reporter(replace(data, held_out=np.zeros(0, int)))(PARAMS, KEY)
    assert empty.numbers == {} and empty.frames is None


def test_of_many_held_out_frames_as_many_as_it_takes_are_spread_over_all(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a motion weight they come with the frame before, which is not shown."""
    seen: list[np.ndarray] = []
    monkeypatch.setattr(learner, "HELD_OUT_FRAMES", 6)
    monkeypatch.setattr(learner, "evaluate", lambda model, params, frames, key: seen.append(frames) or {"loss": 1})
    monkeypatch.setattr(learner, "reconstruct", lambda model, params, frames: frames / 255)
    assert HELD_OUT_FRAMES > 6
    moving = replace(LEARNER, model=Vision(replace(CONFIG, motion_weight=1.0)))
    for chosen in (LEARNER, moving):
        report = chosen.reporter(data)(PARAMS, KEY)
        assert report.numbers == {"held_out_loss": 1.0}
        np.testing.assert_array_equal(report.frames, data.store.episode(1).frames[[0, 1, 3, 4, 6, 8]])
    single, pairs = seen
    assert single.shape == (6, 64, 64, 3) and pairs.shape == (6, 2, 64, 64, 3)
    np.testing.assert_array_equal(pairs[:, 1], single)
    np.testing.assert_array_equal(pairs[1, 0], single[0])


def test_it_reports_once_an_epoch_and_at_the_end(data: TrainingData) -> None:
    assert LEARNER.report_every(data) == 5, "21 frames are 7 batches of 3, more than there are steps"
    assert LEARNER.with_steps(100).report_every(data) == 7
    large = replace(LEARNER, model=Vision(replace(CONFIG, batch_size=50)))
    assert large.report_every(data) == 1


def test_its_cost_grows_with_the_batch() -> None:
    params = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    twice = replace(LEARNER, model=Vision(replace(CONFIG, batch_size=6)))
    assert twice.flop(params) == 2 * LEARNER.flop(params) > 2 * 3 * 2 * params
    fixed = 16 * params
    assert twice.bytes_in_training(params) - fixed == 2 * (LEARNER.bytes_in_training(params) - fixed) > 0
