"""Swing-up by an RSSM and Dreamer's actor-critic through every stage, as small as it goes: two rounds on the device."""

from wm_jax.actors.actor_critic import ActorCriticConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.rssm import RSSMConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.dreamer import DreamerConfig
from wm_jax.worlds.rssm import RSSMWorldConfig

CONFIG = Experiment(
    name="smoke_dreamer",
    task="swing_up_dm",
    held_out=0.2,
    collect=CollectConfig(episodes=4, policy="random"),
    world=RSSMWorldConfig(
        rssm=RSSMConfig(
            deterministic_size=16,
            variables=4,
            classes=4,
            hidden_size=8,
            head_size=8,
            width=1,
            blocks=2,
            motion_weight=10.0,
            batch_size=4,
            sequence_length=10,
            steps=10,
            later_steps=5,
        )
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", reward="predicted"),
    actor=ActorCriticConfig(hidden_sizes=(8,)),
    search=DreamerConfig(dreams=16),
    evolve=EvolveConfig(generations=4, evaluate_every=2, evaluation_rollouts=16, select="actual", actual_episodes=4),
    rounds=RoundsConfig(count=2, episodes=4, new_share=0.2, warm_start=True),
    explorer=NoiseConfig(action_noise=0.3),
    evaluate=EvaluateConfig(episodes=4, environments=4),
)
