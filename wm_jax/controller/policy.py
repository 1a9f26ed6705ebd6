"""C, the paper's controller (section 2.3): action = tanh(W features + b), or with one layer of tanh units between."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax.numpy as jnp

from wm_jax.errors import require_choice, require_range
from wm_jax.types import Action, Array, Features, Weights


@dataclass(frozen=True)
class PolicyConfig:
    """What C sees and how it is wired. The defaults are the paper's Car Racing."""

    features: Literal["z", "zh", "zhc"] = "zh"
    """z: what V sees; h, c: the output and the cell of M's LSTM."""
    hidden_size: int = 0
    """Units of a hidden layer; 0 is a linear controller."""
    bias: bool = True
    """Whether the layers have biases."""

    def __post_init__(self) -> None:
        require_choice("controller.features", self.features, ("z", "zh", "zhc"))
        require_range("controller.hidden_size", self.hidden_size, 0, 65536)


@dataclass(frozen=True)
class Controller:
    """A `Policy`: a hashable recipe; the weights come in flat, one row of a population.

    They stand layer after layer, each as its matrix [inputs, outputs] row by row, then its biases [outputs].
    """

    config: PolicyConfig
    latent_size: int
    """Z"""
    hidden_size: int
    """H: M's."""
    action_size: int
    """A"""

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of each layer."""
        inputs = self.latent_size + (len(self.config.features) - 1) * self.hidden_size
        sizes = (inputs, *filter(None, [self.config.hidden_size]), self.action_size)
        return tuple(pairwise(sizes))

    @property
    def size(self) -> int:
        """D: number of weights."""
        return sum((inputs + self.config.bias) * outputs for inputs, outputs in self.layers)

    def inputs(self, features: Features) -> Array:
        """The part of `features` that C sees [F], in the order of the authors' code: [z], [z, h] or [z, c, h]."""
        memory = features.memory
        parts = {"z": [features.z], "zh": [features.z, memory.h], "zhc": [features.z, memory.c, memory.h]}
        return jnp.concatenate(parts[self.config.features], axis=-1)

    def __call__(self, weights: Weights, features: Features) -> Action:
        """The action [A] of the candidate `weights` [D] for one agent's features."""
        return jnp.tanh(self.outputs(weights, features))

    def outputs(self, weights: Weights, features: Features) -> Array:
        """What the last layer puts out [A], whose tanh is the action."""
        outputs, offset = self.inputs(features), 0
        for number, (size_in, size_out) in enumerate(self.layers):
            if number:
                outputs = jnp.tanh(outputs)
            matrix = weights[offset : offset + size_in * size_out].reshape(size_in, size_out)
            offset += matrix.size
            outputs = outputs @ matrix
            if self.config.bias:
                outputs = outputs + weights[offset : offset + size_out]
                offset += size_out
        return outputs
