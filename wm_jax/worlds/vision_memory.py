"""The paper's world model (arXiv:1803.10122). V, a convolutional VAE, encodes each frame on its own. M, an LSTM with a
mixture density head, reads V's codes and predicts the next z.

A dreamt step draws each latent dimension i independently from M's mixture at temperature tau,

    k ~ softmax(log_weights_i / tau),   z'_i ~ N(means_ik, stds_ik^2 tau),

so that a higher tau makes a less certain dream (tau 0: M's most likely one).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax import weights
from wm_jax.data.training import Learner
from wm_jax.memory import Memory, MemoryConfig, MemoryState, MixtureNoise, draw, draw_noise, log_likelihood
from wm_jax.tasks import Task
from wm_jax.types import Action, Array, Component, Features, Key, Outcome, Params
from wm_jax.vision import LatentStats, Vision, VisionConfig, sample
from wm_jax.worlds.protocol import WORLDS, WorldConfig, WorldModel


@WORLDS.register
@dataclass(frozen=True)
class VisionMemoryConfig(WorldConfig):
    """The paper's V and M."""

    meaning: ClassVar[tuple[str, ...]] = tuple(
        f"memory.{name}"
        for name in (
            "predict_reward",
            "reward_loss",
            "predict_done",
            "done_weight",
            "restart_input",
            "predict_action",
            "predict_surprise",
        )
    )

    kind: Literal["vision_memory"] = "vision_memory"
    vision: VisionConfig = field(default_factory=VisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    def build(self, task: Task) -> "VisionMemory":
        """V and M for a task."""
        vision = Vision(self.vision)
        return VisionMemory(vision, Memory(self.memory, self.vision.latent_size, task.action_size, task.reward_range))


@struct.dataclass
class VisionMemoryState:
    """The current z, and M's memory of everything before."""

    z: Array
    """[Z]"""
    memory: MemoryState
    """[H]"""
    restart: Array
    """[] float32: 1 until M has received its first input."""
    action: Array | None = None
    """[A]: M's prediction of C's current action; None if M does not predict it."""


@dataclass(frozen=True)
class VisionMemory(WorldModel):
    """V and M as a `WorldModel`. Its weights are {"vision", "memory"}."""

    vision: Vision
    memory: Memory
    component: Component = "held"
    """How a gradient passes through the draw of a mixture's component."""

    @property
    def action_size(self) -> int:
        """A"""
        return self.memory.action_size

    @property
    def learners(self) -> Mapping[str, Learner]:
        """V, which reads frames; then M, which reads V's codes."""
        # Imported here: acting and dreaming need no training.
        from wm_jax.memory.learner import MemoryLearner
        from wm_jax.vision.learner import VisionLearner

        return {"vision": VisionLearner(self.vision), "memory": MemoryLearner(self.memory)}

    @property
    def missing(self) -> Mapping[str, str]:
        """Predictions that M does not make, each with the setting that enables it."""
        config = self.memory.config
        heads = {"reward": (config.predict_reward, "predict_reward"), "end": (config.predict_done, "predict_done"),
                 "surprise": (config.predict_surprise, "predict_surprise")}  # fmt: skip
        return {name: f"set world.memory.{head} to True" for name, (has, head) in heads.items() if not has}

    @property
    def end_threshold(self) -> float:
        """The probability at which M's done_logit is 0, given that ends weigh `done_weight` times as much: the paper's
        rule."""
        return 1 / (1 + self.memory.config.done_weight)

    def differentiable(self, component: Component) -> "VisionMemory":
        """The same V and M with another gradient through draws from M's mixture."""
        return replace(self, component=component)

    def init(self, key: Key) -> Params:
        """Fresh weights, the same as the learners', without importing their training."""
        vision_key, memory_key = (jax.random.fold_in(key, number) for number in range(2))
        return {"vision": self.vision.init(vision_key), "memory": self.memory.init(memory_key)}

    def shapes(self) -> Params:
        """Given without tracing V's `init`, so that bundles load faster."""
        memory = jax.eval_shape(lambda: self.memory.init(jax.random.key(0)))
        return {"vision": weights.shapes(self.vision.fresh()), "memory": memory}

    def encode(self, params: Params, frames: Array) -> LatentStats:
        """V's posterior of z for frames [..., 64, 64, 3] uint8."""
        return self.vision.encode(params["vision"], frames)

    def begin(self, params: Params, obs: LatentStats, key: Key) -> VisionMemoryState:
        """z sampled from V's posterior, and an M without any input so far."""
        action = jnp.zeros(self.action_size, jnp.float32) if self.memory.config.predict_action else None
        return VisionMemoryState(sample(obs, key), self.memory.initial_state(), jnp.ones((), jnp.float32), action)

    def observe(
        self, params: Params, state: VisionMemoryState, action: Action, obs: LatentStats, key: Key
    ) -> VisionMemoryState:
        """M after the last z and action, and the next frame's z sampled from V's posterior."""
        memory = self.memory.advance(params["memory"], state.memory, state.z, action, state.restart)
        expected = self.memory.predict(params["memory"], memory.h).action if self.memory.config.predict_action else None
        return VisionMemoryState(sample(obs, key), memory, jnp.zeros_like(state.restart), expected)

    def noise(self, key: Key) -> MixtureNoise:
        """[Z]: the randomness of a draw from M's mixture."""
        return draw_noise(key, (self.memory.latent_size,))

    def imagine(
        self, params: Params, state: VisionMemoryState, action: Action, noise: MixtureNoise, temperature: Array | float
    ) -> tuple[VisionMemoryState, Outcome]:
        """M after the dreamt z and the action, and the next z drawn from its mixture. At temperature 1, the mean of the
        draw's negative log-likelihood is the mixture's entropy."""
        memory, prediction = self.memory.step(params["memory"], state.memory, state.z, action, state.restart)
        z = draw(prediction.next_z, temperature, noise, self.component)
        logit = prediction.done_logit
        end = None if logit is None else jax.nn.sigmoid(logit - math.log(self.memory.config.done_weight))
        # Not zeros: a constant carried by a loop costs an accelerator one kernel and one copy each step.
        following = VisionMemoryState(z, memory, 0 * state.restart, prediction.action)
        entropy = -log_likelihood(prediction.next_z, z).mean(axis=-1)
        return following, Outcome(prediction.reward, end, prediction.surprise, entropy)

    def features(self, state: VisionMemoryState) -> Features:
        """z [..., Z], sampled, not the mean; h and c [..., H] of M's LSTM; and, if M predicts it, action [..., A], M's
        prediction of C's action."""
        features = {"z": state.z, "h": state.memory.h, "c": state.memory.c}
        return features if state.action is None else features | {"action": state.action}

    def vital(self, state: VisionMemoryState) -> Array:
        """z: NaN in h or c also gives NaN in the mixture's parameters, and an LSTM cannot make h or c infinite."""
        return state.z

    def frame(self, params: Params, state: VisionMemoryState) -> Array:
        """z decoded by V."""
        return self.vision.decode(params["vision"], state.z)
