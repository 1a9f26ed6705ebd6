"""Swing-up from pixels by PlaNet (arXiv 1811.04551) in 100,000 steps of a cart-pole with dm_control's physics and
rewards: a Gaussian RSSM, in which the cross-entropy method plans at every decision.

wm-jax run experiments/planet_swing_up.py

The RSSM is trained on the latents of a V, as in `dreamer_v3_swing_up.py`, and is smaller than published.

597.5 ± 86.3 (n = 100, standard error 8.6, one training seed); 64 minutes on one core of an AMD EPYC beside other work:
results/rssm/README.md.
"""

from dataclasses import replace

from wm_jax.actors.cem import CEMConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.rssm.config import PLANET
from wm_jax.search.config import EvolveConfig
from wm_jax.search.none import NoSearchConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_rssm import VisionRSSMConfig

CONFIG = Experiment(
    name="planet_swing_up",
    task="swing_up_planet",
    mirror=True,
    held_out=0.1,
    # An episode is 1,000 steps of dm_control: these and nine rounds are 100 episodes.
    collect=CollectConfig(episodes=10, policy="random"),
    world=VisionRSSMConfig(
        vision=VisionConfig(
            latent_size=16,
            width=16,
            kl_floor=1.0,
            motion_weight=10.0,
            batch_size=8,
            steps=4000,
            later_steps=600,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warm_up=300),
        ),
        rssm=replace(
            PLANET,
            deterministic_size=128,
            variables=16,
            hidden_size=64,
            head_size=64,
            batch_size=16,
            sequence_length=32,
            # The error of z has its half already.
            image_weight=1.0,
            free_nats=1.0,
            steps=2000,
            later_steps=700,
            optimizer=OptimizerConfig(
                learning_rate=1e-3, schedule="cosine", final_learning_rate=1e-4, warm_up=50, clip=0.3, clip_by="array"
            ),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=125, start="anywhere", reward="predicted"),
    # A decision is 6,000 dreamt steps; PlaNet's is 120,000.
    actor=CEMConfig(horizon=12, candidates=100, elites=10, iterations=5),
    search=NoSearchConfig(),
    evolve=EvolveConfig(generations=1, evaluation_rollouts=2, actual_episodes=0),
    rounds=RoundsConfig(count=10, episodes=10, new_share=0.01),
    explorer=NoiseConfig(action_noise=0.3),
    evaluate=EvaluateConfig(episodes=100, environments=50, baselines=("random",)),
)
