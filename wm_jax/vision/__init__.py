"""V: the variational autoencoder that sees, its loss and its training."""

from wm_jax.vision.config import VisionConfig
from wm_jax.vision.model import Vision, sample
from wm_jax.vision.train import TrainState, continue_from, evaluate, init, loss, train_step

__all__ = [
    "TrainState",
    "Vision",
    "VisionConfig",
    "continue_from",
    "evaluate",
    "init",
    "loss",
    "sample",
    "train_step",
]
