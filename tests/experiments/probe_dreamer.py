"""The probe environment by an RSSM on V's latents and DreamerV3's actor-critic: its best controller is known."""

from wm_jax.actors.actor_critic import ActorCriticConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.rssm import RSSMConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.dreamer import DreamerConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_rssm import VisionRSSMConfig

CONFIG = Experiment(
    name="probe_dreamer",
    task="../probe_task.py",
    held_out=0.1,
    collect=CollectConfig(episodes=120, policy="held"),
    world=VisionRSSMConfig(
        vision=VisionConfig(
            latent_size=4,
            width=4,
            batch_size=32,
            steps=600,
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine"),
        ),
        rssm=RSSMConfig(
            deterministic_size=64,
            variables=8,
            hidden_size=32,
            head_size=32,
            blocks=4,
            predict_end=True,
            sequence_length=20,
            steps=600,
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip=0.3, clip_by="array"),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=80, start="anywhere", end="drawn", reward="predicted"),
    actor=ActorCriticConfig(hidden_sizes=(32,)),
    search=DreamerConfig(dreams=128, learning_rate=3e-3, discount=0.97),
    evolve=EvolveConfig(generations=300, evaluate_every=100, evaluation_rollouts=64, actual_episodes=4),
    evaluate=EvaluateConfig(episodes=16, environments=4),
)
