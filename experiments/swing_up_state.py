"""Cart-pole swing-up from the physical state, without V and M: a reference for the searches from pixels, and a check of
the environment. CMA-ES searches for 71 weights in the simulator itself.

wm-jax run experiments/swing_up_state.py

Score: 920.1 ± 12.1 (n = 100, standard error 1.2), the pole upright in 87 % of the steps; 901 in validation after 250
generations, 913 after 450. 5 minutes on 2 cores of an AMD EPYC that had other work too. One seed.
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.worlds.simulator import SimulatorConfig

CONFIG = Experiment(
    name="swing_up_state",
    task="swing_up",
    # Nothing is learned from it: the simulator begins its own episodes.
    collect=CollectConfig(episodes=20, policy="random"),
    world=SimulatorConfig(),
    dream=DreamConfig(horizon=250, start="first", reward="predicted"),
    actor=MLPConfig(features=("observation",), hidden_sizes=(10,)),
    search=CMAESConfig(population=64, rollouts=16, sigma=1.0),
    evolve=EvolveConfig(
        generations=1000, evaluate_every=50, evaluation_rollouts=256, select="actual", actual_episodes=32
    ),
    evaluate=EvaluateConfig(episodes=100, environments=64, baselines=("random", "held")),
)
