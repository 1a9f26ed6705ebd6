"""The recurrent state-space model (RSSM) of PlaNet and Dreamer as a world model with its own encoder: frames are stored
unchanged, and everything is trained end to end.

A dreamt step draws the stochastic state from the prior at temperature tau: normals with tau times their variance,
categorical variables from softmax(log p / tau).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax

from wm_jax.data.training import Learner
from wm_jax.rssm import RSSM, RSSMConfig, RSSMState
from wm_jax.rssm.model import Frames
from wm_jax.tasks import Task
from wm_jax.types import Action, Array, Component, Features, Key, Outcome, Params
from wm_jax.worlds.protocol import WORLDS, WorldConfig, WorldModel


@WORLDS.register
@dataclass(frozen=True)
class RSSMWorldConfig(WorldConfig):
    """The RSSM on frames."""

    meaning: ClassVar[tuple[str, ...]] = tuple(
        f"rssm.{name}"
        for name in ("latent", "activation", "normalize", "predict_end", "reward_loss", "narrowest", "unimix")
    )

    kind: Literal["rssm"] = "rssm"
    rssm: RSSMConfig = field(default_factory=RSSMConfig)

    def build(self, task: Task) -> "RSSMWorld":
        """The model for a task."""
        return RSSMWorld(
            RSSM(self.rssm, Frames(self.rssm.width, self.rssm.motion_weight), task.action_size, task.reward_range)
        )


@dataclass(frozen=True)
class RSSMWorld(WorldModel):
    """The RSSM as a `WorldModel`. Its weights are {"rssm"}."""

    rssm: RSSM

    @property
    def action_size(self) -> int:
        """A"""
        return self.rssm.action_size

    @property
    def learners(self) -> Mapping[str, Learner]:
        """One learner, which reads frames as they are stored."""
        # Imported here: acting and dreaming need no training.
        from wm_jax.rssm.learner import RSSMLearner

        return {"rssm": RSSMLearner(self.rssm)}

    @property
    def missing(self) -> Mapping[str, str]:
        """Predictions that it does not make, each with the setting that enables it."""
        end = {} if self.rssm.config.predict_end else {"end": "set world.rssm.predict_end to True"}
        return end | {"surprise": "choose another world model, as the RSSM does not predict how badly it predicts"}

    def differentiable(self, component: Component) -> WorldModel:
        """Itself: categorical variables always pass gradients straight through."""
        return self

    def encode(self, params: Params, frames: Array) -> Any:
        """The frames [..., 64, 64, 3] uint8 themselves."""
        return frames

    def begin(self, params: Params, obs: Any, key: Key) -> RSSMState:
        """The posterior's state after the first frame, without memory."""
        return self._see(params, self.rssm.begin(params["rssm"]), obs, key)

    def observe(self, params: Params, state: RSSMState, action: Action, obs: Any, key: Key) -> RSSMState:
        """The posterior's state after the next frame."""
        return self._see(params, self.rssm.follow(params["rssm"], state, action), obs, key)

    def _see(self, params: Params, deterministic: Array, obs: Any, key: Key) -> RSSMState:
        own = params["rssm"]
        posterior = self.rssm.posterior(own, deterministic, self.rssm.embed(own, obs))
        return RSSMState(deterministic, self.rssm.latent.draw(posterior, self.rssm.latent.noise(key)))

    def noise(self, key: Key) -> Array:
        """The randomness of a draw from the prior."""
        return self.rssm.latent.noise(key)

    def imagine(
        self, params: Params, state: RSSMState, action: Action, noise: Array, temperature: Array | float
    ) -> tuple[RSSMState, Outcome]:
        """The prior's next state, and what its heads predict for the action."""
        own = params["rssm"]
        deterministic = self.rssm.follow(own, state, action)
        prior = self.rssm.prior(own, deterministic)
        after = RSSMState(deterministic, self.rssm.latent.draw(prior, noise, temperature))
        predicts = self.rssm.config.predict_end
        end = jax.nn.sigmoid(self.rssm.end_logit(own, after)) if predicts else None
        return after, Outcome(self.rssm.reward(own, after), end)

    def features(self, state: RSSMState) -> Features:
        """deterministic [..., D] and stochastic [..., S]: the model's state."""
        return {"deterministic": state.deterministic, "stochastic": state.stochastic}

    def frame(self, params: Params, state: RSSMState) -> Array:
        """The expected frame."""
        return self.rssm.expect(params["rssm"], state)
