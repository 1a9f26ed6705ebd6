from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_data import random_observations
from scipy import stats

from wm_jax.memory import Memory, MemoryConfig
from wm_jax.memory.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("quick_compilation")

HEADS = MemoryConfig(hidden_size=6, mixtures=2, restart_input=True, predict_done=True, predict_reward=True)
MEMORY = Memory(HEADS, latent_size=3, action_size=2, reward_range=(-1.0, 1.0))
LENGTHS = [300, 30, 120, 251, *[22] * 70]


def sharp(recorded):
    """V is certain, so that what M is fed does not depend on a key."""
    return replace(recorded, encoded=replace(recorded.encoded, log_var=jnp.full_like(recorded.encoded.log_var, -40)))


def reported(params, memory=MEMORY, recorded=None):
    """The entries of the report that are not None."""
    report = evaluate(memory, params, RECORDED if recorded is None else recorded, jax.random.key(0))
    return {name: value for name, value in report.items() if value is not None}


RECORDED = sharp(random_observations(LENGTHS, np.arange(len(LENGTHS)) % 2 == 0))


def followed(params):
    """Each frame's prediction by a plain loop over the steps of each episode: nll, reward, done logit."""
    advance, predict = jax.jit(MEMORY.advance), jax.jit(MEMORY.predict)
    z, rows = np.asarray(RECORDED.encoded.mean, np.float32), []
    for first, frames in zip(np.asarray(RECORDED.start), np.asarray(RECORDED.length), strict=True):
        state = MEMORY.initial_state()
        for t in range(first, first + frames):
            state = advance(params, state, z[t], RECORDED.action[t], jnp.asarray(t == first))
            prediction, nll = predict(params, state.h), np.nan
            if t < first + frames - 1:
                mixture = prediction.next_z
                density = stats.norm.pdf(z[t + 1], mixture.means, np.exp(mixture.log_stds))
                nll = -np.log((np.exp(mixture.log_weights) * density).sum(axis=0)).mean()
            rows.append((nll, float(prediction.reward), float(prediction.done_logit)))
    return np.array(rows).T


def test_report_agrees_with_a_plain_loop_over_each_episode():
    params = MEMORY.init(jax.random.key(5))
    params["head"]["bias"] = params["head"]["bias"].at[-1].set(-0.2)
    report = reported(params)
    nll, reward, logit = followed(params)
    np.testing.assert_allclose(report["nll"], np.nanmean(nll), rtol=1e-5)

    start, length = np.asarray(RECORDED.start), np.asarray(RECORDED.length)
    last, terminated = start + length - 1, np.asarray(RECORDED.terminated)
    done = np.zeros(len(reward), bool)
    done[last[terminated]] = True
    known = np.ones(len(reward), bool)
    known[last[~terminated]] = False
    said = logit > 0
    assert 0 < said.sum() < said.size
    np.testing.assert_allclose(report["done_precision"], (said & done).sum() / (said & known).sum(), rtol=1e-6)
    np.testing.assert_allclose(report["done_recall"], (said & done).sum() / done.sum(), rtol=1e-6)

    actual = np.clip(np.asarray(RECORDED.reward, np.float64), -1, 1)
    np.testing.assert_allclose(report["reward_correlation"], np.corrcoef(reward, actual)[0, 1], atol=1e-5)
    begins = [0, 100, 200, 330, 450, 550]
    sums = np.array([(reward[b : b + 100].sum(), actual[b : b + 100].sum()) for b in begins])
    np.testing.assert_allclose(report["reward_correlation_100"], np.corrcoef(sums.T)[0, 1], atol=1e-4)
    np.testing.assert_allclose(report["reward_sum_100_predicted"], sums[:, 0].mean(), rtol=1e-4)
    np.testing.assert_allclose(report["reward_sum_100_actual"], sums[:, 1].mean(), rtol=1e-5)


def test_open_loop_baselines_are_what_they_say():
    report = reported(MEMORY.init(jax.random.key(5)))
    mean = np.asarray(RECORDED.encoded.mean, np.float64)
    begins = np.array([0, 70, 140, 210, 330, 450, 520, 590])
    target = mean[begins + 19 + 50]
    np.testing.assert_allclose(
        report["open_loop_50_repeat_last"], ((mean[begins + 19] - target) ** 2).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(report["open_loop_50_data_mean"], ((mean.mean(axis=0) - target) ** 2).mean(), rtol=1e-5)


def test_an_untrained_memory_without_weights_forecasts_its_bias():
    params = jax.tree.map(jnp.zeros_like, MEMORY.init(jax.random.key(0)))
    means = slice(2 * 3, 4 * 3)
    stds = slice(4 * 3, 6 * 3)
    params["head"]["bias"] = params["head"]["bias"].at[means].set(0.5).at[stds].set(-20)
    report = reported(params)
    mean = np.asarray(RECORDED.encoded.mean, np.float64)
    begins = np.array([0, 70, 140, 210, 330, 450, 520, 590])
    np.testing.assert_allclose(report["open_loop_50"], ((0.5 - mean[begins + 19 + 50]) ** 2).mean(), rtol=1e-4)


def test_open_loop_rewards_agree_with_a_plain_loop():
    """With one sharp Gaussian a run has no chance in it."""
    memory = replace(MEMORY, config=replace(HEADS, mixtures=1))
    params = memory.init(jax.random.key(3))
    params["head"]["bias"] = params["head"]["bias"].at[2 * 3 : 3 * 3].set(-40)
    z, reward = np.asarray(RECORDED.encoded.mean, np.float32), np.clip(np.asarray(RECORDED.reward, np.float64), -1, 1)
    step, sums = jax.jit(memory.step), []
    for begin in (0, 70, 140, 330, 450, 520):
        state, current, total = memory.initial_state(), z[begin], 0.0
        for t in range(begin, begin + 120):
            state, prediction = step(params, state, current, RECORDED.action[t], jnp.asarray(t in (0, 330, 450)))
            current = z[t + 1] if t < begin + 19 else prediction.next_z.means[..., 0, :]
            total += float(prediction.reward) if t >= begin + 20 else 0.0
        sums.append((total, reward[begin + 20 : begin + 120].sum()))
    predicted, actual = np.array(sums).T
    report = reported(params, memory)
    np.testing.assert_allclose(
        report["reward_correlation_100_open_loop"], np.corrcoef(predicted, actual)[0, 1], atol=1e-3
    )
    np.testing.assert_allclose(
        report["reward_error_100_open_loop"], np.sqrt(((predicted - actual) ** 2).mean()), rtol=1e-3
    )


def test_what_short_episodes_cannot_tell_is_none():
    recorded = random_observations([22, 3], [False, False])
    report = evaluate(MEMORY, MEMORY.init(jax.random.key(5)), recorded, jax.random.key(0))
    assert {name for name, value in report.items() if value is None} >= {
        "done_recall",
        "reward_correlation_100",
        "reward_sum_100_predicted",
        "reward_correlation_100_open_loop",
        "reward_error_100_open_loop",
        *(f"open_loop_{k}{suffix}" for k in (5, 20, 50) for suffix in ("", "_repeat_last", "_data_mean")),
    }
    assert report["nll"] is not None and report["open_loop_1"] is not None


def test_absent_heads_are_not_reported_and_one_frame_tells_nothing():
    memory = replace(MEMORY, config=replace(HEADS, predict_done=False, predict_reward=False))
    report = evaluate(memory, memory.init(jax.random.key(0)), random_observations([1], [True]), jax.random.key(0))
    assert report and all(name.startswith(("nll", "open_loop")) for name in report)
    assert all(value is None for value in report.values())
