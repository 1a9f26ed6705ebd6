"""Car Racing by PPO from pixels, without a world model: the paper's model-free opponent, with the convolutional actor and
critic of Kuth et al. (2021), but four frames as input instead of one. Every step that it learns from is one of EnvPool's
tracks.

wm-jax run experiments/acting/car_racing_pixels.py

Not run to its end: 5 hours of one core of an AMD EPYC for each training seed.
"""

from wm_jax.actors.convolutional import ConvolutionalConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.ppo import PPOConfig
from wm_jax.worlds.pixels import PixelsConfig

CONFIG = Experiment(
    name="car_racing_pixels",
    task="car_racing",
    seed=11,
    # Nothing is learned from what is recorded.
    collect=CollectConfig(episodes=2, policy="random", backend="envpool"),
    world=PixelsConfig(frames=4),
    dream=DreamConfig(horizon=1000),
    actor=ConvolutionalConfig(),
    search=PPOConfig(dreams=16, hold=4, passes=4, batches=16, learning_rate=3e-4, entropy=0.003),
    evolve=EvolveConfig(
        fitness="actual",
        select="actual",
        generations=100,
        evaluate_every=20,
        actual_episodes=16,
        environments=16,
        backend="envpool",
        # Most of a drive that is lost teaches nothing.
        patience=100,
        seeds=3,
    ),
    evaluate=EvaluateConfig(episodes=34, environments=16, backend="envpool"),
)
