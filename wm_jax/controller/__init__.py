"""C: what to do. Policies small enough to be evolved, and CMA-ES over any fitness."""

from wm_jax.controller.evolve import Evolution, EvolveConfig, TuneConfig
from wm_jax.controller.policy import Controller, PolicyConfig

__all__ = ["Controller", "Evolution", "EvolveConfig", "PolicyConfig", "TuneConfig"]
