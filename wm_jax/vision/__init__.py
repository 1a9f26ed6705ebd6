"""V: the variational autoencoder that sees; its loss and training are in `train`, what a run does with it in `learner`."""

from wm_jax.vision.config import VisionConfig
from wm_jax.vision.model import LatentStats, Vision, sample

__all__ = ["LatentStats", "Vision", "VisionConfig", "sample"]
