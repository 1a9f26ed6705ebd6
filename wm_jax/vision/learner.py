"""V's training in a run: on single recorded frames, read from disk."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Traced

from wm_jax import parallel
from wm_jax.data.frames import FrameSource, frame_batches
from wm_jax.data.training import Learner, Report, TrainingData, spread
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import FLOAT, HELD_OUT, Array, Curve, Key, Metrics, Observations, Params
from wm_jax.vision.model import Vision
from wm_jax.vision.train import TrainState, continue_from, evaluate, train_step

HELD_OUT_FRAMES = 512
"""Number of frames for the held-out score."""
PICTURES = 8
"""Number of frames shown beside their reconstructions."""


@dataclass(frozen=True)
class VisionLearner(Learner):
    """V's training."""

    model: Vision
    title: ClassVar[str] = "V"
    reads: ClassVar = "frames"
    settings: ClassVar[str] = "world.vision."
    unit: ClassVar[str] = "images"
    watch: ClassVar[str] = "reconstruction"
    average: ClassVar[int] = 50
    remedy: ClassVar[str] = "lower world.vision.optimizer.learning_rate and run it again with --redo"
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            "vision",
            ("reconstruction", "kl"),
            "V: loss per image",
            "V's squared error, summed over an image's pixels, and its KL divergence in nats; dots: held-out frames of all "
            "rounds.",
            logarithmic=True,
        ),
    )

    def start(self, params: Params, mesh: Mesh) -> TrainState:
        """The state before the first step of a training that starts from `params`, on the devices of `mesh`."""
        return parallel.replicate(mesh, continue_from(self.model, params))

    def advance(
        self, data: TrainingData, seed: int, begun: int, key: Key, mesh: Mesh
    ) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        """A function that runs one of the steps `begun`, `begun` + 1, … per call. Batches follow from `seed`, samples
        of z from `key`."""
        part = jax.process_index(), jax.process_count()
        batches = frame_batches(
            data.store, data.training, self.batch_size, seed, begun, self.steps, part, self._pairs
        )  # fmt: skip
        return lambda state: train_step(self.model, state, parallel.rows(mesh, next(batches)), key)

    def trace(self, recorded: Observations, mesh: Mesh) -> Traced:
        """The training step, traced for the devices of `mesh`."""
        state = jax.eval_shape(lambda: continue_from(self.model, self.init(jax.random.key(0))))
        pair = (2,) if self._pairs else ()
        frames = jax.ShapeDtypeStruct((self.batch_size, *pair, *FRAME_SHAPE), jnp.uint8)
        key = parallel.shape(mesh, parallel.key_shape())
        return train_step.trace(self.model, parallel.shape(mesh, state), parallel.shape(mesh, frames, dealt=True), key)

    def report_every(self, data: TrainingData) -> int:
        """Steps between two reports: one epoch."""
        epoch = int(data.store.lengths[data.training].sum()) // self.batch_size
        return min(max(1, epoch), self.steps)

    def reporter(self, data: TrainingData) -> Callable[[Params, Key], Report]:
        """A function that reports the losses of weights on held-out frames, the same frames each time."""
        unseen = FrameSource(data.store, data.held_out, self._pairs)
        sample = spread(len(unseen), HELD_OUT_FRAMES)
        if not len(sample):
            return lambda params, key: Report({})
        frames = np.stack([unseen[int(i)] for i in sample])
        shown = frames[spread(len(frames), PICTURES)]
        shown = shown[:, 1] if self._pairs else shown

        def report(params: Params, key: Key) -> Report:
            metrics = evaluate(self.model, params, frames, jax.random.clone(key))
            numbers: dict[str, float | None] = {f"{HELD_OUT}{name}": float(value) for name, value in metrics.items()}
            return Report(numbers, shown, reconstruct(self.model, params, shown))

        return report

    def bytes_in_training(self, params: int) -> int:
        """Bytes on a device while a V with this many weights is trained."""
        return 4 * FLOAT * params + 3 * self.batch_size * FLOAT * self.model.numbers_at_work

    def flop(self, params: int) -> int:
        """Floating-point operations of a training step."""
        frame = jax.ShapeDtypeStruct((1, *FRAME_SHAPE), jnp.uint8)
        weights = jax.eval_shape(self.model.init, jax.random.key(0))
        cost = jax.jit(partial(_reconstruct, self.model)).lower(weights, frame).cost_analysis() or {}
        return 3 * self.batch_size * int(cost.get("flops", 0))

    @property
    def _pairs(self) -> bool:
        return self.model.config.motion_weight > 0


def _reconstruct(model: Vision, params: Params, frames: Any) -> Array:
    return model.decode(params, model.encode(params, frames).mean)


reconstruct = jax.jit(_reconstruct, static_argnums=0)
"""(V, its weights, frames [B, 64, 64, 3] uint8) → V's reconstructions through the mean of z: float32 in [0, 1]."""
