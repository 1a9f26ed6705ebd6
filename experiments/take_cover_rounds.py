"""Take Cover beyond the paper, on two CPU cores: a second round, whose M has seen the first round's C play, and a C that is
evolved for longer in the dream of that M.

wm-jax run experiments/take_cover_rounds.py --reuse runs/take_cover_cpu

Score: 876.8 ± 491.6 tics (n = 1000 fresh episodes, standard error 15.5), a blind sweep on the same episodes 754.5 ±
452.5 (14.3). C is the mean of generation 250 of the second round, chosen by 16 validation episodes in the actual game;
its dream scores it 1015.7 ± 570.2 (n = 128). Time, on 2 cores of an AMD EPYC with other work too: 42 minutes for what
is taken over from `take_cover_cpu.py` (episodes, V, latents, M), 53 minutes for both evolutions and for the second
round's episodes (9 minutes) and M (12 minutes), 14 minutes of scoring.

The game's score does not rise any more from generation 70 on, the dream's hardly: see `results/take_cover/log.md`.
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="take_cover_rounds",
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
            later_steps=0,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
        ),
        memory=MemoryConfig(
            hidden_size=256,
            predict_done=True,
            restart_input=True,
            batch_size=32,
            sequence_length=100,
            steps=8000,
            later_steps=4000,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.15, horizon=2100, start="first", reward="survival"),
    actor=MLPConfig(features=("z", "c", "h"), bias=False),
    search=CMAESConfig(population=32, rollouts=8),
    evolve=EvolveConfig(
        generations=60,
        evaluate_every=10,
        evaluation_rollouts=128,
        select="actual",
        actual_episodes=16,
    ),
    # Random drives end after 300 tics on average; what comes later in the game only a controller shows.
    rounds=RoundsConfig(
        count=2,
        episodes=300,
        new_share=0.5,
        generations=300,
    ),
    explorer=NoiseConfig(action_noise=0.2, random_stretches=0.01, stretch_length=20),
    evaluate=EvaluateConfig(episodes=1000, environments=16, baselines=("sweep",)),
)
