"""The RSSM as a run trains it: on sequences of all recorded frames, which lie on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Traced

from wm_jax import parallel
from wm_jax.data.observations import padded
from wm_jax.data.training import Learner, Report, TrainingData, spread
from wm_jax.errors import UserError
from wm_jax.rssm.loss import follow, gather
from wm_jax.rssm.model import RSSM
from wm_jax.rssm.train import TrainState, continue_from, evaluate, train_step
from wm_jax.types import FLOAT, HELD_OUT, TRAINED, Array, Curve, Key, Metrics, Observations, Params

REPORTS = 5
"""In a training."""
SEQUENCES = 32
"""That a report is about."""


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
            "RSSM: error of what is seen",
            "Of frames the squared error, summed over pixels; of V's z half of it, in units of V's variances; dots: "
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
        """Frames in a step."""
        return self.batch_size * self.model.config.sequence_length

    def steps_after(self, frames: int) -> int:
        """As the train ratio has it, where there is one."""
        ratio = self.model.config.train_ratio
        return math.ceil(ratio * frames / self.units) if ratio else self.later_steps

    def start(self, params: Params, mesh: Mesh) -> TrainState:
        """The state before the first step of a training that begins with `params`, whole on each device."""
        return parallel.replicate(mesh, continue_from(self.model, params))

    def advance(
        self, data: TrainingData, seed: int, begun: int, key: Key, mesh: Mesh
    ) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        """What does steps `begun`, `begun` + 1, … one a call. Sequences follow from `seed`, draws from `key`."""
        assert data.recorded is not None
        recorded, config = parallel.replicate(mesh, padded(data.recorded)), self.model.config
        episodes, steps = _episodes(data.recorded, data.training), iter(range(begun, self.steps))

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
        """What reports the loss's parts on held-out episodes, and on as many that are trained on, the same sequences each
        time; with frames that the first of these end in, and what is expected to be seen there."""
        assert data.recorded is not None
        recorded, length = padded(data.recorded), self.model.config.sequence_length
        chosen = {HELD_OUT: data.held_out, TRAINED: data.trained}
        found = {prefix: _episodes(data.recorded, numbers) for prefix, numbers in chosen.items()}
        positions = {
            prefix: jnp.asarray(windows(*episodes, SEQUENCES, length, 0, 0))
            for prefix, episodes in found.items()
            if episodes[1].sum() >= length
        }

        def report(params: Params, key: Key) -> Report:
            numbers: dict[str, float | None] = {}
            for prefix, at in positions.items():
                metrics = evaluate(self.model, params, recorded, at, jax.random.clone(key))
                numbers |= {f"{prefix}{name}": float(value) for name, value in metrics.items()}
            frames = positions.get(HELD_OUT)
            if frames is None or not isinstance(recorded.encoded, jax.Array):
                return Report(numbers)
            shown = frames[spread(SEQUENCES, PICTURES)]
            drawn = _expected(self.model, params, recorded, shown, jax.random.clone(key))
            return Report(numbers, np.asarray(recorded.encoded[shown[:, -1]]), drawn)

        return report

    def bytes_in_training(self, params: int) -> int:
        """Memory of a device while so many weights are trained: what the layers put out is kept for the gradient."""
        config = self.model.config
        # The convolutions' outputs, and those of the decoder, in multiples of the width; a frame four times.
        layers = 31**2 + 2 * 14**2 + 4 * 6**2 + 8 * 2**2 + 4 * 5**2 + 2 * 13**2 + 30**2
        seen = config.width * layers + 4 * 64 * 64 * 3 if self.model.sight.size == 32 * config.width else 0
        inner = 12 * (config.deterministic_size + self.model.latent.size) + 8 * config.hidden_size
        return 4 * FLOAT * params + 2 * FLOAT * self.units * (seen + inner)


PICTURES = 8
"""Frames shown beside what is expected of them."""


def _episodes(recorded: Observations, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where episodes stand among the frames, and how long they are."""
    start, length = jax.device_get((recorded.start, recorded.length))
    return start[numbers], length[numbers]


def _expected_frames(model: RSSM, params: Params, recorded: Observations, positions: Array, key: Key) -> Array:
    """[B, ...]: what is expected to be seen on the last frames of sequences, in the posterior's states."""
    followed = follow(model, params, gather(recorded, positions), key)
    return model.expect(params, jax.tree.map(lambda array: array[-1], followed.state))


_expected = jax.jit(_expected_frames, static_argnames="model")


def windows(
    start: np.ndarray, length: np.ndarray, batch_size: int, sequence_length: int, seed: int, step: int
) -> np.ndarray:
    """Positions [B, T] int32 of sequences that begin anywhere in episodes (`start` [E], `length` [E]), each place being as
    likely, and go on into the next one. They depend on the seed and the step alone. Raises `UserError` where there are too
    few frames for one sequence.
    """
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
    # Position = place in the joined episodes + (where the episode stands - where it stands among these).
    shift = np.asarray(start, np.int64) - (ends - length)
    return (places + shift[episode]).astype(np.int32)
