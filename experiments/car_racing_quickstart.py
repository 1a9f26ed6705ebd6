"""Car Racing learned in dreams, small: random drives, V, M, C evolved inside M's dream, scored on the actual track.

wm-jax run experiments/car_racing_quickstart.py

Score: 736.2 ± 74.0 on 20 fresh tracks (standard error 16.5; one training seed), C of the first round 649.4 ± 144.7
(32.3) on the same tracks, random policy −32.1 ± 5.8. Without the second round (`--rounds.count 1`) it takes half as long.
Three earlier trials, with a third of M's learning rate, came to 627, 681 and 540 after two rounds and to 284 to 600 in
validation after one (results/car_racing_quickstart/README.md). They took 25 to 41 minutes on 2 cores of an AMD EPYC.
The V of this score was trained by an earlier version. This file has not been run in one piece since; that takes about 40
minutes.
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
    name="car_racing_quickstart",
    task="car_racing",
    # Random drives leave the track within 150 steps: many short ones see more of it than few long ones.
    collect=CollectConfig(episodes=320, policy="smooth_walk", max_steps=200),
    world=VisionMemoryConfig(
        vision=VisionConfig(
            batch_size=32,
            steps=2500,
            later_steps=1000,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
        ),
        memory=MemoryConfig(
            predict_reward=True,
            batch_size=32,
            sequence_length=100,
            steps=1500,
            later_steps=1500,
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=300, start="anywhere", reward="predicted"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=32, rollouts=16),
    evolve=EvolveConfig(
        generations=30,
        evaluate_every=5,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=6,
    ),
    rounds=RoundsConfig(
        count=2,
        episodes=40,
        new_share=0.4,
    ),
    explorer=NoiseConfig(action_noise=0.1, random_stretches=0.01, stretch_length=20),
    evaluate=EvaluateConfig(episodes=20, environments=10, rounds=(0,)),
)
