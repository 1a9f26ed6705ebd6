"""Car Racing as in the paper, small: C evolved on actual tracks with what V and M know, for 2 CPU cores in 3 hours.

pip install "wm-jax[envpool]"
wm-jax run experiments/car_racing_cpu.py

Not yet run to its end. It evolves and validates on EnvPool's tracks, which are about ten times as fast to play as
Gymnasium's; scores are Gymnasium's, as everywhere. The paper's other controllers: see `experiments/car_racing.py`.
"""

from wm_jax.controller import EvolveConfig, PolicyConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.vision import VisionConfig

CONFIG = Experiment(
    name="car_racing_cpu",
    task="car_racing",
    # Random drives leave the track within 150 steps: many short ones see more of it than few long ones.
    collect=CollectConfig(episodes=400, policy="smooth_walk", max_steps=300),
    vision=VisionConfig(
        batch_size=32,
        steps=5000,
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
    ),
    memory=MemoryConfig(
        hidden_size=256,
        batch_size=32,
        sequence_length=100,
        steps=2000,
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip=1.0),
    ),
    # For the film only.
    dream=DreamConfig(temperature=0.7, horizon=1000, start="anywhere", burn_in=20),
    controller=PolicyConfig(features="zh"),
    evolve=EvolveConfig(
        population=32,
        rollouts=4,
        generations=100,
        evaluate_every=10,
        select="actual",
        actual_episodes=8,
        fitness="actual",
        environments=32,
        # Half a drive tells who follows the road, for half the price.
        max_steps=500,
        backend="envpool",
    ),
    evaluate=EvaluateConfig(episodes=100, environments=10),
)
