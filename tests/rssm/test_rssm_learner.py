"""The RSSM's training as a run has it."""

from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rssm_data import CONFIG, MODEL, recordings
from scipy import stats

from wm_jax import parallel
from wm_jax.data.training import TrainingData
from wm_jax.errors import UserError
from wm_jax.rssm.config import RSSMConfig
from wm_jax.rssm.learner import RSSMLearner, windows
from wm_jax.rssm.train import evaluate

pytestmark = pytest.mark.usefixtures("quick_compilation")

LEARNER = RSSMLearner(MODEL)
PARAMS = LEARNER.init(jax.random.key(0))
KEY, MESH, SEED = jax.random.key(7), parallel.mesh(1), 11
RECORDED = recordings((40, 25, 31, 60), (True, False, True, True))
DATA = TrainingData(cast(Any, None), np.array([0, 2, 3]), np.array([1]), RECORDED, np.array([0]))


def trained(state: Any, begun: int, stop: int, learner: RSSMLearner = LEARNER) -> tuple[Any, list[dict[str, Any]]]:
    advance, metrics = learner.advance(DATA, SEED, begun, KEY, MESH), []
    for _ in range(begun, stop):
        state, found = advance(state)
        metrics.append(jax.device_get(found))
    return jax.device_get(state), metrics


def assert_same(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_what_is_stopped_goes_on_with_the_same_bits() -> None:
    kept = jax.device_get(PARAMS)
    whole, metrics = trained(LEARNER.start(PARAMS, MESH), 0, 8)
    stopped, before = trained(LEARNER.start(PARAMS, MESH), 0, 3)
    laid_out = jax.tree.map(
        lambda array, like: jax.device_put(array, like.sharding), stopped, LEARNER.start(PARAMS, MESH)
    )
    again, after = trained(laid_out, 3, 8)
    assert_same(whole, again)
    assert_same(metrics, before + after)
    assert_same(kept, jax.device_get(PARAMS))
    assert {name for curve in LEARNER.curves for name in curve.metrics} | {LEARNER.watch} <= metrics[0].keys()


def test_sequences_begin_anywhere_alike_and_never_leave_the_episodes() -> None:
    """Episodes at 100 and 7, of 5 and 6 frames: 8 places where a sequence of 4 may begin."""
    start, length = np.array([100, 7]), np.array([5, 6])
    joined = np.concatenate([np.arange(100, 105), np.arange(7, 13)])
    found = np.concatenate([windows(start, length, 50, 4, 3, step) for step in range(40)])
    first = np.array([np.flatnonzero(joined == row[0])[0] for row in found])
    np.testing.assert_array_equal(found, joined[first[:, None] + np.arange(4)])
    assert found.dtype == np.int32
    assert stats.chisquare(np.bincount(first, minlength=8)).pvalue > 0.001
    np.testing.assert_array_equal(windows(start, length, 5, 4, 3, 2), windows(start, length, 5, 4, 3, 2))
    assert (windows(start, length, 5, 4, 3, 2) != windows(start, length, 5, 4, 4, 2)).any()
    with pytest.raises(UserError, match=r"sequences of 12 frames, more than the 11 frames recorded.*sequence_length"):
        windows(start, length, 5, 12, 3, 2)


def test_a_later_rounds_steps_follow_from_the_train_ratio() -> None:
    """18 frames a step."""
    assert LEARNER.steps_after(1000) == CONFIG.later_steps
    ratio = RSSMLearner(replace(MODEL, config=replace(CONFIG, train_ratio=8)))
    assert ratio.steps_after(1000) == 445 == -(-8 * 1000 // 18)


def test_it_trains_on_the_training_episodes_alone() -> None:
    changed = replace(RECORDED, reward=RECORDED.reward.at[40:65].set(99))
    advance = LEARNER.advance(replace(DATA, recorded=changed), SEED, 0, KEY, MESH)
    assert_same(jax.device_get(advance(LEARNER.start(PARAMS, MESH))), jax.device_get(
        LEARNER.advance(DATA, SEED, 0, KEY, MESH)(LEARNER.start(PARAMS, MESH))))  # fmt: skip


def test_the_report_is_of_held_out_and_of_trained_episodes() -> None:
    report = LEARNER.reporter(DATA)(PARAMS, jax.random.key(3))
    names = {"loss", "image", "reward", "kl", "end"}
    assert report.numbers.keys() == {f"{prefix}{name}" for prefix in ("held_out_", "trained_") for name in names}
    at = jnp.asarray(windows(np.array([40]), np.array([25]), 32, CONFIG.sequence_length, 0, 0))
    expected = evaluate(MODEL, PARAMS, RECORDED, at, jax.random.key(3))
    assert report.numbers["held_out_kl"] == pytest.approx(float(expected["kl"]), rel=1e-6)
    assert report.frames is None, "of latents there is no picture"


def test_where_observations_say_nothing_prior_and_posterior_come_to_agree() -> None:
    """z is the same everywhere: whatever the posterior is told of it, the prior knows."""
    silent = recordings((60, 60), (False, False), spread=0.0)
    config = replace(CONFIG, free_nats=0.0, posterior_weight=1.0, steps=200, batch_size=4)
    learner = RSSMLearner(replace(MODEL, config=config))
    data = replace(DATA, recorded=silent, training=np.arange(2))
    state, first, last = learner.start(PARAMS, MESH), [], []
    advance = learner.advance(data, SEED, 0, KEY, MESH)
    for step in range(200):
        state, metrics = advance(state)
        (first if step < 5 else last).append(float(metrics["kl"]))
    assert np.mean(last[-20:]) < 0.02 < np.mean(first)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"blocks": 7}, r"deterministic_size is 512, not a multiple of world\.rssm\.blocks, 7"),
        ({"latent": "normal"}, r"world\.rssm\.latent must be one of"),
        ({"classes": 1}, r"world\.rssm\.classes must be"),
        ({"sequence_length": 1}, r"world\.rssm\.sequence_length must be"),
        ({"reward_loss": "hot"}, r"world\.rssm\.reward_loss must be one of"),
        ({"unimix": 0.6}, r"world\.rssm\.unimix must be"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        RSSMConfig(**settings)
