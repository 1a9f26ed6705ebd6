"""The dream of any world model as an environment: start states, population rollouts and a Gymnasium wrapper."""

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
