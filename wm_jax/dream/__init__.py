"""Any world model as an environment: its dream, the states that it starts in, a population's rollouts, a Gymnasium face."""

from wm_jax.dream.environment import Dream, DreamConfig, DreamNoise, DreamState
from wm_jax.dream.gymnasium_face import DreamEnv, DreamSource, DreamVectorEnv
from wm_jax.dream.rollout import DreamFitness, DreamScores, Trajectory, population_returns, trajectory
from wm_jax.dream.rules import ENDS, REWARDS
from wm_jax.dream.starts import start_states

__all__ = [
    "ENDS",
    "REWARDS",
    "Dream",
    "DreamConfig",
    "DreamEnv",
    "DreamFitness",
    "DreamNoise",
    "DreamScores",
    "DreamSource",
    "DreamState",
    "DreamVectorEnv",
    "Trajectory",
    "population_returns",
    "start_states",
    "trajectory",
]
