"""C: what to do. Policies small enough to be evolved, CMA-ES over any fitness, and policy gradient in the dream."""

from wm_jax.controller.evolve import Evolution, EvolveConfig, TuneConfig
from wm_jax.controller.policy import Controller, PolicyConfig
from wm_jax.controller.policy_gradient import GradientConfig, PolicyGradient, critic_of

__all__ = [
    "Controller",
    "Evolution",
    "EvolveConfig",
    "GradientConfig",
    "PolicyConfig",
    "PolicyGradient",
    "TuneConfig",
    "critic_of",
]
