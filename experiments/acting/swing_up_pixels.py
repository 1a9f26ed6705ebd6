"""Swing-up by PPO from pixels, without a world model: the paper's model-free opponent, with the convolutional actor and
critic of Kuth et al. (2021), but four frames as input instead of one. Every step that it learns from is one of the actual
environment.

wm-jax run experiments/acting/swing_up_pixels.py

Scores: results/acting/README.md.
"""

from wm_jax.actors.convolutional import ConvolutionalConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.ppo import PPOConfig
from wm_jax.worlds.pixels import PixelsConfig

CONFIG = Experiment(
    name="swing_up_pixels",
    task="swing_up",
    seed=1,
    # Nothing is learned from what is recorded.
    collect=CollectConfig(episodes=2, policy="random"),
    world=PixelsConfig(frames=4),
    dream=DreamConfig(horizon=250),
    actor=ConvolutionalConfig(),
    search=PPOConfig(dreams=8, hold=2, passes=4, batches=4, learning_rate=3e-4, entropy=0.003),
    evolve=EvolveConfig(
        fitness="actual",
        select="actual",
        generations=60,
        evaluate_every=15,
        actual_episodes=16,
        environments=16,
        seeds=3,
    ),
    evaluate=EvaluateConfig(episodes=100, environments=64, baselines=("random",)),
)
