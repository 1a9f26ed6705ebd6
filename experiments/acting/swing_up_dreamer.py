"""Swing-up by DreamerV3's actor-critic in the dream, here that of an MDN-LSTM. V and M are those of
the shipped agent `swing_up`, as for all controllers that `results/acting/README.md` compares.

wm-jax run experiments/acting/swing_up_dreamer.py

Not run to its end: 20 minutes of one core of an AMD EPYC for each training seed.
"""

from wm_jax.actors.actor_critic import ActorCriticConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.dreamer import DreamerConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="swing_up_dreamer",
    task="swing_up",
    seed=1,
    mirror=True,
    initial="swing_up",
    collect=CollectConfig(episodes=120, policy="random"),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=16, width=16, steps=0),
        memory=MemoryConfig(hidden_size=128, predict_reward=True, predict_done=True, steps=0),
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", end="drawn", reward="predicted"),
    actor=ActorCriticConfig(features=("z", "h"), hidden_sizes=(64, 64, 64)),
    search=DreamerConfig(dreams=256, learning_rate=1e-3),
    evolve=EvolveConfig(
        generations=2000,
        evaluate_every=250,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=32,
        seeds=3,
    ),
    evaluate=EvaluateConfig(episodes=100, environments=64, baselines=("random",)),
)
