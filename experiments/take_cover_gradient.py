"""Take Cover: a C with a hidden layer, found by PPO with falling noise in the dream of an M that has met thousands of
deaths.

wm-jax run experiments/take_cover_gradient.py

Score: 1155.9 ± 640.6 tics (n = 1000 fresh episodes, standard error 20.3; one training seed), in its
dream 1171.0 (n = 256, standard error 41.0); a blind sweep on the same episodes 754.5 ± 452.5.
The five rounds' C had 1011, 1120, 1184, 1221 and 1316 in validation (n = 64 each, standard errors 71 to 82).

The shipped agent `take_cover` is this run's. `results/take_cover/pieces.safetensors` has a better one (1292.4 ± 646.1,
n = 1000), made in pieces by scripts (`results/take_cover/log.md`, from "Policy gradient" on), with these differences:

- M was also trained on 1,600 older episodes;
- rounds had 800 to 1,100 episodes, and trained M for 1,500 to 2,600 steps;
- noise on C's actions was held for 5 or 10 tics;
- each round's C began with fresh weights and had 400 to 700 generations;
- in the first three rounds, dreams ended at a threshold, and C had fewer units and constant noise;
- C is that of the fifth round's last generation.

Time on 2 cores of an AMD EPYC: 5 minutes for the first episodes, 16 to encode them, 20 for M, 7 for C; then 13 minutes for
each later round's episodes and their encoding, 8 for its M, 8 for its C, and 32 for scoring beside other work: 3 hours 17
minutes in all.
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="take_cover_gradient",
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
            later_steps=1000,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip=1.0),
        ),
    ),
    # What comes from out of sight M can only hold possible: a threshold would never let C die of it.
    dream=DreamConfig(temperature=1.1, horizon=2100, start="first", end="drawn", reward="survival"),
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(256,)),
    search=PolicyGradientConfig(),
    evolve=EvolveConfig(
        generations=500,
        evaluate_every=250,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=64,
    ),
    # C dies of what M does not know: M is to meet those deaths, too.
    rounds=RoundsConfig(
        count=5,
        episodes=500,
        warm_start=True,
        drivers="evaluated",
        new_share=0.25,
    ),
    explorer=NoiseConfig(action_noise=0.5, random_stretches=0.002, stretch_length=40),
    evaluate=EvaluateConfig(episodes=1000, environments=64, baselines=("sweep",)),
)
