"""The last frames in grey, without a world model, for policies that learn from pixels in the actual environment
(model-free, as in the paper's comparisons). It has no weights and no training, and its dream does not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import struct

from wm_jax.data.training import Learner
from wm_jax.errors import require_range
from wm_jax.tasks import FRAME_SHAPE, Task
from wm_jax.types import Action, Array, Features, Key, Outcome, Params
from wm_jax.worlds.protocol import WORLDS, WorldConfig, WorldModel

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


@WORLDS.register
@dataclass(frozen=True)
class PixelsConfig(WorldConfig):
    """Grey frames instead of a world model."""

    kind: Literal["pixels"] = "pixels"
    frames: int = 4
    """Number of stacked frames that a policy sees, the newest last. One frame alone shows no velocity."""

    def __post_init__(self) -> None:
        require_range("world.frames", self.frames, 1, 64)

    def build(self, task: Task) -> "Pixels":
        """Build it for any task."""
        return Pixels(self.frames, task.action_size)


@struct.dataclass
class PixelsState:
    """The last frames."""

    frames: Array
    """[64, 64, n] uint8; an episode's first frame is repeated for the missing earlier ones."""


@dataclass(frozen=True)
class Pixels(WorldModel):
    """Stacked grey frames as a `WorldModel`."""

    frames: int
    """n"""
    actions: int
    """A"""

    @property
    def action_size(self) -> int:
        """A"""
        return self.actions

    @property
    def learners(self) -> Mapping[str, Learner]:
        """None."""
        return {}

    @property
    def missing(self) -> Mapping[str, str]:
        """All predictions."""
        how = (
            "choose another world model, as pixels predict nothing, or do not use dreams: evolve.fitness 'actual', "
            "dream.reward 'survival', dream.end 'threshold'"
        )
        return dict.fromkeys(("reward", "end", "surprise"), how)

    def encode(self, params: Params, frames: Array) -> Array:
        """[..., 64, 64] uint8: the frames in grey."""
        # Not a matrix product, which accelerators round.
        grey = sum(share * frames[..., channel].astype(jnp.float32) for channel, share in enumerate(GREY))
        return jnp.round(grey).astype(jnp.uint8)

    def begin(self, params: Params, obs: Array, key: Key) -> PixelsState:
        """The first frame, repeated for the missing earlier ones."""
        return PixelsState(jnp.repeat(obs[..., None], self.frames, axis=-1))

    def observe(self, params: Params, state: PixelsState, action: Action, obs: Array, key: Key) -> PixelsState:
        """Append the next frame and drop the oldest."""
        return PixelsState(jnp.concatenate([state.frames[..., 1:], obs[..., None]], axis=-1))

    def noise(self, key: Key) -> Any:
        """None."""
        return ()

    def imagine(
        self, params: Params, state: PixelsState, action: Action, noise: Any, temperature: Array | float
    ) -> tuple[PixelsState, Outcome]:
        """Nothing changes, and nothing is predicted."""
        return state, Outcome(None, None)

    def features(self, state: PixelsState) -> Features:
        """pixels [..., 64 * 64 * n] in [0, 1]."""
        pixels = state.frames.astype(jnp.float32) / 255
        return {"pixels": pixels.reshape(*pixels.shape[:-3], -1)}

    def frame(self, params: Params, state: PixelsState) -> Array:
        """The newest frame, in grey."""
        return jnp.broadcast_to(state.frames[..., -1:].astype(jnp.float32) / 255, FRAME_SHAPE)
