"""V: the convolutional variational autoencoder that encodes a frame as a small latent vector z.

Paper, section "VAE (V) Model" and appendix "Variational Autoencoder" (arXiv:1803.10122): four stride-2 convolutions and
two dense layers give the mean and log-variance of q(z | frame) = N(mean, exp(log_var)); one dense layer and four
stride-2 transposed convolutions reconstruct the frame from z.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from wm_jax import weights
from wm_jax.lanes import add
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Array, Key, Params
from wm_jax.vision.config import VisionConfig
from wm_jax.vision.layers import by_chunks, convolution, transposed_convolution

ENCODED_AT_ONCE = 25
"""Frames that a CPU passes through all layers together, so that intermediate results stay in its cache."""
DECONVOLUTIONS = (5, 5, 6, 6)
"""Sizes of the decoder's kernels."""


@struct.dataclass
class LatentStats:
    """V's encoding of a frame: the posterior N(mean, exp(log_var)) of z."""

    mean: Array
    """[..., Z]"""
    log_var: Array
    """[..., Z]"""


def _dense(layer: Params, x: Array) -> Array:
    return add(layer["bias"], x @ layer["kernel"])


@dataclass(frozen=True)
class Vision:
    """V without its weights: hashable, so that it can be a static argument of a compiled function."""

    config: VisionConfig

    @property
    def numbers_at_work(self) -> int:
        """Outputs of all layers for a frame, plus the frame and its reconstruction."""
        # In multiples of the width: side² × channels of each layer.
        layers = 31**2 + 2 * 14**2 + 4 * 6**2 + 8 * 2**2 + 4 * 5**2 + 2 * 13**2 + 30**2
        return self.config.width * layers + 2 * math.prod(FRAME_SHAPE)

    def fresh(self) -> dict[str, Any]:
        """Shapes for fresh weights: {"encoder", "decoder"} of layers {"kernel", "bias"}."""
        config = self.config
        width, flat, colours = config.width, 32 * config.width, FRAME_SHAPE[-1]
        down = [colours, width, 2 * width, 4 * width, 8 * width]
        up = [flat, 4 * width, 2 * width, width, colours]
        encoder = {f"conv{i + 1}": ((4, 4, down[i], down[i + 1]), down[i + 1]) for i in range(4)}
        encoder |= {name: ((flat, config.latent_size), config.latent_size) for name in ("mean", "log_var")}
        decoder = {"dense": ((config.latent_size, flat), flat)}
        decoder |= {f"deconv{i + 1}": ((k, k, up[i + 1], up[i]), up[i + 1]) for i, k in enumerate(DECONVOLUTIONS)}
        return {
            part: {
                layer: {
                    "kernel": weights.kernel(*kernel),
                    "bias": weights.Constant((bias,)),
                }
                for layer, (kernel, bias) in layers.items()
            }
            for part, layers in (("encoder", encoder), ("decoder", decoder))
        }

    @partial(jax.jit, static_argnums=0)
    def init(self, key: Key) -> Params:
        """Fresh weights: Glorot-uniform kernels, zero biases; 4,348,547 numbers for Z = 32 and 4,446,915 for Z = 64."""
        return weights.draw(key, self.fresh())

    def encode(self, params: Params, frames: Array) -> LatentStats:
        """The posterior of z for `frames` [..., 64, 64, 3] uint8. Raises ValueError for another shape or type."""
        x, layers = self.convolve(params, frames), params["encoder"]
        return LatentStats(*(_dense(layers[name], x) for name in ("mean", "log_var")))

    def convolve(self, params: Params, frames: Array) -> Array:
        """Outputs of the encoder's convolutions for `frames` [..., 64, 64, 3] uint8: [..., 32 width]. Raises ValueError
        for another shape or type."""
        if frames.shape[-3:] != FRAME_SHAPE or frames.dtype != jnp.uint8:
            raise ValueError(f"frames must be [..., 64, 64, 3] uint8, found {frames.shape} {frames.dtype}")
        layers = params["encoder"]

        def features(frames: Array) -> Array:
            x = frames.astype(jnp.float32) / 255
            for i in range(4):
                layer = layers[f"conv{i + 1}"]
                x = jax.nn.relu(add(layer["bias"], convolution(x, layer["kernel"])))
            return x.reshape(len(x), -1)

        x = lax.platform_dependent(
            frames.reshape(-1, *FRAME_SHAPE),
            cpu=lambda frames: by_chunks(features, frames, ENCODED_AT_ONCE),
            default=features,
        )
        return x.reshape(*frames.shape[:-3], -1)

    def decode(self, params: Params, z: Array) -> Array:
        """Reconstructions of `z` [..., Z]: float32 [..., 64, 64, 3] in [0, 1]. Raises ValueError for another size of
        z."""
        if z.shape[-1] != self.config.latent_size:
            raise ValueError(f"z must be [..., {self.config.latent_size}], found {z.shape}")
        layers = params["decoder"]
        x = _dense(layers["dense"], z.reshape(-1, z.shape[-1]))[:, None, None, :]
        for i in range(len(DECONVOLUTIONS)):
            layer = layers[f"deconv{i + 1}"]
            x = add(layer["bias"], transposed_convolution(x if i == 0 else jax.nn.relu(x), layer["kernel"]))
        return jax.nn.sigmoid(x).reshape(*z.shape[:-1], *FRAME_SHAPE)


def sample(stats: LatentStats, key: Key) -> Array:
    """One z [..., Z] float32 from each posterior: mean + exp(log_var / 2) * noise."""
    mean, log_var = stats.mean.astype(jnp.float32), stats.log_var.astype(jnp.float32)
    return mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape, jnp.float32)
