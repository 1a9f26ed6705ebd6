"""Take Cover through every stage in about a minute: shows that the parts fit, learns nothing."""

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
    name="smoke_take_cover",
    task="take_cover",
    held_out=0.2,
    collect=CollectConfig(episodes=8, policy="held", max_holds=(10, 90), min_length=101),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=16, width=8, batch_size=20, steps=40),
        memory=MemoryConfig(
            hidden_size=32,
            mixtures=2,
            predict_done=True,
            restart_input=True,
            batch_size=4,
            sequence_length=50,
            steps=40,
        ),
    ),
    dream=DreamConfig(temperature=1.15, horizon=100, start="first", reward="survival"),
    actor=MLPConfig(features=("z", "c", "h"), bias=False),
    search=CMAESConfig(population=8, rollouts=4),
    evolve=EvolveConfig(generations=4, evaluate_every=2, evaluation_rollouts=16, actual_episodes=2),
    evaluate=EvaluateConfig(episodes=4, environments=4),
)
