"""Car Racing by DreamerV3 (arXiv 2301.04104), small: an RSSM of categorical variables on the latents of the V of
the shipped agent `car_racing`, and an actor-critic by REINFORCE in its dreams.

wm-jax run experiments/dreamer_v3_car_racing.py

The RSSM is smaller than size1m (256 deterministic numbers); its training has fewer steps and a larger learning rate.
All tracks are EnvPool's.

429.0 ± 206.4 (n = 100 of EnvPool's tracks, standard error 20.6, one training seed); 67 minutes on one core of an AMD EPYC
beside other work: results/rssm/README.md.
"""

from dataclasses import replace

from wm_jax.actors.actor_critic import ActorCriticConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.rssm.config import SIZE1M
from wm_jax.search.config import EvolveConfig
from wm_jax.search.dreamer import DreamerConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_rssm import VisionRSSMConfig

CONFIG = Experiment(
    name="dreamer_v3_car_racing",
    task="car_racing",
    seed=1,
    mirror=True,
    held_out=0.1,
    initial="car_racing",
    initial_learners=("vision",),
    collect=CollectConfig(episodes=60, policy="smooth_walk", max_steps=200, backend="envpool"),
    world=VisionRSSMConfig(
        vision=VisionConfig(steps=0),
        rssm=replace(
            SIZE1M,
            deterministic_size=256,
            sequence_length=32,
            steps=2000,
            later_steps=1000,
            optimizer=OptimizerConfig(
                learning_rate=1e-3, schedule="cosine", final_learning_rate=1e-4, warm_up=50, clip=0.3, clip_by="array"
            ),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=300, start="anywhere", reward="predicted"),
    # As published. The modes of these policies stand still.
    actor=ActorCriticConfig(hidden_sizes=(64, 64, 64), deployed="sample"),
    search=DreamerConfig(dreams=256, learning_rate=1e-3),
    evolve=EvolveConfig(
        generations=500,
        evaluate_every=100,
        evaluation_rollouts=64,
        select="actual",
        actual_episodes=6,
        backend="envpool",
    ),
    # As on swing-up, the policies of a round collect in turn.
    rounds=RoundsConfig(count=6, episodes=12, drivers="evaluated", new_share=0.1, warm_start=True),
    evaluate=EvaluateConfig(episodes=100, environments=16, backend="envpool"),
)
