"""M's training in a run: on all recorded episodes as encoded by V, which are kept on the device."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Traced

from wm_jax import parallel
from wm_jax.data import observations
from wm_jax.data.training import Learner, Report, TrainingData
from wm_jax.memory.evaluation import evaluate
from wm_jax.memory.model import Memory
from wm_jax.memory.train import Chunk, TrainState, chunks_from, chunks_per_epoch, continue_from, train_step
from wm_jax.types import FLOAT, HELD_OUT, TRAINED, Curve, Key, Metrics, Observations, Params

REPORTS = 5
"""Reports per training, unless an epoch is longer than the interval."""


@dataclass(frozen=True)
class MemoryLearner(Learner):
    """M's training."""

    model: Memory
    title: ClassVar[str] = "M"
    settings: ClassVar[str] = "world.memory."
    watch: ClassVar[str] = "nll"
    remedy: ClassVar[str] = "lower world.memory.optimizer.learning_rate or set its clip, and run it again with --redo"
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            "memory",
            ("nll",),
            "M: negative log likelihood",
            "M's negative log likelihood of the next z, nats per latent dimension; dots: held-out episodes of all rounds.",
        ),
    )

    @property
    def units(self) -> int:
        """Frames per step."""
        return self.batch_size * self.model.config.sequence_length

    def start(self, params: Params, mesh: Mesh) -> TrainState:
        """The state before the first step of a training that starts from `params`, on the devices of `mesh`: each has
        all weights, and the LSTM's carried states are distributed."""
        state = continue_from(self.model, params)
        carried = parallel.rows(mesh, parallel.part(state.memory_state))
        return replace(parallel.replicate(mesh, state), memory_state=carried)

    def advance(
        self, data: TrainingData, seed: int, begun: int, key: Key, mesh: Mesh
    ) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        """A function that runs one of the steps `begun`, `begun` + 1, … per call. The order follows from `seed`,
        samples of z from `key`."""
        assert data.recorded is not None
        recorded, config = parallel.replicate(mesh, observations.padded(data.recorded)), self.model.config
        start, length = self._episodes(data)
        stream = chunks_from(start, length, config.batch_size, config.sequence_length, seed, begun)
        chunks = (replace(chunk, positions=parallel.rows(mesh, parallel.part(chunk.positions))) for chunk in stream)
        return lambda state: train_step(self.model, state, recorded, next(chunks), key)

    def trace(self, recorded: Observations, mesh: Mesh) -> Traced:
        """The training step, traced for the devices of `mesh`."""
        config = self.model.config
        state = jax.eval_shape(lambda: continue_from(self.model, self.init(jax.random.key(0))))
        carried = parallel.shape(mesh, state.memory_state, dealt=True)
        positions = jax.ShapeDtypeStruct((config.batch_size, config.sequence_length), jnp.int32)
        chunk = Chunk(
            parallel.shape(mesh, positions, dealt=True), parallel.shape(mesh, jax.ShapeDtypeStruct((), jnp.bool_))
        )
        state = replace(parallel.shape(mesh, state), memory_state=carried)
        recorded, key = parallel.shape(mesh, (recorded, parallel.key_shape()))
        return train_step.trace(self.model, state, recorded, chunk, key)

    def report_every(self, data: TrainingData) -> int:
        """Steps between two reports."""
        config = self.model.config
        epoch = chunks_per_epoch(self._episodes(data)[1], config.batch_size, config.sequence_length)
        return max(1, min(self.steps, max(epoch, self.steps // REPORTS)))

    def reporter(self, data: TrainingData) -> Callable[[Params, Key], Report]:
        """A function that reports the losses of weights on held-out episodes and on equally many training episodes of
        the same rounds; the difference shows overfitting."""
        recorded, chosen = data.recorded, {HELD_OUT: data.held_out, TRAINED: data.trained}
        assert recorded is not None
        reported = {
            prefix: observations.select(recorded, numbers) for prefix, numbers in chosen.items() if len(numbers)
        }

        def report(params: Params, key: Key) -> Report:
            # Every report uses the same samples of the same frames.
            found = {
                prefix: evaluate(self.model, params, episodes, jax.random.clone(key))
                for prefix, episodes in reported.items()
            }
            return Report({f"{prefix}{name}": value for prefix, each in found.items() for name, value in each.items()})

        return report

    def bytes_in_training(self, params: int) -> int:
        """Bytes on a device while an M with this many weights is trained."""
        return 4 * FLOAT * params + FLOAT * self.units * (
            10 * self.model.config.hidden_size + 4 * self.model.output_size
        )

    def _episodes(self, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
        """Starts of the training episodes among the frames, and their lengths."""
        assert data.recorded is not None
        return observations.extents(data.recorded, data.training)
