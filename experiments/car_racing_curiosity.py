"""Curiosity on Car Racing, small: two rounds in dreams; half of the second one's episodes are driven by a controller that
seeks what M predicts badly. V is that of the shipped bundle, so that M's likelihood means the same in every run.

wm-jax run experiments/car_racing_curiosity.py --seed 5

--explorer.kind noise --explorer.action-noise 0.1     without curiosity

Score over three training seeds (5, 6, 7; n = 10 each): 407 ± 153, without curiosity 556 ± 61, in 8 minutes each on 2 cores
of an AMD EPYC, two runs side by side. Curiosity does not help here (results/curiosity/README.md).
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.curiosity import CuriosityConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="car_racing_curiosity",
    task="car_racing",
    seed=5,
    initial="car_racing",
    initial_learners=("vision",),
    collect=CollectConfig(episodes=160, policy="smooth_walk", max_steps=200, backend="envpool"),
    world=VisionMemoryConfig(
        vision=VisionConfig(steps=0, later_steps=0),
        memory=MemoryConfig(
            hidden_size=128,
            predict_reward=True,
            predict_surprise=True,
            batch_size=32,
            sequence_length=100,
            steps=1000,
            later_steps=1000,
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=300, start="anywhere", reward="predicted"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=32, rollouts=16),
    evolve=EvolveConfig(
        backend="envpool",
        generations=20,
        evaluate_every=5,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=6,
    ),
    rounds=RoundsConfig(count=2, episodes=20, drivers="evaluated", new_share=0.4),
    explorer=CuriosityConfig(action_noise=0.1, reward="surprise", share=0.5, generations=20),
    evaluate=EvaluateConfig(episodes=10, environments=10, baselines=()),
)
