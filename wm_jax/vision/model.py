"""V: the convolutional variational autoencoder that turns a frame into a small latent vector z.

Paper, section "VAE (V) Model" and appendix "Variational Autoencoder" (arXiv:1803.10122): four stride-2 convolutions
and two dense layers give the mean and log-variance of q(z | frame) = N(mean, exp(log_var)); one dense layer and four
stride-2 transposed convolutions draw the frame that a z stands for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
from flax import nnx

from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Array, Key, LatentStats, Params
from wm_jax.vision.config import VisionConfig
from wm_jax.vision.layers import convolution, transposed_convolution


class _Convolution(nnx.Module):
    """A (transposed) convolution with bias."""

    def __init__(
        self, apply: Callable[[Array, Array], Array], kernel_shape: tuple[int, ...], outputs: int, rngs: nnx.Rngs
    ) -> None:
        self.apply = apply
        self.kernel = nnx.Param(jax.nn.initializers.glorot_uniform()(rngs.params(), kernel_shape))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Array) -> Array:
        return self.apply(x, self.kernel[...]) + self.bias[...]


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=jax.nn.initializers.glorot_uniform(), rngs=rngs)


class _Network(nnx.Module):
    """Encoder: frames [B, 64, 64, 3] in [0, 1] to mean and log-variance. Decoder: z [B, Z] to frames in [0, 1]."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs) -> None:
        width, flat = config.width, 32 * config.width
        down = [FRAME_SHAPE[-1], width, 2 * width, 4 * width, 8 * width]
        up = [flat, 4 * width, 2 * width, width, FRAME_SHAPE[-1]]
        self.encoder = nnx.Dict(
            {
                f"conv{i + 1}": _Convolution(convolution, (4, 4, down[i], down[i + 1]), down[i + 1], rngs)
                for i in range(4)
            }
            | {name: _dense(flat, config.latent_size, rngs) for name in ("mean", "log_var")}
        )
        self.decoder = nnx.Dict(
            {"dense": _dense(config.latent_size, flat, rngs)}
            | {
                f"deconv{i + 1}": _Convolution(transposed_convolution, (size, size, up[i + 1], up[i]), up[i + 1], rngs)
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
def _structure(config: VisionConfig) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: _Network(config, nnx.Rngs(0))))


@dataclass(frozen=True)
class Vision:
    """V without its weights: hashable, so that it can be a static argument of a compiled function."""

    config: VisionConfig

    def init(self, key: Key) -> Params:
        """Fresh weights: Glorot-uniform kernels, zero biases; 4,348,547 numbers for Z = 32 and 4,446,915 for Z = 64."""
        return nnx.to_pure_dict(nnx.state(_Network(self.config, nnx.Rngs(key))))

    def encode(self, params: Params, frames: Array) -> LatentStats:
        """The posterior of z for `frames` [..., 64, 64, 3] uint8. Raises ValueError for another shape or type."""
        if frames.shape[-3:] != FRAME_SHAPE or frames.dtype != jnp.uint8:
            raise ValueError(f"frames must be [..., 64, 64, 3] uint8, found {frames.shape} {frames.dtype}")
        leading = frames.shape[:-3]
        pixels = frames.reshape(-1, *FRAME_SHAPE).astype(jnp.float32) / 255
        stats = nnx.merge(_structure(self.config), params).encode(pixels)
        return jax.tree.map(lambda x: x.reshape(*leading, -1), stats)

    def decode(self, params: Params, z: Array) -> Array:
        """What `z` [..., Z] looks like: float32 [..., 64, 64, 3] in [0, 1]. Raises ValueError for another size of z."""
        if z.shape[-1] != self.config.latent_size:
            raise ValueError(f"z must be [..., {self.config.latent_size}], found {z.shape}")
        pixels = nnx.merge(_structure(self.config), params).decode(z.reshape(-1, z.shape[-1]))
        return pixels.reshape(*z.shape[:-1], *FRAME_SHAPE)


def sample(stats: LatentStats, key: Key) -> Array:
    """One z [..., Z] float32 from each posterior: mean + exp(log_var / 2) * noise."""
    mean, log_var = stats.mean.astype(jnp.float32), stats.log_var.astype(jnp.float32)
    return mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
