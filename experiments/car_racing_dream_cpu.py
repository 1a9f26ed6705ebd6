"""Car Racing learned in dreams only, for 2 CPU cores in under 2 hours: two rounds of collecting with the current C,
going on training V and M, and evolving again in the new dream.

wm-jax run experiments/car_racing_dream_cpu.py

Score: 543.9 ± 283.1 on 100 fresh tracks (standard error 28.3; random policy −31.1 ± 4.9), in 1 hour 40 minutes on 2
cores of an AMD EPYC that had other work too. Which of the evaluated means is deployed is decided by 8 validation drives
on tracks of their own (748, which was luck). Its limit: C learns to drive faster than the road allows, and M does not
punish that enough. In M's dreams the road comes back after the car has left it. See `results/car_racing/log.md`.
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
    name="car_racing_dream_cpu",
    task="car_racing",
    # Random drives leave the track within 150 steps: many short ones see more of it than few long ones.
    collect=CollectConfig(episodes=400, policy="smooth_walk", max_steps=300),
    world=VisionMemoryConfig(
        vision=VisionConfig(
            batch_size=32,
            steps=5000,
            later_steps=1500,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
        ),
        memory=MemoryConfig(
            hidden_size=256,
            predict_reward=True,
            reward_loss="poisson",
            batch_size=32,
            sequence_length=100,
            steps=2000,
            later_steps=1500,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip=1.0),
        ),
    ),
    # A dream of 300 steps sees several corners; from anywhere in the drives, since all of them begin on the same straight.
    dream=DreamConfig(temperature=1.0, horizon=300, start="anywhere", reward="predicted"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=32, rollouts=16),
    evolve=EvolveConfig(
        generations=40,
        evaluate_every=10,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=8,
        # Two searches a round: which one finds more differs from round to round, and the hotter dream is harder to cheat.
        temperatures=(1.0, 1.5),
    ),
    rounds=RoundsConfig(
        count=2,
        episodes=120,
        # A car that has left the road for good shows nothing but grass, which most dreams would then begin on.
        patience=60,
        new_share=0.5,
        generations=60,
    ),
    explorer=NoiseConfig(action_noise=0.1, random_stretches=0.003, stretch_length=15),
    evaluate=EvaluateConfig(episodes=100, environments=16),
)
