"""Swing-up by planning at every second step with PlaNet's cross-entropy method, without a trained controller. V and M
are those of the shipped agent `swing_up`, as for all controllers that `results/acting/README.md` compares.

wm-jax run experiments/acting/swing_up_cem.py

A fifth of PlaNet's sequences: with `--actor.candidates 1000 --actor.elites 100`, 100 episodes take 9 hours of one core.

Score: 923.0 ± 7.8 (n = 100, standard error 0.8; in the dream 940.9 ± 24.4, n = 8), 83 minutes on one busy core of an AMD
EPYC (results/acting/README.md).
"""

from wm_jax.actors.cem import CEMConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.none import NoSearchConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="swing_up_cem",
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
    actor=CEMConfig(candidates=200, elites=20, hold=2),
    search=NoSearchConfig(),
    evolve=EvolveConfig(generations=1, evaluation_rollouts=8, actual_episodes=0),
    evaluate=EvaluateConfig(episodes=100, environments=16, baselines=("random",)),
)
