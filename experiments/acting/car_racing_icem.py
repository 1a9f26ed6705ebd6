"""Car Racing by planning with iCEM, a plan every fourth step, without a trained controller. V and M are those of
the shipped agent `car_racing`, as for all controllers that `results/acting/README.md` compares.

wm-jax run experiments/acting/car_racing_icem.py

Score: 168.4 ± 108.6 (n = 100 of EnvPool's tracks, standard error 10.9; in the dream 473.0 ± 136.9, n = 4), 48 minutes on
one core of an AMD EPYC (results/acting/README.md).
"""

from wm_jax.actors.icem import ICEMConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.none import NoSearchConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="car_racing_icem",
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
    actor=ICEMConfig(horizon=20, hold=4, deviation=0.3, execute="mean"),
    search=NoSearchConfig(),
    evolve=EvolveConfig(generations=1, evaluation_rollouts=4, actual_episodes=0),
    evaluate=EvaluateConfig(episodes=100, environments=16, backend="envpool"),
)
