"""The RSSM's training in a run: on sequences of all recorded frames, which are kept on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Traced

from wm_jax import parallel
from wm_jax.data.observations import extents, padded, select
from wm_jax.data.training import Learner, Report, TrainingData, spread
from wm_jax.errors import UserError
from wm_jax.rssm.loss import follow, gather
from wm_jax.rssm.model import RSSM, Frames
from wm_jax.rssm.train import TrainState, continue_from, evaluate, train_step
from wm_jax.types import FLOAT, HELD_OUT, TRAINED, Array, Curve, Key, Metrics, Observations, Params

REPORTS = 5
"""Reports per training."""
SEQUENCES = 32
"""Sequences per report."""
PICTURES = 8
"""Number of frames shown beside their reconstructions."""


@dataclass(frozen=True)
class RSSMLearner(Learner):
    """The RSSM's training."""

    model: RSSM
    title: ClassVar[str] = "RSSM"
    settings: ClassVar[str] = "world.rssm."
    watch: ClassVar[str] = "image"
    remedy: ClassVar[str] = "lower world.rssm.optimizer.learning_rate or its clip, and run it again with --redo"
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            "rssm_image",
            ("image",),
            "RSSM: error of observations",
            "For frames the squared error, summed over pixels; for V's z half of it, in units of V's variances; dots: "
            "held-out episodes of all rounds.",
            logarithmic=True,
        ),
        Curve(
            "rssm_kl",
            ("kl", "reward"),
            "RSSM: KL divergence and reward",
            "The divergence of the posterior from the prior in nats, and the reward's loss; dots: held-out episodes.",
            logarithmic=True,
        ),
    )

    @property
    def units(self) -> int:
        """Frames per step."""
        return self.batch_size * self.model.config.sequence_length

    def steps_after(self, frames: int) -> int:
        """Training steps of a later round: from the train ratio, if there is one."""
        ratio = self.model.config.train_ratio
        return math.ceil(ratio * frames / self.units) if ratio else self.later_steps

    def start(self, params: Params, mesh: Mesh) -> TrainState:
        """The state before the first step of a training that starts from `params`, complete on each device."""
        return parallel.replicate(mesh, continue_from(self.model, params))

    def advance(
        self, data: TrainingData, seed: int, begun: int, key: Key, mesh: Mesh
    ) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        """A function that runs one of the steps `begun`, `begun` + 1, … per call. Sequences follow from `seed`, samples
        from `key`."""
        assert data.recorded is not None
        recorded, config = parallel.replicate(mesh, padded(data.recorded)), self.model.config
        episodes, steps = extents(data.recorded, data.training), iter(range(begun, self.steps))

        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            positions = windows(*episodes, config.batch_size, config.sequence_length, seed, next(steps))
            return train_step(self.model, state, recorded, parallel.rows(mesh, parallel.part(positions)), key)

        return step

    def trace(self, recorded: Observations, mesh: Mesh) -> Traced:
        """The training step, traced for the devices of `mesh`."""
        config = self.model.config
        state = jax.eval_shape(lambda: continue_from(self.model, self.init(jax.random.key(0))))
        positions = jax.ShapeDtypeStruct((config.batch_size, config.sequence_length), jnp.int32)
        state, recorded, key = parallel.shape(mesh, (state, recorded, parallel.key_shape()))
        return train_step.trace(self.model, state, recorded, parallel.shape(mesh, positions, dealt=True), key)

    def report_every(self, data: TrainingData) -> int:
        """Steps between two reports."""
        return max(1, self.steps // REPORTS)

    def reporter(self, data: TrainingData) -> Callable[[Params, Key], Report]:
        """A function that reports the loss's parts on held-out episodes and on equally many training episodes, on the
        same sequences each time; and the last frames of the first held-out sequences with their reconstructions."""
        assert data.recorded is not None
        length, chosen = self.model.config.sequence_length, {HELD_OUT: data.held_out, TRAINED: data.trained}
        # Reports reconstruct all observations, even if training draws a part of them.
        whole = replace(self.model, config=replace(self.model.config, reconstructed=0))
        reported: dict[str, tuple[Observations, Array]] = {}
        for prefix, numbers in chosen.items():
            if extents(data.recorded, numbers)[1].sum() >= length:
                found = select(data.recorded, numbers)
                at = windows(*extents(found, np.arange(len(numbers))), SEQUENCES, length, 0, 0)
                reported[prefix] = padded(found), jnp.asarray(at)

        def report(params: Params, key: Key) -> Report:
            told: dict[str, float | None] = {}
            for prefix, (found, at) in reported.items():
                metrics = evaluate(whole, params, found, at, jax.random.clone(key))
                told |= {f"{prefix}{name}": float(value) for name, value in metrics.items()}
            if HELD_OUT not in reported or not isinstance(self.model.sight, Frames):
                return Report(told)
            found, at = reported[HELD_OUT]
            shown = at[spread(SEQUENCES, PICTURES)]
            drawn = _expected(self.model, params, found, shown, jax.random.clone(key))
            return Report(told, np.asarray(found.encoded[shown[:, -1]]), drawn)

        return report

    def bytes_in_training(self, params: int) -> int:
        """Bytes on a device while this many weights are trained: the layers' outputs are kept for the gradient."""
        config = self.model.config
        inner = 12 * (config.deterministic_size + self.model.latent.size) + 8 * config.hidden_size
        return 4 * FLOAT * params + 2 * FLOAT * self.units * (self.model.sight.numbers_at_work + inner)


@partial(jax.jit, static_argnames="model")
def _expected(model: RSSM, params: Params, recorded: Observations, positions: Array, key: Key) -> Array:
    """[B, ...]: reconstructions of the last frames of sequences, from the posterior's states."""
    followed = follow(model, params, gather(recorded, positions), key)
    return model.expect(params, jax.tree.map(lambda array: array[-1], followed.state))


def windows(
    start: np.ndarray, length: np.ndarray, batch_size: int, sequence_length: int, seed: int, step: int
) -> np.ndarray:
    """Positions [B, T] int32 of sequences that begin anywhere in episodes (`start` [E], `length` [E]), with equal
    probability, and continue into the next episode. They depend only on the seed and the step. Raises `UserError` if
    there are too few frames for one sequence."""
    frames = int(np.sum(length, dtype=np.int64))
    if frames < sequence_length:
        raise UserError(
            f"the model trains on sequences of {sequence_length} frames, more than the {frames} frames recorded; with "
            "--redo, lower world.rssm.sequence_length, or collect more episodes"
        )
    ends = np.cumsum(length, dtype=np.int64)
    first = np.random.default_rng((seed, step)).integers(0, frames - sequence_length + 1, batch_size)
    places = first[:, None] + np.arange(sequence_length)
    episode = np.searchsorted(ends, places, side="right")
    # Position = place in the joined episodes + (start of the episode - its start among the joined ones).
    shift = np.asarray(start, np.int64) - (ends - length)
    return (places + shift[episode]).astype(np.int32)
