"""Swing-up from pixels through every stage, as small as it goes: two rounds on the device."""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.curiosity import CuriosityConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="smoke_swing_up",
    task="swing_up",
    mirror=True,
    collect=CollectConfig(episodes=16, policy="random"),
    world=VisionMemoryConfig(
        # The pole is thin and all that matters: what moves weighs more.
        vision=VisionConfig(
            latent_size=4,
            width=4,
            # Half a nat for each of 16 numbers would leave 6 degrees of the angle open.
            kl_floor=1.0,
            motion_weight=10.0,
            batch_size=32,
            steps=20,
            later_steps=10,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
        ),
        memory=MemoryConfig(
            hidden_size=16,
            predict_reward=True,
            predict_done=True,
            predict_action=True,
            predict_surprise=True,
            batch_size=8,
            sequence_length=20,
            steps=20,
            later_steps=10,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", end="drawn", reward="predicted"),
    actor=MLPConfig(features=("z", "h", "action"), hidden_sizes=(8,)),
    search=PolicyGradientConfig(dreams=32, decisions=8, hold=1, length=20, noise=0.7, final_noise=0.15),
    evolve=EvolveConfig(
        generations=4,
        evaluate_every=2,
        evaluation_rollouts=16,
        select="actual",
        actual_episodes=4,
    ),
    rounds=RoundsConfig(count=2, episodes=16, drivers="evaluated", new_share=0.4, warm_start=True),
    explorer=CuriosityConfig(action_noise=0.3, reward="excess_surprise", generations=4),
    evaluate=EvaluateConfig(episodes=16, environments=64, baselines=("random", "held"), rounds=(0,)),
)
