"""Agents in actual environments: collecting with scripted policies or with C, and scoring.

Worker processes import this package, so its exports must not import JAX.
"""

from wm_jax.rollouts.collect import CollectConfig
from wm_jax.rollouts.config import EvaluateConfig, RoundsConfig

__all__ = ["CollectConfig", "EvaluateConfig", "RoundsConfig"]
