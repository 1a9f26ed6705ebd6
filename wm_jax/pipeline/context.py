"""What every stage receives: the experiment, its models, its folder, and the screen."""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh

from wm_jax import parallel
from wm_jax.data.episodes import EpisodeStore, split
from wm_jax.data.training import Learner, spread
from wm_jax.experiment import Experiment
from wm_jax.models import Models
from wm_jax.pipeline.progress import Interrupt, Screen
from wm_jax.run import RunDir, StageDir
from wm_jax.search.config import EvolveConfig
from wm_jax.types import Key, Params


@dataclass(frozen=True)
class Context:
    """One run of an experiment."""

    experiment: Experiment
    models: Models
    run: RunDir
    screen: Screen
    interrupt: Interrupt
    initial: Params | None = None
    """The world model's weights at the start of the first round's training, by learner. Learners without an entry start
    at random."""
    initial_actor: Params | None = None
    """C's weights at the start of the first round's search; None: it starts from scratch."""

    @cached_property
    def mesh(self) -> Mesh:
        """The devices that populations and batches are split over."""
        return parallel.mesh(self.experiment.devices)

    def stage(self, folder: str, round_number: int) -> StageDir:
        """The folder of a stage in a round."""
        return self.run.stage(folder, round_number)

    def key(self, purpose: str, round_number: int) -> Key:
        """The random key of a purpose ("vision", "memory", …) in a round."""
        return jax.random.key(self.seed(purpose, round_number))

    def seed(self, purpose: str, round_number: int) -> int:
        """The seed of a purpose in a round: a 32-bit number derived from the experiment's seed."""
        return zlib.crc32(f"{self.experiment.seed}/{purpose}/{round_number}".encode())

    def controller(self, round_number: int) -> StageDir:
        """The folder of a round's deployed controller. The last round's may come from tuning."""
        tuned = "tune" in self.experiment.searches and round_number == self.experiment.rounds.count - 1
        return self.stage("tuned" if tuned else "controller", round_number)

    def learner(self, name: str, round_number: int) -> Learner:
        """A learner with the steps of a round's training, over which its learning rate falls."""
        learner = self.models.world.learners[name]
        return learner.with_steps(learner.steps_after(self.frames_in(round_number))) if round_number else learner

    def frames_in(self, round_number: int) -> int:
        """Number of frames that a round has recorded, including mirror images."""
        episodes = self.experiment.views * self.episodes_in(round_number)
        return int(self.store(round_number).lengths[-episodes:].sum())

    def encodes_anew(self, round_number: int) -> bool:
        """Whether a round changes the encoder, so that old frames must be encoded again."""
        read = [name for name, learner in self.models.world.learners.items() if learner.reads == "frames"]
        return round_number == 0 or any(self.learner(name, round_number).steps for name in read)

    @property
    def exploring(self) -> "Context":
        """The same run with the explorer's search instead of C's (`Experiment.exploring`)."""
        experiment = self.experiment.exploring
        assert experiment is not None
        return replace(self, experiment=experiment, models=Models(experiment))

    def evolve(self, round_number: int) -> EvolveConfig:
        """The settings of a round's search for C."""
        config, later = self.experiment.evolve, self.experiment.rounds.generations
        return replace(config, generations=later) if round_number and later else config

    def store(self, round_number: int) -> EpisodeStore:
        """The recorded episodes of all rounds up to this one."""
        folders = [self.stage("rollouts", r).path / "episodes" for r in range(round_number + 1)]
        counts = [self.episodes_in(r) for r in range(round_number + 1)]
        return EpisodeStore(folders, self.models.task.mirror if self.experiment.mirror else None, counts)

    def held_out_episodes(self, round_number: int) -> np.ndarray:
        """Numbers (in `store(round_number)`) of the held-out episodes of all rounds so far."""
        return np.concatenate([self._split(r)[1] for r in range(round_number + 1)])

    def trained_episodes(self, round_number: int) -> np.ndarray:
        """Numbers of episodes that were trained on, in this round or an earlier one: for each round as many as are held
        out, so that training and held-out metrics are comparable."""
        return np.concatenate([self._split(r)[2] for r in range(round_number + 1)])

    def training_episodes(self, round_number: int) -> np.ndarray:
        """Numbers of the episodes that a round trains on. First round: all of its training episodes. Later rounds: the
        new ones, and randomly drawn old ones, as many as fit in the share of frames that `rounds.new_share` leaves."""
        new = self._split(round_number)[0]
        if round_number == 0:
            return new
        old = np.concatenate([self._split(r)[0] for r in range(round_number)])
        share, lengths = self.experiment.rounds.new_share, self.store(round_number).lengths
        drawn = np.random.default_rng(self.seed("mixture", round_number)).permutation(old)
        room = lengths[new].sum() * (1 - share) / share
        chosen = drawn[np.cumsum(lengths[drawn]) <= room]
        return np.concatenate([np.sort(chosen), new])

    def _split(self, round_number: int) -> list[np.ndarray]:
        """[training, held-out, as many of the training] episodes of one round, as numbers in the store of all
        rounds."""
        before, views = sum(self.episodes_in(r) for r in range(round_number)), self.experiment.views
        episodes = self.episodes_in(round_number)
        training, held_out = split(episodes, self.experiment.held_out, self.seed("held out", round_number))
        parts = training, held_out, training[spread(len(training), len(held_out))]
        # The mirror image of a held-out episode must be held out too.
        return [(views * (before + part)[:, None] + np.arange(views)).ravel() for part in parts]

    def episodes_in(self, round_number: int) -> int:
        """Number of episodes that a round records."""
        return self.experiment.collect.episodes if round_number == 0 else self.experiment.rounds.episodes
