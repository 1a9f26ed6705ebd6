"""The paper's controller (section 2.3): action = tanh(W features + b), optionally with hidden layers of tanh units."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.actors.distributions import SquashedNormal
from wm_jax.actors.protocol import ACTORS, ActorConfig, Policy
from wm_jax.dream import Dream
from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.lanes import add
from wm_jax.types import Array, Key, Params, State
from wm_jax.worlds import World, WorldModel
from wm_jax.worlds.protocol import feature_sizes

CRITIC_SIZE = 128
"""Units of the hidden layer of the critic."""
LAST_LAYER = 0.01
"""Standard deviation of the last layer's fresh weights, relative to that of other layers; a new network's outputs are
near 0."""


@ACTORS.register
@dataclass(frozen=True)
class MLPConfig(ActorConfig):
    """C's inputs and architecture. The defaults are the paper's Car Racing."""

    kind: Literal["mlp"] = "mlp"
    features: tuple[str, ...] = ("z", "h")
    """The world model's features that C reads, in this order. Those of the paper's model: z, V's latent vector; h and
    c, the output and the cell state of M's LSTM. The paper's Take Cover uses z c h."""
    hidden_sizes: tuple[int, ...] = ()
    """Units of each hidden layer; empty: a linear controller."""
    bias: bool = True
    """Whether the layers have biases."""

    def __post_init__(self) -> None:
        require_layers(self.features, self.hidden_sizes)

    def build(self, dream: Dream) -> "MLP":
        """The network for a world model. Raises `UserError` if the world model lacks a feature."""
        sizes = inputs_of(dream.model, self.features), *self.hidden_sizes, dream.model.action_size
        return MLP(self.features, sizes, self.bias)


def require_layers(features: tuple[str, ...], hidden_sizes: tuple[int, ...]) -> None:
    """Raise `UserError` if there is no feature, or if a layer's size is out of range."""
    if not features:
        raise UserError("actor.features must name at least one feature, found none")
    for units in hidden_sizes:
        require_range("actor.hidden_sizes", units, 1, 65536)


def inputs_of(model: WorldModel, features: tuple[str, ...]) -> int:
    """F: total size of these features in a world model. Raises `UserError` if the world model lacks one."""
    sizes = feature_sizes(model)
    for name in features:
        require_choice("actor.features", name, list(sizes))
    return sum(sizes[name] for name in features)


@struct.dataclass
class Layer:
    """One layer's weights."""

    kernel: Array
    """[inputs, outputs]"""
    bias: Array | None
    """[outputs]"""

    def add(self, outputs: Array) -> Array:
        """`outputs` [..., outputs] plus the bias, if there is one."""
        return outputs if self.bias is None else add(self.bias, outputs)


@dataclass(frozen=True)
class MLP(Policy):
    """The paper's controller. Its weights are a tuple of `Layer`."""

    needs_noise = True

    reads: tuple[str, ...]
    """Features of the world model, in this order."""
    sizes: tuple[int, ...]
    """Number of inputs, units of each hidden layer, number of outputs."""
    bias: bool = True

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that it reads."""
        return self.reads

    @property
    def words(self) -> str:
        """Description of the actor and its inputs."""
        layers = f"hidden layers of {', '.join(map(str, self.sizes[1:-1]))}" if self.sizes[2:] else "linear"
        return f"{' '.join(self.reads)}, {layers}{'' if self.bias else ', no bias'}"

    def init(self, key: Key) -> Params:
        """Fresh weights: matrices N(0, 1 / inputs), the last one with a hundredth of that deviation; biases 0."""
        shapes = list(pairwise(self.sizes))
        layers = []
        for number, (inputs, outputs) in enumerate(shapes):
            scale = (LAST_LAYER if number == len(shapes) - 1 else 1.0) / inputs**0.5
            kernel = scale * jax.random.normal(jax.random.fold_in(key, number), (inputs, outputs), jnp.float32)
            layers.append(Layer(kernel, jnp.zeros(outputs, jnp.float32) if self.bias else None))
        return tuple(layers)

    @property
    def drawn_size(self) -> int:
        """A: size of an action."""
        return self.sizes[-1]

    @property
    def critic(self) -> "MLP":
        """A network with one hidden layer."""
        return MLP(self.reads, (self.sizes[0], CRITIC_SIZE, 1))

    def distribution(self, params: Params, inputs: Array, noise: Array | float) -> SquashedNormal:
        """A normal distribution around the last layer's outputs, with standard deviation `noise` [...], squashed by
        tanh."""
        center = self.outputs(params, inputs)
        return SquashedNormal(center, jnp.broadcast_to(jnp.asarray(noise, jnp.float32)[..., None], center.shape))

    def inputs(self, world: World, state: State) -> Array:
        """C's inputs [..., F] from a state."""
        features = world.features(state)
        return jnp.concatenate([features[name] for name in self.reads], axis=-1)

    def outputs(self, params: Params, inputs: Array) -> Array:
        """Outputs of the last layer [..., A] for `inputs` [..., F]; their tanh is the action."""
        outputs = inputs
        for number, layer in enumerate(params):
            outputs = layer.add((jnp.tanh(outputs) if number else outputs) @ layer.kernel)
        return outputs
