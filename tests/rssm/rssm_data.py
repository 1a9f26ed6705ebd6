"""A small RSSM on latents, and recordings for it."""

import jax.numpy as jnp
import numpy as np

from wm_jax.data import observations
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rssm import RSSM, RSSMConfig
from wm_jax.rssm.model import Latents
from wm_jax.types import Observations
from wm_jax.vision import LatentStats

Z, A = 3, 2
CONFIG = RSSMConfig(
    deterministic_size=8, latent="gaussian", variables=3, hidden_size=7, head_size=5, blocks=1, normalize=True,
    predict_end=True, batch_size=3, sequence_length=6, steps=8, later_steps=4,
    optimizer=OptimizerConfig(learning_rate=3e-3, clip=0.3, clip_by="array"),
)  # fmt: skip
MODEL = RSSM(CONFIG, Latents(Z), A, (-1.0, 1.0))


def recordings(lengths=(20, 9, 14), terminated=(True, False, True), seed=0, spread=1.0) -> Observations:
    """Noise of this size in z; rewards beyond the range that is learned, too."""
    rng, frames = np.random.default_rng(seed), int(np.sum(lengths))
    z = spread * rng.normal(size=(frames, Z))
    return observations.build(
        encoded=LatentStats(jnp.asarray(z, jnp.float32), jnp.full((frames, Z), -2.0, jnp.float32)),
        action=rng.uniform(-1, 1, size=(frames, A)),
        reward=2 * rng.normal(size=frames),
        length=np.asarray(lengths),
        terminated=np.asarray(terminated),
    )
