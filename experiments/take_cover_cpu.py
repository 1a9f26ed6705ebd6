"""The paper's Take Cover experiment on two CPU cores: M half as wide, a fifth of the episodes, half the population, and the
five temperatures of the paper's table with two evolutions each, side by side.

wm-jax run experiments/take_cover_cpu.py

Ablations take V and M over from it (`--run-dir runs/NAME --reuse runs/take_cover_cpu --evolve.temperatures 1.15
--evolve.seeds 1`):

    z only                        --actor.features z
    z, with a hidden layer        --actor.features z --actor.hidden-sizes 40
    z and h, without c            --actor.features z h
    an untrained M                --world.memory.steps 0

On 2 cores of an AMD EPYC, while other work took a part of them, about 4 hours: V 23 minutes (held-out reconstruction
11.2), M 14 (held-out NLL 0.999; recall 79 % and precision 54 % on held-out deaths), 100 generations of the ten
evolutions 40, each score 7. Deployed: 782 ± 463 (n = 1000), the blind sweep of the same episodes 754 ± 452. No
temperature stands out by much in the game, though the coldest dream is cheated; with z alone C is hardly better than
random (239 and 223 tics). All scores: `results/take_cover/log.md`. A second round goes further:
`experiments/take_cover_rounds.py`.
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
    name="take_cover_cpu",
    task="take_cover",
    # Actions held for 10 tics at most, as the paper has them, hardly ever lead to a wall, and M is then free to invent what
    # happens there.
    collect=CollectConfig(episodes=2000, policy="held", max_holds=(10, 30, 90, 200), min_length=101),
    world=VisionMemoryConfig(
        vision=VisionConfig(
            latent_size=64,
            motion_weight=10.0,
            batch_size=64,
            steps=12_000,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
        ),
        memory=MemoryConfig(
            hidden_size=256,
            predict_done=True,
            restart_input=True,
            batch_size=32,
            sequence_length=100,
            steps=8000,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.15, horizon=2100, start="first", reward="survival"),
    actor=MLPConfig(features=("z", "c", "h"), bias=False),
    search=CMAESConfig(population=32, rollouts=8),
    evolve=EvolveConfig(
        generations=100,
        evaluate_every=10,
        evaluation_rollouts=128,
        temperatures=(0.1, 0.5, 1.0, 1.15, 1.3),
        seeds=2,
        actual_episodes=8,
    ),
    evaluate=EvaluateConfig(
        episodes=1000, environments=64, baselines=("random", "held", "stay", "left", "right", "sweep")
    ),
)
