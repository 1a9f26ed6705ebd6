"""Car Racing through every stage in about a minute, two rounds: shows that the parts fit, learns nothing."""

from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="smoke_car_racing",
    task="car_racing",
    held_out=0.2,
    mirror=True,
    collect=CollectConfig(episodes=6, policy="smooth_walk", max_steps=120),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=8, width=8, batch_size=20, steps=40, later_steps=0),
        memory=MemoryConfig(
            hidden_size=32, mixtures=2, predict_reward=True, reward_loss="poisson", batch_size=4, sequence_length=40,
            steps=40, later_steps=10,
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=50, start="anywhere", reward="predicted", full_return=40.0),
    search=CMAESConfig(population=8, rollouts=4),
    evolve=EvolveConfig(generations=4, evaluate_every=2, evaluation_rollouts=16, select="actual", actual_episodes=2),
    rounds=RoundsConfig(count=2, episodes=2, drivers="evaluated", patience=40),
    explorer=NoiseConfig(action_noise=0.2, random_stretches=0.05),
    evaluate=EvaluateConfig(episodes=2, environments=2),
)  # fmt: skip
