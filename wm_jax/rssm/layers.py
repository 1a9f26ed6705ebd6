"""Layers of the RSSM: dense layers with an activation, and a GRU whose state is cut into blocks."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import jax
import jax.numpy as jnp

from wm_jax import weights
from wm_jax.lanes import add
from wm_jax.memory.model import dense
from wm_jax.types import Array, Params

EPSILON = 1e-4
"""Added to a mean square before the division by its root."""


@dataclass(frozen=True)
class Layers:
    """Settings of hidden layers."""

    activation: Literal["relu", "elu", "silu"]
    normalize: bool

    def fresh(self, inputs: int, outputs: int) -> dict[str, Any]:
        """Shapes for a hidden layer's fresh weights (`weights.draw`)."""
        scale = {"scale": weights.Constant((outputs,), 1.0)} if self.normalize else {}
        return weights.dense(inputs, outputs) | scale

    def hidden(self, layer: Params, inputs: Array) -> Array:
        """`inputs` [..., I] through a hidden layer: [..., O]."""
        return self.activate(layer, dense(layer, inputs))

    def activate(self, layer: Params, outputs: Array) -> Array:
        """The activation, after the norm if enabled, of a layer's sums [..., O]."""
        if self.normalize:
            size = jnp.sqrt((outputs**2).mean(axis=-1, keepdims=True) + EPSILON)
            outputs = outputs / size * jnp.broadcast_to(layer["scale"], outputs.shape)
        return getattr(jax.nn, self.activation)(outputs)

    def fresh_mlp(self, *sizes: int) -> dict[str, Any]:
        """The same for hidden layers and an output layer of these sizes: {"hidden_0", …, "output"}."""
        *inner, last = pairwise(sizes)
        return {f"hidden_{i}": self.fresh(*shape) for i, shape in enumerate(inner)} | {"output": weights.dense(*last)}

    def mlp(self, params: Params, inputs: Array) -> Array:
        """`inputs` [..., I] through all layers."""
        for number in range(len(params) - 1):
            inputs = self.hidden(params[f"hidden_{number}"], inputs)
        return dense(params["output"], inputs)


@dataclass(frozen=True)
class GRU:
    """A GRU whose update gate has an offset of -1, so that a new network mostly keeps its state. The state [..., D] is cut
    into blocks; a block's gates read that block and all inputs, with several blocks through a hidden layer:

        r, c, u = split(W [x, h] + b),   c' = tanh(sigmoid(r) c),   h' = sigmoid(u - 1) c' + (1 - sigmoid(u - 1)) h
    """

    layers: Layers
    inputs: int
    """Size of x."""
    size: int
    """D: size of the state."""
    blocks: int

    def fresh(self) -> dict[str, Any]:
        """Shapes for fresh weights; with several blocks, also those of a hidden layer per block before the gates."""
        part = self.size // self.blocks
        if self.blocks == 1:
            return {"gates": weights.dense(self.inputs + part, 3 * part)}
        scale = {"scale": weights.Constant((self.size,), 1.0)} if self.layers.normalize else {}
        return {
            "hidden": self._fresh_blocks(self.inputs + part, part) | scale,
            "gates": self._fresh_blocks(part, 3 * part),
        }

    def _fresh_blocks(self, inputs: int, outputs: int) -> dict[str, Any]:
        limit = weights.kernel(inputs, outputs).limit
        return {
            "kernel": weights.Uniform((self.blocks, inputs, outputs), limit),
            "bias": weights.Constant((self.blocks, outputs)),
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
