"""Layers of the RSSM: dense ones with an activation, and a GRU whose state is cut into blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp

from wm_jax.lanes import add
from wm_jax.memory.model import dense
from wm_jax.types import Array, Key, Params

EPSILON = 1e-4
"""Added to a mean square before its root is divided by."""


@dataclass(frozen=True)
class Layers:
    """How hidden layers are made."""

    activation: Literal["relu", "elu", "silu"]
    normalize: bool

    def init(self, key: Key, inputs: int, outputs: int) -> Params:
        """Fresh weights of a hidden layer."""
        params = dense_init(key, inputs, outputs)
        return {**params, "scale": jnp.ones(outputs, jnp.float32)} if self.normalize else params

    def hidden(self, layer: Params, inputs: Array) -> Array:
        """`inputs` [..., I] through a hidden layer: [..., O]."""
        return self.activate(layer, dense(layer, inputs))

    def activate(self, layer: Params, outputs: Array) -> Array:
        """What follows on a layer's sums [..., O]."""
        if self.normalize:
            size = jnp.sqrt((outputs**2).mean(axis=-1, keepdims=True) + EPSILON)
            outputs = outputs / size * jnp.broadcast_to(layer["scale"], outputs.shape)
        return getattr(jax.nn, self.activation)(outputs)

    def mlp_init(self, key: Key, sizes: Sequence[int], fresh: Literal["random", "zero"] = "random") -> Params:
        """Fresh weights of hidden layers and a last one, from and to so many numbers: {"hidden_0", …, "output"}. With
        `fresh` zero the last one puts out 0."""
        *inner, last = pairwise(sizes)
        keys = jax.random.split(key, len(inner) + 1)
        params = {f"hidden_{i}": self.init(keys[i], *shape) for i, shape in enumerate(inner)}
        output = dense_init(keys[-1], *last)
        return {**params, "output": output if fresh == "random" else jax.tree.map(jnp.zeros_like, output)}

    def mlp(self, params: Params, inputs: Array) -> Array:
        """`inputs` [..., I] through all layers."""
        for number in range(len(params) - 1):
            inputs = self.hidden(params[f"hidden_{number}"], inputs)
        return dense(params["output"], inputs)


def dense_init(key: Key, inputs: int, outputs: int) -> Params:
    """{"kernel": [I, O], "bias": [O]}: Glorot-uniform, and 0."""
    kernel = jax.nn.initializers.glorot_uniform()(key, (inputs, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}


@dataclass(frozen=True)
class GRU:
    """A GRU that remembers unless it is told otherwise. Its state [..., D] is cut into blocks; one block's gates read that
    block and all inputs:

        r, c, u = split(W [x, h] + b),   c' = tanh(sigmoid(r) c),   h' = sigmoid(u - 1) c' + (1 - sigmoid(u - 1)) h
    """

    layers: Layers
    inputs: int
    """Numbers of x."""
    size: int
    """D"""
    blocks: int

    def init(self, key: Key) -> Params:
        """Fresh weights; with several blocks, of a hidden layer of each block before the gates, too."""
        part, keys = self.size // self.blocks, jax.random.split(key, 2)
        if self.blocks == 1:
            return {"gates": dense_init(keys[0], self.inputs + part, 3 * part)}
        block = jax.vmap(dense_init, (0, None, None))
        hidden = block(jax.random.split(keys[0], self.blocks), self.inputs + part, part)
        scale = {"scale": jnp.ones(self.size, jnp.float32)} if self.layers.normalize else {}
        return {
            "hidden": {**hidden, **scale},
            "gates": block(jax.random.split(keys[1], self.blocks), part, 3 * part),
        }

    def __call__(self, params: Params, x: Array, state: Array) -> Array:
        """The state [..., D] after the inputs x [..., I]."""
        if self.blocks == 1:
            gates = dense(params["gates"], jnp.concatenate([x, state], axis=-1))[..., None, :]
        else:
            parts = state.reshape(*state.shape[:-1], self.blocks, -1)
            everywhere = jnp.broadcast_to(x[..., None, :], (*parts.shape[:-1], x.shape[-1]))
            inputs = jnp.concatenate([everywhere, parts], axis=-1)
            sums = _dense_blocks(params["hidden"], inputs).reshape(state.shape)
            hidden = self.layers.activate(params["hidden"], sums).reshape(parts.shape)
            gates = _dense_blocks(params["gates"], hidden)
        reset, candidate, update = (gate.reshape(state.shape) for gate in jnp.split(gates, 3, axis=-1))
        share = jax.nn.sigmoid(update - 1)
        return share * jnp.tanh(jax.nn.sigmoid(reset) * candidate) + (1 - share) * state


def _dense_blocks(layer: Params, inputs: Array) -> Array:
    """`inputs` [..., G, I] to [..., G, O], each block through its own {"kernel": [G, I, O], "bias": [G, O]}."""
    return add(layer["bias"], jnp.einsum("...gi,gio->...go", inputs, layer["kernel"]))
