"""The recurrent state-space model (PlaNet, arXiv 1811.04551, section 3; DreamerV3, arXiv 2301.04104, equation 1). With
h the deterministic and s the stochastic state,

    h' = f(h, s, action),   prior s' ~ p(s' | h'),   posterior s' ~ q(s' | h', o'),

and heads on [h', s'] predict the observation, the reward of the action, and whether it was the end.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from flax import struct

from wm_jax import weights
from wm_jax.rssm import two_hot
from wm_jax.rssm.config import RSSMConfig
from wm_jax.rssm.latent import CategoricalLatent, GaussianLatent, Latent
from wm_jax.rssm.layers import GRU, Layers
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Action, Array, Key, Params
from wm_jax.vision import LatentStats, Vision, VisionConfig

NARROWEST = 1e-2
"""Lower bound of V's standard deviations as units of errors."""


class Sight(Protocol):
    """Encodes and reconstructs the model's observations. Hashable."""

    @property
    def size(self) -> int:
        """Size of an embedded observation."""
        ...

    @property
    def numbers_at_work(self) -> int:
        """Approximate number of layer outputs per observation, without those of the heads."""
        ...

    def fresh(self, features: int, layers: Layers, config: RSSMConfig) -> dict[str, Any]:
        """Shapes for fresh weights, for states of this size: {"encoder", "decoder"}."""
        ...

    def embed(self, params: Params, obs: Any) -> Array:
        """Observations [...] as numbers [..., size]."""
        ...

    def expect(self, params: Params, features: Array, layers: Layers) -> Array:
        """Reconstructions from states [..., F]."""
        ...

    def error(self, expected: Array, obs: Any, before: Any) -> Array:
        """Error of the reconstructions, [...]; `before`: the previous observation, or the same one if there is none."""
        ...


@dataclass(frozen=True)
class Frames:
    """Frames, with an encoder and a decoder like those of the paper's V."""

    width: int
    motion_weight: float = 0.0

    @property
    def size(self) -> int:
        """Size of the last convolution's outputs."""
        return 32 * self.width

    @property
    def numbers_at_work(self) -> int:
        """Those of V's layers plus two frames: errors and reconstructions."""
        return self._vision(1).numbers_at_work + 2 * math.prod(FRAME_SHAPE)

    def _vision(self, features: int) -> Vision:
        return Vision(VisionConfig(width=self.width, latent_size=features))

    def fresh(self, features: int, layers: Layers, config: RSSMConfig) -> dict[str, Any]:
        """V's without the two layers for its z."""
        params = self._vision(features).fresh()
        convolutions = {name: layer for name, layer in params["encoder"].items() if name.startswith("conv")}
        return {"encoder": convolutions, "decoder": params["decoder"]}

    def embed(self, params: Params, obs: Array) -> Array:
        """Frames [..., 64, 64, 3] uint8 through the convolutions."""
        return self._vision(1).convolve(params, obs)

    def expect(self, params: Params, features: Array, layers: Layers) -> Array:
        """[..., 64, 64, 3] in [0, 1]"""
        return self._vision(features.shape[-1]).decode(params, features)

    def error(self, expected: Array, obs: Array, before: Array) -> Array:
        """The squared error, summed over a frame's pixels and colours; changed pixels may have extra weight."""
        pixels = obs.astype(jnp.float32) / 255
        error = (expected - pixels) ** 2
        if self.motion_weight:
            change = jnp.abs(pixels - before.astype(jnp.float32) / 255).max(axis=-1, keepdims=True)
            error *= 1 + self.motion_weight * change
        return error.sum(axis=(-3, -2, -1))


@dataclass(frozen=True)
class Latents:
    """Frames as encoded by a V that was trained before: the posterior of z."""

    size: int
    """Z"""

    @property
    def numbers_at_work(self) -> int:
        """None of its own."""
        return 0

    def fresh(self, features: int, layers: Layers, config: RSSMConfig) -> dict[str, Any]:
        """Those of a head that predicts z; encoding needs none."""
        hidden = [config.head_size] * config.head_layers
        return {"encoder": {}, "decoder": layers.fresh_mlp(features, *hidden, self.size)}

    def embed(self, params: Params, obs: LatentStats) -> Array:
        """The posterior's mean [..., Z]."""
        return obs.mean.astype(jnp.float32)

    def expect(self, params: Params, features: Array, layers: Layers) -> Array:
        """z [..., Z]"""
        return layers.mlp(params["decoder"], features)

    def error(self, expected: Array, obs: LatentStats, before: LatentStats) -> Array:
        """Half the squared error in units of V's own variance, summed: the negative log-likelihood of z up to a
        constant."""
        variance = jnp.maximum(jnp.exp(obs.log_var.astype(jnp.float32)), NARROWEST**2)
        return 0.5 * ((expected - obs.mean.astype(jnp.float32)) ** 2 / variance).sum(axis=-1)


@struct.dataclass
class RSSMState:
    """State of the model."""

    deterministic: Array
    """[..., D]: h"""
    stochastic: Array
    """[..., S]: s"""


@dataclass(frozen=True)
class RSSM:
    """The model. Hashable; its weights are passed separately. Every method is pure."""

    config: RSSMConfig
    sight: Sight
    action_size: int
    """A"""
    reward_range: tuple[float, float] = (-math.inf, math.inf)
    """The task's reward range; rewards are clipped to it in training."""

    @property
    def latent(self) -> Latent:
        """The distribution of s."""
        config = self.config
        if config.latent == "gaussian":
            return GaussianLatent(config.variables, config.narrowest)
        return CategoricalLatent(config.variables, config.classes, config.unimix)

    @property
    def layers(self) -> Layers:
        """Settings of hidden layers."""
        return Layers(self.config.activation, self.config.normalize)

    @property
    def gru(self) -> GRU:
        """f, without the layer before it."""
        config = self.config
        parts = 3 if config.blocks > 1 else 1
        return GRU(self.layers, parts * config.hidden_size, config.deterministic_size, config.blocks)

    @property
    def features(self) -> int:
        """F: size of a state."""
        return self.config.deterministic_size + self.latent.size

    def init(self, key: Key) -> Params:
        """Fresh weights: Glorot-uniform kernels, biases 0. A two-hot reward starts at 0."""
        config, layers = self.config, self.layers
        deterministic, hidden = config.deterministic_size, config.hidden_size
        stochastic, action = self.latent.size, self.action_size
        # With several blocks, the input layer for the deterministic state is the only connection between them.
        parts = {"deterministic": deterministic, "stochastic": stochastic, "action": action}
        inputs = (
            {name: layers.fresh(size, hidden) for name, size in parts.items()}
            if config.blocks > 1
            else layers.fresh(stochastic + action, hidden)
        )
        head = [self.features, *[config.head_size] * config.head_layers]
        two = config.reward_loss == "two_hot"
        reward = layers.fresh_mlp(*head, two_hot.BINS if two else 1)
        fresh = {
            **self.sight.fresh(self.features, layers, config),
            "input": inputs,
            "gru": self.gru.fresh(),
            "prior": layers.fresh_mlp(deterministic, *[hidden] * config.prior_layers, self.latent.outputs),
            "posterior": layers.fresh_mlp(deterministic + self.sight.size, hidden, self.latent.outputs),
            "reward": reward | {"output": weights.zero(reward["output"])} if two else reward,
        }
        if config.predict_end:
            fresh["end"] = layers.fresh_mlp(*head, 1)
        return weights.draw(key, fresh)

    def initial(self, batch_shape: tuple[int, ...] = ()) -> RSSMState:
        """The state before an episode: zeros."""
        sizes = self.config.deterministic_size, self.latent.size
        return RSSMState(*(jnp.zeros((*batch_shape, size), jnp.float32) for size in sizes))

    def follow(self, params: Params, state: RSSMState, action: Action) -> Array:
        """h' [..., D] after `action` [..., A] in a state [..., D], [..., S]."""
        layer = params["input"]
        if self.config.blocks > 1:
            parts = {"deterministic": state.deterministic, "stochastic": state.stochastic, "action": action}
            x = jnp.concatenate([self.layers.hidden(layer[name], part) for name, part in parts.items()], axis=-1)
        else:
            x = self.layers.hidden(layer, jnp.concatenate([state.stochastic, action], axis=-1))
        return self.gru(params["gru"], x, state.deterministic)

    def begin(self, params: Params) -> Array:
        """h [D] on an episode's first frame: the state after the zero state."""
        return self.follow(params, self.initial(), jnp.zeros(self.action_size, jnp.float32))

    def prior(self, params: Params, deterministic: Array) -> Any:
        """p(s | h), a distribution of `latent`."""
        return self.latent.distribution(self.layers.mlp(params["prior"], deterministic))

    def posterior(self, params: Params, deterministic: Array, embedded: Array) -> Any:
        """q(s | h, o), with the embedded observation [..., E]."""
        inputs = jnp.concatenate([deterministic, embedded], axis=-1)
        return self.latent.distribution(self.layers.mlp(params["posterior"], inputs))

    def embed(self, params: Params, obs: Any) -> Array:
        """Embedded observations [..., E]."""
        return self.sight.embed(params, obs)

    def expect(self, params: Params, state: RSSMState) -> Array:
        """Reconstruction of the observation in a state."""
        return self.sight.expect(params, joined(state), self.layers)

    def reward(self, params: Params, state: RSSMState) -> Array:
        """The expected reward [...] of the action that led to a state."""
        outputs = self.reward_outputs(params, state)
        return two_hot.mean(outputs) if self.config.reward_loss == "two_hot" else outputs[..., 0]

    def reward_outputs(self, params: Params, state: RSSMState) -> Array:
        """[..., BINS or 1]: outputs of the reward's head."""
        return self.layers.mlp(params["reward"], joined(state))

    def end_logit(self, params: Params, state: RSSMState) -> Array:
        """[...]: log-odds that the action that led to a state ended the episode. Needs `predict_end`."""
        return self.layers.mlp(params["end"], joined(state))[..., 0]


def joined(state: RSSMState) -> Array:
    """[h, s]: [..., F]."""
    return jnp.concatenate([state.deterministic, state.stochastic], axis=-1)
