"""A policy from pixels: the convolutional actor of Kuth et al. (2021) for model-free PPO, their baseline for the world
model. It has convolutions of 32, 64 and 64 filters, two layers of 400 units, and the parameters of a distribution as
outputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from wm_jax.actors.mlp import LAST_LAYER, Layer
from wm_jax.actors.policy import Head, HeadedPolicy, Kind
from wm_jax.actors.protocol import ACTORS, ActorConfig
from wm_jax.dream import Dream
from wm_jax.errors import UserError, require_choice
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Array, Key, Params, State
from wm_jax.worlds import World
from wm_jax.worlds.protocol import feature_sizes

FILTERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Number, size and stride of each convolution's filters."""
UNITS = (400, 400)
"""Units of the dense layers after the convolutions."""
FEATURE = "pixels"
"""Name of the feature that it reads (`worlds.pixels`)."""


@ACTORS.register
@dataclass(frozen=True)
class ConvolutionalConfig(ActorConfig):
    """A policy from pixels; its layers are those of Kuth et al."""

    kind: Literal["convolutional"] = "convolutional"
    distribution: Kind = "gaussian"
    """As in `actor.kind` policy."""

    def __post_init__(self) -> None:
        require_choice("actor.distribution", self.distribution, get_args(Kind))

    def build(self, dream: Dream) -> "Convolutional":
        """The policy. Raises `UserError` if the world model has no pixels, or if categorical actions are needed but the
        task names none."""
        sizes = feature_sizes(dream.model)
        if FEATURE not in sizes:
            raise UserError(f"actor.kind is 'convolutional', which reads {FEATURE}, but the world model has "
                            f"{', '.join(sizes)}; set world.kind to 'pixels', or choose another actor")  # fmt: skip
        head = Head.of(self.distribution, dream)
        frames = sizes[FEATURE] // (FRAME_SHAPE[0] * FRAME_SHAPE[1])
        return Convolutional(Pyramid(frames, head.size), head)


@dataclass(frozen=True)
class Pyramid:
    """The network; its weights are a tuple of `Layer`, kernels [size, size, inputs, outputs] and [inputs, outputs]."""

    frames: int
    """Channels of the images."""
    size: int
    """Number of outputs."""

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the kernels."""
        channels, side, found = self.frames, FRAME_SHAPE[0], list[tuple[int, ...]]()
        for number, size, stride in FILTERS:
            found.append((size, size, channels, number))
            channels, side = number, (side - size) // stride + 1
        return found + list(pairwise((side * side * channels, *UNITS, self.size)))

    def init(self, key: Key) -> Params:
        """Fresh weights: N(0, 2 / inputs), as for ReLU layers; the last layer near 0; biases 0."""
        layers = []
        for number, shape in enumerate(shapes := self.shapes):
            inputs = math.prod(shape[:-1])
            scale = LAST_LAYER / inputs**0.5 if number == len(shapes) - 1 else (2 / inputs) ** 0.5
            kernel = scale * jax.random.normal(jax.random.fold_in(key, number), shape, jnp.float32)
            layers.append(Layer(kernel, jnp.zeros(shape[-1], jnp.float32)))
        return tuple(layers)

    def outputs(self, params: Sequence[Layer], inputs: Array) -> Array:
        """[..., outputs] for images [..., 64 * 64 * frames]."""
        x = inputs.reshape(-1, FRAME_SHAPE[0], FRAME_SHAPE[1], self.frames)
        convolutions, dense = params[: len(FILTERS)], params[len(FILTERS) :]
        for layer, (_, _, stride) in zip(convolutions, FILTERS, strict=True):
            x = jax.nn.relu(layer.add(convolution(x, layer.kernel, stride)))
        x = x.reshape(len(x), -1)
        for number, layer in enumerate(dense):
            x = layer.add((jax.nn.relu(x) if number else x) @ layer.kernel)
        return x.reshape(*inputs.shape[:-1], -1)


def convolution(x: Array, kernel: Array, stride: int) -> Array:
    """`x` [B, H, H, C] and `kernel` [k, k, C, O] to [B, n, n, O], n = (H - k) // stride + 1; k is a multiple of the
    stride.

    The pixels within a stride become channels, and the remaining convolution of stride 1 a sum of products: XLA's
    gradients of strided convolutions are many times slower on a CPU.
    """
    size, channels = kernel.shape[0], kernel.shape[2]
    half, n = size // stride, (x.shape[1] - size) // stride + 1
    side = n + half - 1
    x = x[:, : side * stride, : side * stride].reshape(-1, side, stride, side, stride, channels)
    x = jnp.moveaxis(x, 2, 3).reshape(-1, side, side, stride * stride * channels)
    kernel = kernel.reshape(half, stride, half, stride, channels, -1)
    kernel = jnp.moveaxis(kernel, 1, 2).reshape(half, half, stride * stride * channels, -1)
    return sum(
        (x[:, i : i + n, j : j + n] @ kernel[i, j] for i in range(half) for j in range(half)), start=jnp.float32(0)
    )


@dataclass(frozen=True)
class Convolutional(HeadedPolicy):
    """The actor described by `ConvolutionalConfig`."""

    network: Pyramid

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that it reads."""
        return (FEATURE,)

    @property
    def words(self) -> str:
        """Description of the actor and its inputs."""
        return f"{self.network.frames} grey frames, convolutional, {self.head.distribution}"

    @property
    def critic(self) -> Pyramid:
        """The policy's network with a single output."""
        return Pyramid(self.network.frames, 1)

    def inputs(self, world: World, state: State) -> Array:
        """The images [..., 64 * 64 * frames]."""
        return world.features(state)[FEATURE]
