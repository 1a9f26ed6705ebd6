"""The probe, as small as it can be: every stage in a second once it is compiled."""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="tiny",
    task="probe_task.py",
    held_out=0.2,
    collect=CollectConfig(episodes=6, policy="held", max_steps=24, workers=1),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=2, width=1, batch_size=4, steps=40),
        memory=MemoryConfig(
            hidden_size=4,
            mixtures=2,
            predict_reward=True,
            predict_done=True,
            restart_input=True,
            batch_size=2,
            sequence_length=8,
            steps=40,
        ),
    ),
    dream=DreamConfig(horizon=10, start="anywhere", episodes=4, reward="predicted"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=4, rollouts=2),
    evolve=EvolveConfig(generations=4, evaluate_every=2, evaluation_rollouts=2, actual_episodes=2, seeds=2),
    evaluate=EvaluateConfig(episodes=4, environments=2),
    checkpoint_seconds=0.0,
)
