"""A run whose world model has random weights, and a user who stops it."""

from pathlib import Path

import jax

from wm_jax.data.weights import save_weights
from wm_jax.experiment import Experiment
from wm_jax.models import Models
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.pipeline.weights import WEIGHTS
from wm_jax.run import RunDir


class Impatient(Interrupt):
    """Asks to stop after it has been looked at so many times."""

    def __init__(self, patience: int):
        self.patience = patience

    @property
    def requested(self) -> bool:
        self.patience -= 1
        return self.patience < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def context(experiment: Experiment, folder: Path, interrupt: Interrupt) -> Context:
    found = Context(experiment, Models(experiment), RunDir(folder), Screen(), interrupt)
    for name, learner in found.models.world.learners.items():
        path = found.stage(name, 0).path / WEIGHTS
        if not path.exists():
            save_weights(path, learner.init(jax.random.key(0)), {})
    return found
