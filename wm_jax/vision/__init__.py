"""V: the variational autoencoder. Its loss and training are in `train`, its use in a run in `learner`."""

from wm_jax.vision.config import VisionConfig
from wm_jax.vision.model import LatentStats, Vision, sample

__all__ = ["LatentStats", "Vision", "VisionConfig", "sample"]
