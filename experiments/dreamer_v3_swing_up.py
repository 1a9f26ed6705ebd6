"""Swing-up from pixels by DreamerV3 (arXiv 2301.04104) in 100,000 steps of a cart-pole with dm_control's physics and
rewards: an RSSM of categorical variables and an actor-critic by REINFORCE in its dreams.

wm-jax run experiments/dreamer_v3_swing_up.py

The RSSM is trained on the latents of a V that each round trains further, which makes its steps cheap on a CPU; the
published agent has one encoder for both (`--world.kind rssm`). The RSSM is smaller than size1m (256 deterministic
numbers); its training has fewer steps and a larger learning rate.

841 ± 19 over three training seeds (n = 100 each), 552 ± 6 after half of the steps; 52 to 58 minutes a seed on one core of
an AMD EPYC: results/rssm/README.md.
"""

from dataclasses import replace

from wm_jax.actors.actor_critic import ActorCriticConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.draws import DrawsConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.rssm.config import SIZE1M
from wm_jax.search.config import EvolveConfig
from wm_jax.search.dreamer import DreamerConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_rssm import VisionRSSMConfig

CONFIG = Experiment(
    name="dreamer_v3_swing_up",
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
            SIZE1M,
            deterministic_size=256,
            sequence_length=32,
            steps=2000,
            later_steps=700,
            optimizer=OptimizerConfig(
                learning_rate=1e-3, schedule="cosine", final_learning_rate=1e-4, warm_up=50, clip=0.3, clip_by="array"
            ),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=125, start="anywhere", reward="predicted"),
    actor=ActorCriticConfig(hidden_sizes=(64, 64, 64)),
    # V3's 333 decisions of two steps, in decisions of eight.
    search=DreamerConfig(dreams=128, discount=1 - 1 / 83, learning_rate=1e-3),
    # Nothing is chosen by episodes that would have to be counted: the dream says which generation is scored. Ten of them
    # collect, an episode each, as the policy changes from episode to episode in the published loop.
    evolve=EvolveConfig(generations=800, evaluate_every=80, evaluation_rollouts=64, actual_episodes=0),
    rounds=RoundsConfig(count=10, episodes=10, drivers="evaluated", new_share=0.01, warm_start=True),
    explorer=DrawsConfig(),
    evaluate=EvaluateConfig(episodes=100, environments=50, baselines=("random",), rounds=(4,)),
)
