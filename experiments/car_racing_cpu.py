"""Car Racing as in the paper, small: C evolved on actual tracks with what V and M know, for 2 CPU cores in 47 minutes
with scoring.

pip install -e ".[car,envpool]"
wm-jax run experiments/car_racing_cpu.py

Score: 431.5 ± 206.3 (n = 100 fresh tracks of Gymnasium, standard error 20.6) after 24 generations, and rising; C is the
mean of generation 24, chosen among three by 16 validation tracks (402). Time on 2 cores of an AMD EPYC, shared with other
runs: 20 minutes for drives, V and M, 14 for the evolution, 13 for the score. It evolves and validates on EnvPool's tracks,
which are about ten times as fast to play as Gymnasium's. The paper's other controllers take V and M over from it
(`--run-dir runs/NAME --reuse runs/car_racing_cpu`):

    V only                        --actor.features z                             279.5 ± 144.1
    V, with a hidden layer        --actor.features z --actor.hidden-sizes 40     422.6 ± 257.5
    V and an untrained M          --world.memory.steps 0                         354.6 ± 203.8

What goes further for the same time: dreams (`car_racing_dream_rounds.py`), and tuning what they make
(`car_racing_tuned.py`).
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="car_racing_cpu",
    task="car_racing",
    # Random drives leave the track within 150 steps: many short ones see more of it than few long ones.
    collect=CollectConfig(episodes=400, policy="smooth_walk", max_steps=300, backend="envpool"),
    world=VisionMemoryConfig(
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
    ),
    # For the film only.
    dream=DreamConfig(temperature=0.7, horizon=1000, start="anywhere"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=32, rollouts=2),
    evolve=EvolveConfig(
        generations=24,
        evaluate_every=8,
        select="actual",
        actual_episodes=16,
        fitness="actual",
        environments=32,
        # Half a drive tells who follows the road, for half the price, and who is lost is spared the rest of it.
        max_steps=500,
        patience=60,
        backend="envpool",
    ),
    evaluate=EvaluateConfig(episodes=100, environments=32),
)
