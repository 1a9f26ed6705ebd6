"""Compares inputs of C and searches for C on one V and M, those of a finished `swing_up.py`.

wm-jax run experiments/swing_up_controllers.py

as it stands: policy gradient, a hidden layer, z and h. Others, on the same V and M:

--actor.features z                              without memory: one picture shows no velocity
--search.kind cma_es --search.sigma 1.0 --search.rollouts 8 --evolve.generations 300 --actor.hidden-sizes
                                                the paper's: a linear C, found by CMA-ES

Scores: results/swing_up/README.md.
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="swing_up_controllers",
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
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(64,)),
    search=PolicyGradientConfig(dreams=512, decisions=16, hold=1, length=150, noise=0.7, final_noise=0.15),
    evolve=EvolveConfig(
        generations=700,
        evaluate_every=100,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=32,
    ),
    evaluate=EvaluateConfig(episodes=100, environments=64, baselines=("random",)),
)
