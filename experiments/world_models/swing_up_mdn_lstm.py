"""Swing-up in the dreams of an MDN-LSTM on the latents of a V that is given.

wm-jax run experiments/world_models/swing_up_mdn_lstm.py

V is that of the shipped agent `swing_up` and stays as it is. `swing_up_rssm.py` is the same experiment with an RSSM.
Compared by `benchmarks/world_models.py`; results/rssm/README.md.

721.8 ± 55.6 over three training seeds (1, 2, 3; n = 100 each); 12 minutes a seed on one core of an AMD EPYC
beside other work.
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
    name="swing_up_mdn_lstm",
    task="swing_up",
    # Another than the bundle's, whose V has seen the episodes of its own seed.
    seed=1,
    mirror=True,
    held_out=0.1,
    initial="swing_up",
    initial_learners=("vision",),
    collect=CollectConfig(episodes=120, policy="random"),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=16, width=16, steps=0),
        memory=MemoryConfig(
            hidden_size=128,
            predict_reward=True,
            predict_done=True,
            batch_size=32,
            sequence_length=50,
            steps=700,
            later_steps=700,
            optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", end="drawn", reward="predicted"),
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(64,)),
    search=PolicyGradientConfig(dreams=256, decisions=16, hold=1, length=150, noise=0.7, final_noise=0.15),
    evolve=EvolveConfig(
        generations=300,
        evaluate_every=100,
        evaluation_rollouts=64,
        select="actual",
        actual_episodes=16,
    ),
    rounds=RoundsConfig(count=4, episodes=40, drivers="evaluated", new_share=0.4, warm_start=True),
    explorer=NoiseConfig(action_noise=0.3),
    evaluate=EvaluateConfig(episodes=100, environments=50, baselines=("random",)),
)
