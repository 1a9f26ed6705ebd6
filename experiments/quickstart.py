"""Cart-pole swing-up from pixels in minutes: five rounds of collecting, training V and M, and searching for C in M's
dream; a smaller `swing_up.py`.

wm-jax run experiments/quickstart.py

Score: 890.5 ± 16.4 over three training seeds (871.6, 899.9, 900.1; n = 100 each; random policy 42.4 ± 55.1, C of the first
round 384.3 ± 69.9 over the seeds, of the third 795.3 ± 32.9), the pole upright in 82 to 86 % of the steps, in 11 to 14
minutes on one core of an AMD EPYC (results/swing_up/README.md).
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="quickstart",
    task="swing_up",
    mirror=True,
    collect=CollectConfig(episodes=120, policy="random"),
    world=VisionMemoryConfig(
        # The pole is thin and all that matters: what moves weighs more.
        vision=VisionConfig(
            latent_size=16,
            width=16,
            # Half a nat for each of 16 numbers would leave 6 degrees of the angle open.
            kl_floor=1.0,
            motion_weight=10.0,
            # V sees no pole for the first 1,500 steps, whatever the batch: small ones cost less. Without the warm-up one of
            # six trainings never saw any.
            batch_size=8,
            steps=5000,
            later_steps=1600,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warm_up=500),
        ),
        memory=MemoryConfig(
            hidden_size=128,
            predict_reward=True,
            predict_done=True,
            batch_size=32,
            sequence_length=50,
            steps=700,
            later_steps=700,
            # Ten times the usual rate: at 1e-3 M is far from done when its steps are over.
            optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", end="drawn", reward="predicted"),
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(64,)),
    search=PolicyGradientConfig(dreams=512, decisions=16, hold=1, length=150, noise=0.7, final_noise=0.15),
    evolve=EvolveConfig(
        generations=500,
        evaluate_every=100,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=16,
    ),
    rounds=RoundsConfig(count=5, episodes=40, drivers="evaluated", new_share=0.4, warm_start=True),
    explorer=NoiseConfig(action_noise=0.3),
    evaluate=EvaluateConfig(episodes=100, environments=64, baselines=("random", "held"), rounds=(0,)),
)
