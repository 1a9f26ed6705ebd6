"""V: the convolutional variational autoencoder that turns a frame into a small latent vector z.

Paper, section "VAE (V) Model" and appendix "Variational Autoencoder" (arXiv:1803.10122): four stride-2 convolutions
and two dense layers give the mean and log-variance of q(z | frame) = N(mean, exp(log_var)); one dense layer and four
stride-2 transposed convolutions draw the frame that a z stands for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate

import jax
import jax.numpy as jnp
from flax import nnx

from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Array, Key, LatentStats, Params
from wm_jax.vision.config import VisionConfig
from wm_jax.vision.layers import convolution, transposed_convolution


class _Convolution(nnx.Module):
    """A (transposed) convolution with bias."""

    def __init__(self, apply: Callable[[Array, Array], Array], kernel_shape: tuple[int, ...], outputs: int) -> None:
        self.apply = apply
        self.kernel = nnx.Param(jnp.zeros(kernel_shape))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Array) -> Array:
        return self.apply(x, self.kernel[...]) + self.bias[...]


class _Network(nnx.Module):
    """Encoder: frames [B, 64, 64, 3] in [0, 1] to mean and log-variance. Decoder: z [B, Z] to frames in [0, 1]."""

    def __init__(self, config: VisionConfig) -> None:
        width, flat, rngs = config.width, 32 * config.width, nnx.Rngs(0)
        down = [FRAME_SHAPE[-1], width, 2 * width, 4 * width, 8 * width]
        up = [flat, 4 * width, 2 * width, width, FRAME_SHAPE[-1]]
        self.encoder = nnx.Dict(
            {f"conv{i + 1}": _Convolution(convolution, (4, 4, down[i], down[i + 1]), down[i + 1]) for i in range(4)}
            | {name: nnx.Linear(flat, config.latent_size, rngs=rngs) for name in ("mean", "log_var")}
        )
        self.decoder = nnx.Dict(
            {"dense": nnx.Linear(config.latent_size, flat, rngs=rngs)}
            | {
                f"deconv{i + 1}": _Convolution(transposed_convolution, (size, size, up[i + 1], up[i]), up[i + 1])
                for i, size in enumerate((5, 5, 6, 6))
            }
        )

    def encode(self, frames: Array) -> LatentStats:
        x = frames
        for i in range(4):
            x = jax.nn.relu(self.encoder[f"conv{i + 1}"](x))
        x = x.reshape(len(x), -1)
        return LatentStats(self.encoder["mean"](x), self.encoder["log_var"](x))

    def decode(self, z: Array) -> Array:
        x = self.decoder["dense"](z)[:, None, None, :]
        for i in range(3):
            x = jax.nn.relu(self.decoder[f"deconv{i + 1}"](x))
        return jax.nn.sigmoid(self.decoder["deconv4"](x))


@cache
def _structure(config: VisionConfig) -> tuple[nnx.GraphDef, Params]:
    """The network without its weights, and the weights' shapes."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: _Network(config)))
    return graphdef, nnx.to_pure_dict(shapes)


def _glorot_limit(shape: tuple[int, ...]) -> float:
    return math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))


@dataclass(frozen=True)
class Vision:
    """V without its weights: hashable, so that it can be a static argument of a compiled function."""

    config: VisionConfig

    @partial(jax.jit, static_argnums=0)
    def init(self, key: Key) -> Params:
        """Fresh weights: Glorot-uniform kernels, zero biases; 4,348,547 numbers for Z = 32 and 4,446,915 for Z = 64.

        All kernels are cut from one draw, which compiles many times faster than a draw for each.
        """
        leaves, tree = jax.tree.flatten(_structure(self.config)[1])
        ends = list(accumulate(leaf.size for leaf in leaves))
        draw = jnp.split(jax.random.uniform(key, (ends[-1],), minval=-1, maxval=1), ends[:-1])
        return jax.tree.unflatten(
            tree,
            [
                _glorot_limit(leaf.shape) * part.reshape(leaf.shape) if leaf.ndim > 1 else jnp.zeros(leaf.shape)
                for leaf, part in zip(leaves, draw, strict=True)
            ],
        )

    def encode(self, params: Params, frames: Array) -> LatentStats:
        """The posterior of z for `frames` [..., 64, 64, 3] uint8. Raises ValueError for another shape or type."""
        if frames.shape[-3:] != FRAME_SHAPE or frames.dtype != jnp.uint8:
            raise ValueError(f"frames must be [..., 64, 64, 3] uint8, found {frames.shape} {frames.dtype}")
        leading = frames.shape[:-3]
        pixels = frames.reshape(-1, *FRAME_SHAPE).astype(jnp.float32) / 255
        stats = nnx.merge(_structure(self.config)[0], params).encode(pixels)
        return jax.tree.map(lambda x: x.reshape(*leading, -1), stats)

    def decode(self, params: Params, z: Array) -> Array:
        """What `z` [..., Z] looks like: float32 [..., 64, 64, 3] in [0, 1]. Raises ValueError for another size of z."""
        if z.shape[-1] != self.config.latent_size:
            raise ValueError(f"z must be [..., {self.config.latent_size}], found {z.shape}")
        pixels = nnx.merge(_structure(self.config)[0], params).decode(z.reshape(-1, z.shape[-1]))
        return pixels.reshape(*z.shape[:-1], *FRAME_SHAPE)


def sample(stats: LatentStats, key: Key) -> Array:
    """One z [..., Z] float32 from each posterior: mean + exp(log_var / 2) * noise."""
    mean, log_var = stats.mean.astype(jnp.float32), stats.log_var.astype(jnp.float32)
    return mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
