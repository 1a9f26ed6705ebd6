"""The RSSM in the place of the paper's M: V encodes each frame on its own, is trained first and then stays fixed; the
RSSM predicts V's z. With the same V it can be compared directly with the MDN-LSTM."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wm_jax.data.training import Learner
from wm_jax.rssm import RSSM, RSSMState
from wm_jax.rssm.model import Latents
from wm_jax.tasks import Task
from wm_jax.types import Array, Params
from wm_jax.vision import LatentStats, Vision, VisionConfig
from wm_jax.worlds.protocol import WORLDS
from wm_jax.worlds.rssm import RSSMWorld, RSSMWorldConfig


@WORLDS.register
@dataclass(frozen=True)
class VisionRSSMConfig(RSSMWorldConfig):
    """V, and the RSSM on its latents. `rssm.width` has no effect."""

    kind: Literal["vision_rssm"] = "vision_rssm"  # type: ignore[assignment]
    """The name of this part."""
    vision: VisionConfig = field(default_factory=VisionConfig)

    def build(self, task: Task) -> "VisionRSSM":
        """V and RSSM for a task."""
        sight = Latents(self.vision.latent_size)
        return VisionRSSM(RSSM(self.rssm, sight, task.action_size, task.reward_range), Vision(self.vision))


@dataclass(frozen=True)
class VisionRSSM(RSSMWorld):
    """V and the RSSM as a `WorldModel`. Its weights are {"vision", "rssm"}."""

    vision: Vision

    @property
    def learners(self) -> Mapping[str, Learner]:
        """V, which reads frames; then the RSSM, which reads V's codes."""
        from wm_jax.vision.learner import VisionLearner

        return {"vision": VisionLearner(self.vision), **super().learners}

    def encode(self, params: Params, frames: Array) -> LatentStats:
        """V's posterior of z for frames [..., 64, 64, 3] uint8."""
        return self.vision.encode(params["vision"], frames)

    def frame(self, params: Params, state: RSSMState) -> Array:
        """The expected z decoded by V."""
        return self.vision.decode(params["vision"], self.rssm.expect(params["rssm"], state))
