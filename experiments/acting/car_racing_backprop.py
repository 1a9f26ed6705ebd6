"""Car Racing by the gradient of the dreamt return through the world model. V and M are those of
the shipped agent `car_racing`, as for all controllers that `results/acting/README.md` compares.

wm-jax run experiments/acting/car_racing_backprop.py

Scores: results/acting/README.md.
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.backprop import BackpropConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="car_racing_backprop",
    task="car_racing",
    seed=11,
    mirror=True,
    initial="car_racing",
    collect=CollectConfig(episodes=100, policy="smooth_walk", max_steps=300, backend="envpool"),
    world=VisionMemoryConfig(
        vision=VisionConfig(steps=0),
        memory=MemoryConfig(hidden_size=256, predict_reward=True, reward_loss="poisson", steps=0),
    ),
    dream=DreamConfig(temperature=2.0, horizon=1000, start="anywhere", full_return=900.0, reward="predicted"),
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(64,)),
    search=BackpropConfig(dreams=256, horizon=15, length=200, learning_rate=3e-3),
    evolve=EvolveConfig(
        generations=300,
        evaluate_every=100,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=16,
        backend="envpool",
        seeds=3,
    ),
    # For each of the three controllers.
    evaluate=EvaluateConfig(episodes=34, environments=16, backend="envpool"),
)
