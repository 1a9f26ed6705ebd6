"""The probe environment through every stage, in about a minute: its best controller is known, so the loop must find it."""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="probe",
    task="../probe_task.py",
    held_out=0.1,
    collect=CollectConfig(episodes=120, policy="held"),
    world=VisionMemoryConfig(
        vision=VisionConfig(
            latent_size=4,
            width=4,
            batch_size=32,
            steps=300,
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine"),
        ),
        memory=MemoryConfig(
            hidden_size=32,
            mixtures=2,
            predict_reward=True,
            predict_done=True,
            restart_input=True,
            batch_size=16,
            sequence_length=40,
            steps=600,
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=80, start="anywhere", reward="predicted"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=16, rollouts=8),
    evolve=EvolveConfig(generations=20, evaluate_every=10, evaluation_rollouts=64, actual_episodes=4),
    evaluate=EvaluateConfig(episodes=16, environments=4),
)  # fmt: skip
