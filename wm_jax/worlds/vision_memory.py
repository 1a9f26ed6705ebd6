"""The paper's world model (arXiv:1803.10122): V, a convolutional VAE, encodes each frame on its own; M, an LSTM with a
mixture density head, follows what V sees and predicts the next z.

A dreamt step draws each latent dimension i on its own from M's mixture at temperature tau,

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
    """What the agent sees now, and what M remembers of all before."""

    z: Array
    """[Z]"""
    memory: MemoryState
    """[H]"""
    restart: Array
    """[] float32: 1 as long as M has not been fed anything."""
    action: Array | None = None
    """[A]: what M expects C to do now; None where M does not predict it."""


@dataclass(frozen=True)
class VisionMemory(WorldModel):
    """V and M as a `WorldModel`. Its weights are {"vision", "memory"}."""

    vision: Vision
    memory: Memory
    component: Component = "held"
    """How a gradient passes the draw of a mixture's component."""

    @property
    def action_size(self) -> int:
        """A"""
        return self.memory.action_size

    @property
    def learners(self) -> Mapping[str, Learner]:
        """V, on frames; then M, on what V makes of them."""
        # Imported here: acting and dreaming need no training.
        from wm_jax.memory.learner import MemoryLearner
        from wm_jax.vision.learner import VisionLearner

        return {"vision": VisionLearner(self.vision), "memory": MemoryLearner(self.memory)}

    @property
    def missing(self) -> Mapping[str, str]:
        """What M does not predict, and the setting with which it would."""
        config = self.memory.config
        heads = {"reward": (config.predict_reward, "predict_reward"), "end": (config.predict_done, "predict_done"),
                 "surprise": (config.predict_surprise, "predict_surprise")}  # fmt: skip
        return {name: f"set world.memory.{head} to True" for name, (has, head) in heads.items() if not has}

    @property
    def end_threshold(self) -> float:
        """Where M's done_logit, in which ends weigh `done_weight` times as much, is 0: the paper's rule."""
        return 1 / (1 + self.memory.config.done_weight)

    def differentiable(self, component: Component) -> "VisionMemory":
        """The same V and M with another gradient of what is drawn from M's mixture."""
        return replace(self, component=component)

    def init(self, key: Key) -> Params:
        """Fresh weights. As the learners' are, but without their training being imported."""
        vision_key, memory_key = (jax.random.fold_in(key, number) for number in range(2))
        return {"vision": self.vision.init(vision_key), "memory": self.memory.init(memory_key)}

    def shapes(self) -> Params:
        """Told without tracing V's `init`: bundles load faster."""
        memory = jax.eval_shape(lambda: self.memory.init(jax.random.key(0)))
        return {"vision": weights.shapes(self.vision.fresh()), "memory": memory}

    def encode(self, params: Params, frames: Array) -> LatentStats:
        """V's posterior of the z of frames [..., 64, 64, 3] uint8."""
        return self.vision.encode(params["vision"], frames)

    def begin(self, params: Params, obs: LatentStats, key: Key) -> VisionMemoryState:
        """z sampled from V's posterior, and an M that has not been fed anything."""
        action = jnp.zeros(self.action_size, jnp.float32) if self.memory.config.predict_action else None
        return VisionMemoryState(sample(obs, key), self.memory.initial_state(), jnp.ones((), jnp.float32), action)

    def observe(
        self, params: Params, state: VisionMemoryState, action: Action, obs: LatentStats, key: Key
    ) -> VisionMemoryState:
        """M fed what was seen and done, and the z of the next frame sampled from V's posterior."""
        memory = self.memory.advance(params["memory"], state.memory, state.z, action, state.restart)
        expected = self.memory.predict(params["memory"], memory.h).action if self.memory.config.predict_action else None
        return VisionMemoryState(sample(obs, key), memory, jnp.zeros_like(state.restart), expected)

    def noise(self, key: Key) -> MixtureNoise:
        """[Z]: what a draw from M's mixture takes of chance."""
        return draw_noise(key, (self.memory.latent_size,))

    def imagine(
        self, params: Params, state: VisionMemoryState, action: Action, noise: MixtureNoise, temperature: Array | float
    ) -> tuple[VisionMemoryState, Outcome]:
        """M fed what was dreamt and done, and the next z drawn from its mixture. At temperature 1 the negative
        log-likelihood of what is drawn has the mixture's entropy as its mean."""
        memory, prediction = self.memory.step(params["memory"], state.memory, state.z, action, state.restart)
        z = draw(prediction.next_z, temperature, noise, self.component)
        logit = prediction.done_logit
        end = None if logit is None else jax.nn.sigmoid(logit - math.log(self.memory.config.done_weight))
        # Not zeros: a constant that a loop carries along takes an accelerator a kernel and a copy each step.
        following = VisionMemoryState(z, memory, 0 * state.restart, prediction.action)
        entropy = -log_likelihood(prediction.next_z, z).mean(axis=-1)
        return following, Outcome(prediction.reward, end, prediction.surprise, entropy)

    def features(self, state: VisionMemoryState) -> Features:
        """z [..., Z], sampled and not the mean; h and c [..., H] of M's LSTM; where M predicts it, action [..., A], what M
        expects C to do."""
        features = {"z": state.z, "h": state.memory.h, "c": state.memory.c}
        return features if state.action is None else features | {"action": state.action}

    def vital(self, state: VisionMemoryState) -> Array:
        """z: what is not a number in h or c is none in the mixture's parameters either, and no LSTM makes them infinite."""
        return state.z

    def frame(self, params: Params, state: VisionMemoryState) -> Array:
        """z as V's decoder sees it."""
        return self.vision.decode(params["vision"], state.z)
