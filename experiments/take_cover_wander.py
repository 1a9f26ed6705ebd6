"""Take Cover: an M that has met thousands of deaths, late ones too, instead of a thousand that it then knows by heart.

wm-jax run experiments/take_cover_wander.py

Score: 755.8 ± 458.7 tics (n = 400 fresh episodes, standard error 22.9), in its dream 742.7 ± 479.7 (n = 400): the
dream is as long as the game, and C no better than a blind sweep in either (754.5). `results/take_cover/log.md`
tells why. What was measured had been made in pieces: 2,500 of the drives turned after 60 to 129 tics, M was also
trained on 1,600 older episodes, and C is the mean of generation 95. Time on 2 cores of an AMD EPYC: 6 minutes for the
episodes, 17 to encode them, 15 for M, 10 for C, 3 for 400 episodes of scoring.
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
    name="take_cover_wander",
    task="take_cover",
    # Other episodes than those that V and M have been trained on.
    seed=2,
    initial="../results/take_cover/further.safetensors",
    # A script plays 7,000 frames a second, C 800: that is what V costs.
    collect=CollectConfig(episodes=5500, policy="wander", max_holds=(40, 80, 120, 160), min_length=101),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=64, kl_floor=1.5, motion_weight=10.0, batch_size=64, steps=0),
        memory=MemoryConfig(
            hidden_size=256,
            predict_done=True,
            restart_input=True,
            batch_size=32,
            sequence_length=250,
            steps=2600,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.15, horizon=2100, start="first", reward="survival"),
    actor=MLPConfig(features=("z", "h"), bias=False),
    search=CMAESConfig(population=64, rollouts=16),
    evolve=EvolveConfig(
        generations=150,
        evaluate_every=50,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=128,
    ),
    evaluate=EvaluateConfig(episodes=1000, environments=64, baselines=("sweep",)),
)
