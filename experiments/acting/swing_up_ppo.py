"""Swing-up by PPO in the dream: the actor of Kuth et al. (2021), 994 times as many weights as a linear C. V and M are those
of the shipped agent `swing_up`, as for all controllers that `results/acting/README.md` compares.

wm-jax run experiments/acting/swing_up_ppo.py

Scores: results/acting/README.md.
"""

from wm_jax.actors.policy import PolicyConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.ppo import PPOConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="swing_up_ppo",
    task="swing_up",
    seed=1,
    mirror=True,
    initial="swing_up",
    collect=CollectConfig(episodes=120, policy="random"),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=16, width=16, steps=0),
        memory=MemoryConfig(hidden_size=128, predict_reward=True, predict_done=True, steps=0),
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", end="drawn", reward="predicted"),
    actor=PolicyConfig(features=("z", "h")),
    search=PPOConfig(dreams=512, decisions=16, hold=1, length=150),
    evolve=EvolveConfig(
        generations=400,
        evaluate_every=50,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=32,
        seeds=3,
    ),
    evaluate=EvaluateConfig(episodes=100, environments=64, baselines=("random",)),
)
