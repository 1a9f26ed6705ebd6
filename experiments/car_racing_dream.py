"""Car Racing learned in dreams with the paper's sizes: 10,000 drives, V and M of the paper plus M's reward output.

pip install -e ".[car,envpool]"
wm-jax run experiments/car_racing_dream.py

Not yet run to its end. The paper evolves this C on the actual track (906 ± 21) and shows the dream in pictures only;
Wellmer and Kwok (arXiv 2109.08342) report 789 ± 180 from dreams alone. Cost
(`wm-jax info`): 11 PFLOP, some two days of 2 cores of an AMD EPYC. Made for an accelerator and many cores for the
collection.
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="car_racing_dream",
    task="car_racing",
    mirror=True,
    collect=CollectConfig(episodes=10_000, policy="smooth_walk", backend="envpool"),
    world=VisionMemoryConfig(
        vision=VisionConfig(
            latent_size=32, batch_size=100, steps=100_000, later_steps=10_000,
            optimizer=OptimizerConfig(learning_rate=1e-4),
        ),
        memory=MemoryConfig(
            hidden_size=256,
            predict_reward=True,
            reward_loss="poisson",
            batch_size=100,
            sequence_length=1000,
            steps=4000,
            later_steps=2000,
            optimizer=OptimizerConfig(learning_rate=1e-3, clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=2.0, horizon=1000, full_return=900.0, start="anywhere", reward="predicted"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=64, rollouts=32),
    # Once C knows how to earn all there is in most dreams, their scores no longer tell controllers apart.
    evolve=EvolveConfig(generations=200, evaluate_every=10, evaluation_rollouts=1024, select="actual",
                        actual_episodes=32, backend="envpool"),
    rounds=RoundsConfig(count=6, episodes=2000, drivers="evaluated", patience=60),
    explorer=NoiseConfig(action_noise=0.1, random_stretches=0.003),
    evaluate=EvaluateConfig(episodes=100, environments=16),
)  # fmt: skip
