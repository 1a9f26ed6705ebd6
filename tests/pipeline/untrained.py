"""A run whose world model has random weights, and a user who stops it."""

from pathlib import Path

import jax
import pytest
from dream_probe import recordings

from wm_jax.data import observations
from wm_jax.data.weights import save_weights
from wm_jax.experiment import Experiment
from wm_jax.models import Models
from wm_jax.pipeline import searching
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Interrupt, Screen, Stopped
from wm_jax.pipeline.weights import ENCODED, WEIGHTS
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
    folder.mkdir(parents=True, exist_ok=True)
    found = Context(experiment, Models(experiment), RunDir(folder), Screen(), interrupt)
    for name, learner in found.models.world.learners.items():
        path = found.stage(name, 0).path / WEIGHTS
        if not path.exists():
            save_weights(path, learner.init(jax.random.key(0)), {})
    return found


def evolve(experiment: Experiment, folder: Path, interrupt: Interrupt) -> Path:
    """The folder that the stage leaves."""
    here = context(experiment, folder, interrupt)
    if experiment.evolve.fitness == "dream":
        seen = recordings((30, 50), here.models.state_shapes[1].mean.size, here.models.world.action_size)
        observations.save(here.stage("latents", 0).path / ENCODED, seen)
    stage = here.stage("controller", 0)
    with interrupt:
        searching.Evolve().run(here, 0, stage)
    return stage.path


def evolve_in_two(experiment: Experiment, folder: Path, patience: int, says: str) -> Path:
    """The folder of the stage, when it has been found that stopped by an `Impatient` user, who is told what it `says`, and
    gone on with it ends with the same bits."""
    whole = evolve(experiment, folder / "whole", Interrupt())
    with pytest.raises(Stopped, match=says):
        evolve(experiment, folder / "stopped", Impatient(patience))
    gone_on = evolve(experiment, folder / "stopped", Interrupt())
    for name in searching.RESULTS:
        assert (whole / name).read_bytes() == (gone_on / name).read_bytes(), name
    return whole
