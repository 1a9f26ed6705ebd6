"""Car Racing as in the paper: V and M learn from random drives, M without rewards. CMA-ES searches on the actual track
for a C that reads z and h.

wm-jax run experiments/car_racing.py

Not yet run to its end; the paper's score is 906 ± 21 (100 tracks); its curve has 823 after 25 generations. Cost
(`wm-jax info`): 67 PFLOP, some eleven days of 2 cores of an AMD EPYC, without the game; the search alone plays 1.8
million drives of 1,000 steps. So this is made for many cores (and `--evolve.backend envpool`, about ten times as fast)
and an accelerator. `experiments/car_racing_cpu.py` is the same, small.

The paper's other controllers, each from the V and M of this run (`--run-dir runs/NAME --reuse runs/car_racing`):

    V only                        --actor.features z
    V, with a hidden layer        --actor.features z --actor.hidden-sizes 40
    V and an untrained M          --world.memory.steps 0
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
    name="car_racing",
    task="car_racing",
    collect=CollectConfig(episodes=10_000, policy="random_network"),
    world=VisionMemoryConfig(
        # One epoch of 10 million frames, as in the paper (the released code: 10).
        vision=VisionConfig(
            latent_size=32, batch_size=100, steps=100_000, optimizer=OptimizerConfig(learning_rate=1e-4)
        ),
        # Whole episodes.
        memory=MemoryConfig(
            hidden_size=256,
            batch_size=100,
            sequence_length=1000,
            steps=4000,
            optimizer=OptimizerConfig(learning_rate=1e-3, clip=1.0),
        ),
    ),
    # For the film only.
    dream=DreamConfig(temperature=0.7, horizon=1000, start="anywhere"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=64, rollouts=16),
    evolve=EvolveConfig(
        generations=1800,
        evaluate_every=25,
        select="actual",
        actual_episodes=1024,
        fitness="actual",
        environments=64,
    ),
    evaluate=EvaluateConfig(episodes=100, environments=16),
)
