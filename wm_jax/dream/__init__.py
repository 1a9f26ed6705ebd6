"""The dream: M as an environment with the actual one's interface, a population's rollouts in it, a Gymnasium face."""

from wm_jax.dream.environment import Dream, DreamConfig, DreamNoise, DreamState, WorldModel, step_noise
from wm_jax.dream.gymnasium_face import DreamEnv, DreamVectorEnv
from wm_jax.dream.moments import moments
from wm_jax.dream.rollout import DreamFitness, DreamScores, Trajectory, population_returns, trajectory

__all__ = [
    "Dream",
    "DreamConfig",
    "DreamEnv",
    "DreamFitness",
    "DreamNoise",
    "DreamScores",
    "DreamState",
    "DreamVectorEnv",
    "Trajectory",
    "WorldModel",
    "moments",
    "population_returns",
    "step_noise",
    "trajectory",
]
