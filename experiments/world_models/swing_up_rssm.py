"""Swing-up in the dreams of an RSSM on the latents of a V that is given.

wm-jax run experiments/world_models/swing_up_rssm.py

V is that of the shipped agent `swing_up` and stays as it is. `swing_up_mdn_lstm.py` is the same experiment with an
MDN-LSTM. Compared by `benchmarks/world_models.py`; results/rssm/README.md.

751.1 ± 39.8 over three training seeds (1, 2, 3; n = 100 each); 26 minutes a seed on one core of an AMD EPYC
beside other work.
"""

from dataclasses import replace

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.rssm.config import SIZE1M
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_rssm import VisionRSSMConfig

CONFIG = Experiment(
    name="swing_up_rssm",
    task="swing_up",
    # Another than the bundle's, whose V has seen the episodes of its own seed.
    seed=1,
    mirror=True,
    held_out=0.1,
    initial="swing_up",
    initial_learners=("vision",),
    collect=CollectConfig(episodes=120, policy="random"),
    world=VisionRSSMConfig(
        vision=VisionConfig(latent_size=16, width=16, steps=0),
        rssm=replace(
            SIZE1M,
            deterministic_size=256,
            predict_end=True,
            sequence_length=32,
            # As many frames as the MDN-LSTM, of which a step has 512 and not 1,600.
            steps=2200,
            later_steps=2200,
            optimizer=OptimizerConfig(
                learning_rate=1e-3, schedule="cosine", final_learning_rate=1e-4, warm_up=50, clip=0.3, clip_by="array"
            ),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", end="drawn", reward="predicted"),
    actor=MLPConfig(features=("deterministic", "stochastic"), hidden_sizes=(64,)),
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
