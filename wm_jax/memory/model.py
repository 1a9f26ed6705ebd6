"""M, the paper's memory (section 2.2): an LSTM with a mixture density head that predicts the next z.

With x = [z, action, (restart), h], h being the output of the step before, the cell is

    i, f, g, o = split(x W + b),   c' = sigmoid(f) c + sigmoid(i) tanh(g),   h' = sigmoid(o) tanh(c')

and one dense layer on h' gives, for each latent dimension independently, a mixture of K Gaussians over the next z,
and where the experiment asks for them the step's reward, the action that follows and the logit of the episode's end.
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
    """Whether M predicts the reward of each step."""
    reward_loss: Literal["squared", "poisson"] = "squared"
    """What M learns the reward by: its squared error, or the likelihood of a count, for rewards that come in jumps from a
    floor that the task names (`Task.reward_range`), which they are predicted to lie above."""
    predict_done: bool = False
    """Whether M predicts the end of the episode."""
    predict_action: bool = False
    """Whether M predicts the action that follows, by the controllers whose episodes it learns from (paper, section 5: M
    absorbs what C has learned). C may read it as the feature `action`."""
    predict_surprise: bool = False
    """Whether M predicts how badly it will predict the next z: what it is trained on teaches it where. Curiosity seeks that
    (`explorer.kind` curiosity, the rules surprise and excess_surprise of `dream.reward`)."""
    restart_input: bool = False
    """Whether M is told of an episode's first frame by an input of 1."""
    reward_weight: float = 1.0
    """Weight of the reward's part in the loss."""
    action_weight: float = 1.0
    """Weight of the next action's part in the loss."""
    done_weight: float = 10.0
    """Weight of an episode's last step against the others in the done loss."""
    batch_size: int = 100
    """B: sequences per training step."""
    sequence_length: int = 500
    """T: frames of a sequence; the LSTM's state is carried on to the next sequence."""
    steps: int = 4000
    """Training steps; 0 leaves M as it begins."""
    later_steps: int = 1000
    """Training steps in each round after the first."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-3, clip=1.0))
    """Adam and its schedule."""

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
    """What M expects of the next step. Fields that the experiment does not predict are None."""

    next_z: Mixture
    reward: Array | None
    """[...]: the reward of the step just taken, in the task's units."""
    done_logit: Array | None
    """[...]: log-odds of the episode having terminated with the step just taken, too high by the logarithm of M's
    `done_weight`."""
    action: Array | None = None
    """[..., A]: the action that follows, in [-1, 1]."""
    surprise: Array | None = None
    """[...]: the negative log-likelihood of the next z, in nats per latent dimension."""


@dataclass(frozen=True)
class Memory:
    """M for one task: a hashable recipe; the weights come in as `params`. Every method is pure."""

    config: MemoryConfig
    latent_size: int
    """Z"""
    action_size: int
    """A"""
    reward_range: tuple[float, float] = (float("-inf"), float("inf"))
    """The task's: M learns rewards clipped to this range."""

    def __post_init__(self) -> None:
        floor = self.reward_range[0]
        if self.config.predict_reward and self.config.reward_loss == "poisson" and not math.isfinite(floor):
            raise UserError(
                "world.memory.reward_loss is 'poisson', which counts from the task's lowest reward, but the task names "
                "none; give its reward_range a lower end, or set world.memory.reward_loss to 'squared'"
            )

    @property
    def input_size(self) -> int:
        """Numbers that M is fed each step, its own h aside."""
        return self.latent_size + self.action_size + self.config.restart_input

    @property
    def output_size(self) -> int:
        """Numbers that the head puts out."""
        heads = self.config.predict_reward + self.config.predict_action * self.action_size + self.config.predict_done
        return 3 * self.config.mixtures * self.latent_size + heads

    def init(self, key: Key) -> Params:
        """Fresh weights, {"gates", "head"} of {"kernel", "bias"}, and "surprise" where that is predicted: Glorot-uniform,
        biases 0 but for the forget gate's 1, so that a new M remembers."""
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
        """What M is fed: z [..., Z], action [..., A] and restart [...] as one array [..., inputs]."""
        parts = [z, action]
        if self.config.restart_input:
            parts.append(restart[..., None].astype(z.dtype))
        return jnp.concatenate(parts, axis=-1)

    def advance(self, params: Params, state: MemoryState, z: Array, action: Action, restart: Array) -> MemoryState:
        """The state [..., H] after the step: M saw z [..., Z] and action [..., A] was taken.

        `restart` [...] is 1 (or True) on an episode's first frame: the state of the episode before is forgotten.
        """
        state = forget(state, restart)
        return cell(
            dense(params["gates"], jnp.concatenate([self.inputs(z, action, restart), state.h], axis=-1)), state.c
        )

    def unroll(
        self, params: Params, state: MemoryState, z: Array, action: Action, restart: Array
    ) -> tuple[MemoryState, Array]:
        """`advance` over sequences: z [T, B, Z], action [T, B, A], restart [T, B] → last state, each h [T, B, H].

        The share of the inputs in the gates is one product for all steps; only that of h has to wait for its turn.
        """
        weights, recurrent = jnp.split(params["gates"]["kernel"], [self.input_size])
        gates = add(params["gates"]["bias"], self.inputs(z, action, restart) @ weights)
        return unroll(recurrent, state, gates, restart)

    def predict(self, params: Params, h: Array) -> Prediction:
        """What M expects of the next step, from the h [..., H] that `advance` gave."""
        outputs = dense(params["head"], h)
        mixture, heads = jnp.split(outputs, [3 * self.config.mixtures * self.latent_size], axis=-1)
        # [3, K, Z] and not [Z, 3, K]: elementwise work then runs along Z, which is long, and not along K, which is 5.
        mixture = mixture.reshape(*h.shape[:-1], 3, self.config.mixtures, self.latent_size)
        return Prediction(
            next_z=Mixture(*(mixture[..., part, :, :] for part in range(3))),
            reward=self._reward(heads[..., 0]) if self.config.predict_reward else None,
            done_logit=heads[..., -1] if self.config.predict_done else None,
            action=self._action(heads) if self.config.predict_action else None,
            surprise=self.surprise(params, h) if self.config.predict_surprise else None,
        )

    def surprise(self, params: Params, h: Array) -> Array:
        """How badly M expects to have predicted the next z [...], from the h [..., H] that it is predicted from."""
        return dense(params["surprise"], h)[..., 0]

    def _reward(self, output: Array) -> Array:
        """The expected reward [...] from the head's output [...]: the output itself, or the floor and a rate above it."""
        return output if self.config.reward_loss == "squared" else self.reward_range[0] + jax.nn.softplus(output)

    def _action(self, heads: Array) -> Array:
        """The action [..., A] from the heads beside the mixture: after the reward, before the end."""
        first = int(self.config.predict_reward)
        return jnp.tanh(heads[..., first : first + self.action_size])

    def step(
        self, params: Params, state: MemoryState, z: Array, action: Action, restart: Array
    ) -> tuple[MemoryState, Prediction]:
        """`advance`, then `predict`."""
        state = self.advance(params, state, z, action, restart)
        return state, self.predict(params, state.h)


def dense(layer: Params, inputs: Array) -> Array:
    """`inputs` [..., I] to [..., O] through {"kernel": [I, O], "bias": [O]}. What is multiplied has the kernel's type, so
    that a kernel of half the bits takes half the time; the sums have that of the inputs."""
    kernel = layer["kernel"]
    return add(layer["bias"], jnp.dot(inputs.astype(kernel.dtype), kernel, preferred_element_type=inputs.dtype))
