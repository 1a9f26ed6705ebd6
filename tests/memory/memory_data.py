"""Synthetic recordings, as V encodes them, for M's tests."""

import jax.numpy as jnp
import numpy as np

from wm_jax.data import observations
from wm_jax.types import Observations
from wm_jax.vision import LatentStats


def encoded(mean: np.ndarray, log_var: np.ndarray) -> LatentStats:
    return LatentStats(jnp.asarray(mean), jnp.asarray(log_var))


def random_observations(lengths, terminated, latent_size=3, action_size=2, seed=0) -> Observations:
    """Noise, with noticeable posterior spread."""
    rng = np.random.default_rng(seed)
    frames = int(np.sum(lengths))
    return observations.build(
        encoded=encoded(rng.normal(size=(frames, latent_size)), rng.normal(size=(frames, latent_size)) - 2),
        action=rng.uniform(-1, 1, size=(frames, action_size)),
        reward=rng.normal(size=frames),
        length=np.asarray(lengths),
        terminated=np.asarray(terminated),
    )


def rotating_observations(episodes: int, seed: int, longest: int = 120) -> Observations:
    """A predictable world: (cos, sin) of an angle that turns by what the action says, and an alarm.

    The reward is the step's turn. The alarm rises by chance, in one step of 80; the episode then terminates with it.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(episodes):
        length = min(longest, int(rng.geometric(1 / 80)) + 20)
        action = np.repeat(rng.uniform(-1, 1, size=longest), 4)[:length]
        turn = 0.3 + 0.2 * action
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(turn) - turn
        alarm = np.zeros(length)
        alarm[-1] = length < longest
        parts.append((np.stack([np.cos(angle), np.sin(angle), alarm], axis=-1), action[:, None], turn))
    mean, action, reward = (np.concatenate(part) for part in zip(*parts, strict=True))
    length = np.array([len(part[2]) for part in parts])
    return observations.build(encoded(mean, np.full_like(mean, -7.0)), action, reward, length, length < longest)
