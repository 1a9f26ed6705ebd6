"""Evaluation of M on held-out episodes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.data.observations import padded
from wm_jax.memory.loss import gather, step_losses
from wm_jax.memory.mixture import Mixture, draw_noise, sample_mixture
from wm_jax.memory.model import Memory
from wm_jax.memory.recurrence import MemoryState
from wm_jax.types import Array, Key, Observations, Params

LANES = 64
"""Episodes scored side by side."""
CHUNK = 250
"""Steps per call; it limits memory."""
BURN_IN = 20
"""Recorded steps before an open-loop run."""
HORIZONS = (1, 5, 20, 50)
"""Open-loop steps at which the error is measured."""
WINDOWS = 128
"""Maximum number of places where open-loop runs begin, evenly spread over the episodes."""
DREAMS = 8
"""Open-loop runs from each place; their mean is M's forecast."""
REWARD_STEPS = 100
"""Steps over which rewards are summed."""

Report = dict[str, float | None]


def evaluate(memory: Memory, params: Params, recorded: Observations, key: Key) -> Report:
    """Held-out quality of M on whole episodes; None for values that too few or too short episodes leave undefined.

    - `nll`: negative log likelihood of the next z per latent dimension (nats), while M follows the recorded episodes.
    - `done_loss` (unweighted), `done_precision`, `done_recall` (logit > 0): with a done head.
    - `action_error`: squared error of the next action, averaged over its numbers. With an action head.
    - `surprise_correlation`: correlation of predicted and actual nll, by step. With a surprise head.
    - `reward_correlation`, `reward_correlation_100`: correlation of predicted and actual (clipped) rewards, by step and
      for sums over 100 steps; `reward_sum_100_predicted`, `reward_sum_100_actual`: the sums' means. With a reward head.
    - `reward_correlation_100_open_loop`: the same for sums over 100 open-loop steps, as below;
      `reward_error_100_open_loop`: their root mean squared error, in the task's units. With a reward head.
    - `open_loop_k`, k = 1, 5, 20, 50: after 20 recorded steps M runs k steps on its own samples with the recorded
      actions. The forecast is the mean over 8 such runs; the value is its squared error per latent dimension against
      V's mean of the actual frame. `open_loop_k_repeat_last` and `open_loop_k_data_mean` are two baselines without
      any dynamics.
    """
    frames_key, dream_key = jax.random.split(key)
    # Padded, so that one program serves the reports of all rounds.
    table = padded(recorded)
    extents = np.asarray(recorded.start), np.asarray(recorded.length)
    scores = _score_frames(memory, params, table, *extents, frames_key)
    report: Report = {"nll": _mean(scores["nll"][scores["has_next"]])}
    if memory.config.predict_done:
        known = scores["done_known"]
        report |= _done_report(scores["done_logit"][known], scores["done"][known])
    if memory.config.predict_action:
        report["action_error"] = _mean(scores["action"][scores["has_next"]])
    if memory.config.predict_surprise:
        has_next = scores["has_next"]
        report["surprise_correlation"] = _correlation(scores["surprise"][has_next], scores["nll"][has_next])
    if memory.config.predict_reward:
        report |= _reward_report(scores["reward"], _clipped_rewards(memory, recorded), *extents)
    return report | _open_loop_report(memory, params, recorded, table, dream_key)


def _score_frames(
    memory: Memory, params: Params, table: Observations, start: np.ndarray, length: np.ndarray, key: Key
) -> dict[str, np.ndarray]:
    """M's predictions and losses for every frame [N] of the episodes (`start` [E], `length` [E]) in the padded `table`, on
    the host.

    M follows the episodes, `LANES` of similar length at a time, `CHUNK` steps per call; shorter episodes are padded.
    """
    frames = int(length.sum())
    scores: dict[str, np.ndarray] = {}
    order = np.argsort(length, kind="stable")
    for group in range(0, len(order), LANES):
        lanes = order[group : group + LANES]
        lane_start, lane_length = (np.pad(array[lanes], (0, LANES - len(lanes))) for array in (start, length))
        state = memory.initial_state((LANES,))
        for begin in range(0, int(lane_length.max()), CHUNK):
            offset = np.broadcast_to(np.arange(begin, begin + CHUNK, dtype=np.int32), (LANES, CHUNK))
            valid = offset < lane_length[:, None]
            positions = np.where(valid, lane_start[:, None] + offset, 0)
            call_key = jax.random.fold_in(jax.random.fold_in(key, group), begin)
            state, scored = _score_chunk(memory, params, table, state, jnp.asarray(positions), call_key)
            for name, values in scored.items():
                values = np.asarray(values)
                scores.setdefault(name, np.zeros(frames, values.dtype))[positions[valid]] = values.T[valid]
    return scores


@partial(jax.jit, static_argnames="memory")
def _score_chunk(
    memory: Memory, params: Params, recorded: Observations, state: MemoryState, positions: Array, key: Key
) -> tuple[MemoryState, dict[str, Array]]:
    sequences = gather(recorded, positions, key)
    state, h = memory.unroll(params, state, sequences.z, sequences.action, sequences.restart)
    prediction = memory.predict(params, h)
    losses = step_losses(memory, prediction, sequences)
    scores = {name: losses[name][0] for name in ("nll", "action") if name in losses}
    scores |= {"has_next": sequences.has_next, "done": sequences.done, "done_known": sequences.done_known}
    heads = {"reward": prediction.reward, "done_logit": prediction.done_logit, "surprise": prediction.surprise}
    return state, scores | {name: head for name, head in heads.items() if head is not None}


def _done_report(logit: np.ndarray, done: np.ndarray) -> Report:
    said = logit > 0
    return {
        "done_loss": _mean(np.logaddexp(0, logit) - done * logit),
        "done_precision": _mean(done[said]),
        "done_recall": _mean(said[done]),
    }


def _reward_report(predicted: np.ndarray, actual: np.ndarray, start: np.ndarray, length: np.ndarray) -> Report:
    begins = [
        first + np.arange(0, frames - REWARD_STEPS + 1, REWARD_STEPS)
        for first, frames in zip(start, length, strict=True)
    ]
    windows = np.concatenate(begins)[:, None] + np.arange(REWARD_STEPS)
    predicted_sums, actual_sums = predicted[windows].sum(axis=1), actual[windows].sum(axis=1)
    return {
        "reward_correlation": _correlation(predicted, actual),
        f"reward_correlation_{REWARD_STEPS}": _correlation(predicted_sums, actual_sums),
        f"reward_sum_{REWARD_STEPS}_predicted": _mean(predicted_sums),
        f"reward_sum_{REWARD_STEPS}_actual": _mean(actual_sums),
    }


def _open_loop_report(memory: Memory, params: Params, recorded: Observations, table: Observations, key: Key) -> Report:
    """One error and two baselines for each horizon, over the places with enough recorded steps after them. `table` is
    `recorded`, padded."""
    begins, room = _windows(np.asarray(recorded.start), np.asarray(recorded.length))
    means = np.asarray(recorded.encoded.mean, np.float32)
    forecasts, rewards = None, np.zeros(0)
    if len(begins):
        # Always as many places, so that one program serves all reports.
        places = jnp.asarray(np.resize(begins, WINDOWS))
        runs, earned = jax.tree.map(np.asarray, _forecasts(memory, params, table, places, key))
        forecasts = runs[:, : len(begins)]
        rewards = rewards if earned is None else earned[: len(begins)]
    report: Report = {}
    for horizon in HORIZONS:
        enough = room >= BURN_IN + horizon
        last = begins[enough] + BURN_IN - 1
        guesses = {"": forecasts[horizon - 1, enough] if forecasts is not None else means[last]}
        guesses |= {"_repeat_last": means[last], "_data_mean": means.mean(axis=0)}
        for suffix, guess in guesses.items():
            report[f"open_loop_{horizon}{suffix}"] = _mean(np.square(guess - means[last + horizon]))
    if memory.config.predict_reward:
        enough = room >= BURN_IN + REWARD_STEPS
        windows = begins[enough][:, None] + BURN_IN + np.arange(REWARD_STEPS)
        predicted, actual = rewards[enough], _clipped_rewards(memory, recorded)[windows].sum(axis=1)
        report[f"reward_correlation_{REWARD_STEPS}_open_loop"] = _correlation(predicted, actual)
        squared = _mean(np.square(predicted - actual))
        report[f"reward_error_{REWARD_STEPS}_open_loop"] = None if squared is None else squared**0.5
    return report


def _clipped_rewards(memory: Memory, recorded: Observations) -> np.ndarray:
    """The recorded rewards [N], clipped as in M's training."""
    return np.clip(np.asarray(recorded.reward), *memory.reward_range)


def _windows(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places where open-loop runs begin (positions [W] int32), and the remaining frames of their episodes [W]."""
    offsets = [np.arange(0, max(frames - BURN_IN, 0), BURN_IN + max(HORIZONS)) for frames in length]
    begins = np.concatenate([first + offset for first, offset in zip(start, offsets, strict=True)]).astype(np.int32)
    room = np.concatenate([frames - offset for frames, offset in zip(length, offsets, strict=True)])
    chosen = np.unique(np.linspace(0, len(begins) - 1, min(WINDOWS, len(begins))).astype(int))
    return begins[chosen], room[chosen]


@partial(jax.jit, static_argnames="memory")
def _forecasts(
    memory: Memory, params: Params, recorded: Observations, begins: Array, key: Key
) -> tuple[Array, Array | None]:
    """M's forecast of z [max(HORIZONS), W, Z] after the burn-in from each of `begins` [W], and of the sum of the next
    `REWARD_STEPS` rewards [W]; None without a reward head.

    The `DREAMS` runs sample every z except the forecast itself: that is the mixture's mean, since the noise of a few
    samples would count as M's error.
    """
    seen_key, first_key, key = jax.random.split(key, 3)
    begins = jnp.repeat(begins, DREAMS)
    seen = gather(recorded, begins[:, None] + jnp.arange(BURN_IN, dtype=jnp.int32)[None], seen_key)
    state, _ = memory.unroll(params, memory.initial_state(begins.shape), seen.z, seen.action, seen.restart)
    first = memory.predict(params, state.h).next_z
    shape = (len(begins), memory.latent_size)
    first_z = sample_mixture(first, 1.0, draw_noise(first_key, shape))

    def step(carry: tuple[MemoryState, Array], ahead: Array) -> tuple[tuple[MemoryState, Array], Any]:
        state, z = carry
        frame = jnp.minimum(begins + BURN_IN + ahead, recorded.action.shape[0] - 1)
        state, prediction = memory.step(params, state, z, recorded.action[frame], jnp.zeros(begins.shape, bool))
        z = sample_mixture(prediction.next_z, 1.0, draw_noise(jax.random.fold_in(key, ahead), shape))
        return (state, z), (_expected(prediction.next_z), prediction.reward)

    count = REWARD_STEPS if memory.config.predict_reward else max(HORIZONS) - 1
    _, (rest, rewards) = jax.lax.scan(step, (state, first_z), jnp.arange(count, dtype=jnp.int32))
    runs = jnp.concatenate([_expected(first)[None], rest[: max(HORIZONS) - 1]])
    forecast = runs.reshape(max(HORIZONS), -1, DREAMS, memory.latent_size).mean(axis=2)
    return forecast, None if rewards is None else rewards.sum(axis=0).reshape(-1, DREAMS).mean(axis=1)


def _expected(mixture: Mixture) -> Array:
    """The mixture's mean [..., Z]."""
    return jnp.sum(jnp.exp(mixture.log_weights) * mixture.means, axis=-2)


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if values.size else None


def _correlation(predicted: np.ndarray, actual: np.ndarray) -> float | None:
    """Pearson's correlation; None if it is undefined: fewer than two values, or constant values."""
    if predicted.size < 2 or np.ptp(predicted) == 0 or np.ptp(actual) == 0:
        return None
    return float(np.corrcoef(predicted, actual)[0, 1])
