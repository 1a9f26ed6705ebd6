"""Car Racing by planning alone, round by round, as PlaNet learns: drives are recorded by the planner in the M of the round
before, V and M are trained on, and no controller is ever trained.

wm-jax run experiments/acting/car_racing_planning.py

Not run to its end: several hours on 2 cores of an AMD EPYC.
"""

from wm_jax.actors.icem import ICEMConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.none import NoSearchConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="car_racing_planning",
    task="car_racing",
    mirror=True,
    collect=CollectConfig(episodes=300, policy="smooth_walk", max_steps=300, backend="envpool"),
    world=VisionMemoryConfig(
        vision=VisionConfig(
            batch_size=32,
            steps=3000,
            later_steps=600,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
        ),
        memory=MemoryConfig(
            hidden_size=256,
            predict_reward=True,
            reward_loss="poisson",
            batch_size=32,
            sequence_length=100,
            steps=1500,
            later_steps=1000,
            # Three times the usual rate: at 1e-3 M is far from done when its steps are over.
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=300, start="anywhere", reward="predicted"),
    # 64 steps ahead, more than a second, in which a car can brake. The best plans differ: what is done is their mean.
    actor=ICEMConfig(horizon=16, hold=4, particles=2, deviation=0.3, execute="mean"),
    search=NoSearchConfig(),
    evolve=EvolveConfig(generations=1, evaluation_rollouts=16, actual_episodes=0),
    rounds=RoundsConfig(count=4, episodes=40, patience=60, new_share=0.5),
    explorer=NoiseConfig(action_noise=0.1),
    evaluate=EvaluateConfig(episodes=100, environments=16),
)
