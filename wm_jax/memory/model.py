"""M, the paper's memory (section 2.2): an LSTM with a mixture density head that predicts the next z.

With x = [z, action, (restart), h], where h is the previous step's output, the cell is

    i, f, g, o = split(x W + b),   c' = sigmoid(f) c + sigmoid(i) tanh(g),   h' = sigmoid(o) tanh(c')

and one dense layer on h' gives, for each latent dimension independently, a mixture of K Gaussians over the next z and,
if enabled, the step's reward, the next action and the logit of the episode's end.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.lanes import add
from wm_jax.memory.mixture import Mixture
from wm_jax.memory.recurrence import MemoryState, cell, forget, unroll
from wm_jax.optimizers import OptimizerConfig
from wm_jax.types import Action, Array, Key, Params


@dataclass(frozen=True)
class MemoryConfig:
    """M's network, loss and training. The defaults are the paper's Car Racing."""

    hidden_size: int = 256
    """H: units of the LSTM."""
    mixtures: int = 5
    """K: Gaussians per latent dimension."""
    predict_reward: bool = False
    """Whether M predicts each step's reward."""
    reward_loss: Literal["squared", "poisson"] = "squared"
    """Loss of the predicted reward. squared: squared error; poisson: likelihood of a count, for rewards that come in
    jumps above a lower bound. The task must give that bound (`Task.reward_range`); predictions lie above it."""
    predict_done: bool = False
    """Whether M predicts the end of an episode."""
    predict_action: bool = False
    """Whether M predicts the next action of the controllers whose episodes it learns from (paper, section 5: M absorbs
    C's skills). C may read it as the feature `action`."""
    predict_surprise: bool = False
    """Whether M predicts its own loss for the next z, learned from its loss in training. Curiosity needs it
    (`explorer.kind` curiosity, the rules surprise and excess_surprise of `dream.reward`)."""
    restart_input: bool = False
    """Whether M has an input that is 1 on the first frame of an episode."""
    reward_weight: float = 1.0
    """Weight of the reward in M's loss."""
    action_weight: float = 1.0
    """Weight of the next action in M's loss."""
    done_weight: float = 10.0
    """Weight of episode ends in M's loss; it inflates the predicted odds of an end by the same factor."""
    batch_size: int = 100
    """B: sequences per training step."""
    sequence_length: int = 500
    """T: frames per sequence; the LSTM's state carries over to the next sequence."""
    steps: int = 4000
    """Training steps; 0: M keeps its initial weights."""
    later_steps: int = 1000
    """Training steps in each round after the first."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-3, clip=1.0))
    """Settings of Adam."""

    def __post_init__(self) -> None:
        require_range("world.memory.hidden_size", self.hidden_size, 1, 65536)
        require_range("world.memory.mixtures", self.mixtures, 1, 1024)
        require_choice("world.memory.reward_loss", self.reward_loss, ("squared", "poisson"))
        require_range("world.memory.reward_weight", self.reward_weight, 0.0, 1e6)
        require_range("world.memory.action_weight", self.action_weight, 0.0, 1e6)
        require_range("world.memory.done_weight", self.done_weight, 1e-6, 1e6)
        require_range("world.memory.batch_size", self.batch_size, 1, 2**20)
        require_range("world.memory.sequence_length", self.sequence_length, 1, 2**20)
        require_range("world.memory.steps", self.steps, 0)
        require_range("world.memory.later_steps", self.later_steps, 0)
        self.optimizer.check("world.memory.optimizer")


@struct.dataclass
class Prediction:
    """M's predictions for the next step. Fields that the experiment does not predict are None."""

    next_z: Mixture
    reward: Array | None
    """[...]: the reward of the step just taken, in the task's units."""
    done_logit: Array | None
    """[...]: log-odds that the episode terminated with the step just taken, too high by the logarithm of
    `done_weight`."""
    action: Array | None = None
    """[..., A]: the next action, in [-1, 1]."""
    surprise: Array | None = None
    """[...]: the negative log-likelihood of the next z, in nats per latent dimension."""


@dataclass(frozen=True)
class Memory:
    """M for one task. Hashable; the weights are passed as `params`. Every method is pure."""

    config: MemoryConfig
    latent_size: int
    """Z"""
    action_size: int
    """A"""
    reward_range: tuple[float, float] = (float("-inf"), float("inf"))
    """The task's reward range; M learns rewards clipped to it."""

    def __post_init__(self) -> None:
        floor = self.reward_range[0]
        if self.config.predict_reward and self.config.reward_loss == "poisson" and not math.isfinite(floor):
            raise UserError(
                "world.memory.reward_loss is 'poisson', which counts from the task's lowest reward, but the task has no "
                "lowest reward; give its reward_range a lower bound, or set world.memory.reward_loss to 'squared'"
            )

    @property
    def input_size(self) -> int:
        """Numbers that M reads per step, without its own h."""
        return self.latent_size + self.action_size + self.config.restart_input

    @property
    def output_size(self) -> int:
        """Number of outputs of the head."""
        heads = self.config.predict_reward + self.config.predict_action * self.action_size + self.config.predict_done
        return 3 * self.config.mixtures * self.latent_size + heads

    def init(self, key: Key) -> Params:
        """Fresh weights, {"gates", "head"} of {"kernel", "bias"}, plus "surprise" if predicted: Glorot-uniform kernels;
        biases 0, except 1 for the forget gate, so that a new M remembers."""
        hidden, draw = self.config.hidden_size, jax.nn.initializers.glorot_uniform()
        gates, head = (self.input_size + hidden, 4 * hidden), (hidden, self.output_size)
        bias = jnp.zeros((4, hidden), jnp.float32).at[1].set(1).reshape(-1)
        params = {
            "gates": {"kernel": draw(jax.random.fold_in(key, 0), gates, jnp.float32), "bias": bias},
            "head": {
                "kernel": draw(jax.random.fold_in(key, 2), head, jnp.float32),
                "bias": jnp.zeros(self.output_size, jnp.float32),
            },
        }
        if self.config.predict_surprise:
            kernel = draw(jax.random.fold_in(key, 3), (hidden, 1), jnp.float32)
            params["surprise"] = {"kernel": kernel, "bias": jnp.zeros(1, jnp.float32)}
        return params

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> MemoryState:
        """The state before an episode's first step: zeros [batch_shape, H]."""
        zeros = partial(jnp.zeros, (*batch_shape, self.config.hidden_size), jnp.float32)
        return MemoryState(h=zeros(), c=zeros())

    def inputs(self, z: Array, action: Action, restart: Array) -> Array:
        """M's inputs: z [..., Z], action [..., A] and restart [...] as one array [..., inputs]."""
        parts = [z, action]
        if self.config.restart_input:
            parts.append(restart[..., None].astype(z.dtype))
        return jnp.concatenate(parts, axis=-1)

    def advance(self, params: Params, state: MemoryState, z: Array, action: Action, restart: Array) -> MemoryState:
        """The state [..., H] after a step with z [..., Z] and action [..., A].

        `restart` [...] is 1 (or True) on an episode's first frame: it resets the previous episode's state.
        """
        state = forget(state, restart)
        return cell(
            dense(params["gates"], jnp.concatenate([self.inputs(z, action, restart), state.h], axis=-1)), state.c
        )

    def unroll(
        self, params: Params, state: MemoryState, z: Array, action: Action, restart: Array
    ) -> tuple[MemoryState, Array]:
        """`advance` over sequences: z [T, B, Z], action [T, B, A], restart [T, B] → last state, each h [T, B, H].

        One product computes the inputs' part of the gates for all steps; only the part of h is sequential.
        """
        weights, recurrent = jnp.split(params["gates"]["kernel"], [self.input_size])
        gates = add(params["gates"]["bias"], self.inputs(z, action, restart) @ weights)
        return unroll(recurrent, state, gates, restart)

    def predict(self, params: Params, h: Array) -> Prediction:
        """M's predictions for the next step, from the h [..., H] that `advance` returned."""
        outputs = dense(params["head"], h)
        mixture, heads = jnp.split(outputs, [3 * self.config.mixtures * self.latent_size], axis=-1)
        # [3, K, Z], not [Z, 3, K]: elementwise work then runs along Z, which is long, and not along K, which is 5.
        mixture = mixture.reshape(*h.shape[:-1], 3, self.config.mixtures, self.latent_size)
        return Prediction(
            next_z=Mixture(*(mixture[..., part, :, :] for part in range(3))),
            reward=self._reward(heads[..., 0]) if self.config.predict_reward else None,
            done_logit=heads[..., -1] if self.config.predict_done else None,
            action=self._action(heads) if self.config.predict_action else None,
            surprise=self.surprise(params, h) if self.config.predict_surprise else None,
        )

    def surprise(self, params: Params, h: Array) -> Array:
        """M's prediction of its own loss for the next z [...], from the same h [..., H] as the prediction of z."""
        return dense(params["surprise"], h)[..., 0]

    def _reward(self, output: Array) -> Array:
        """The expected reward [...] from the head's output [...]: the output itself, or the lower bound plus a rate."""
        return output if self.config.reward_loss == "squared" else self.reward_range[0] + jax.nn.softplus(output)

    def _action(self, heads: Array) -> Array:
        """The action [..., A] from the head's outputs after the mixture; it follows the reward and precedes the end."""
        first = int(self.config.predict_reward)
        return jnp.tanh(heads[..., first : first + self.action_size])

    def step(
        self, params: Params, state: MemoryState, z: Array, action: Action, restart: Array
    ) -> tuple[MemoryState, Prediction]:
        """`advance`, then `predict`."""
        state = self.advance(params, state, z, action, restart)
        return state, self.predict(params, state.h)


def dense(layer: Params, inputs: Array) -> Array:
    """`inputs` [..., I] to [..., O] through {"kernel": [I, O], "bias": [O]}. The factors have the kernel's type, so
    that a half-precision kernel takes half the time; the sums have the type of the inputs."""
    kernel = layer["kernel"]
    return add(layer["bias"], jnp.dot(inputs.astype(kernel.dtype), kernel, preferred_element_type=inputs.dtype))
