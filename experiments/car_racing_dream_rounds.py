"""Car Racing learned in dreams only, for 2 CPU cores: eight rounds of collecting with all that the round before evolved,
cheats included, going on training M, and evolving again in the new dream.

pip install -e ".[car,envpool]"
wm-jax run experiments/car_racing_dream_rounds.py

Score: 821.9 ± 114.1 (n = 100 fresh tracks of Gymnasium, standard error 11.4). C is the mean of generation 40 of the last
round, chosen among four by 32 validation tracks (745); its dream scores it 765.4 ± 168.4 (n = 256). Time, on an AMD EPYC
with other work too: 23 minutes for the first drives, V and M on 2 cores, then 12 to 20 minutes for each round, most of them
on one core; scoring 14. Episodes and validation are EnvPool's, scores Gymnasium's. Round by round:
`results/car_racing/log.md`.
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
    name="car_racing_dream_rounds",
    task="car_racing",
    # Around a ring nearly all corners turn to one side, and C would never learn the other.
    mirror=True,
    # Random drives leave the track within 150 steps: many short ones see more of it than few long ones.
    collect=CollectConfig(episodes=400, policy="smooth_walk", max_steps=300, backend="envpool"),
    world=VisionMemoryConfig(
        vision=VisionConfig(
            batch_size=32,
            steps=5000,
            later_steps=0,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
        ),
        memory=MemoryConfig(
            hidden_size=256,
            predict_reward=True,
            reward_loss="poisson",
            batch_size=32,
            sequence_length=100,
            steps=2000,
            later_steps=2500,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", clip=1.0),
        ),
    ),
    # From anywhere in the drives, since all of them begin on the same straight. A lap brings 1,000 points, less a tenth of
    # one a step: whoever drives faster than one lap in 1,000 steps earns hardly more, only risks more. Hot, as at a
    # temperature of 1 there is soon nothing left to learn.
    dream=DreamConfig(temperature=2.0, horizon=1000, full_return=900.0, start="anywhere", reward="predicted"),
    actor=MLPConfig(features=("z", "h")),
    search=CMAESConfig(population=32, rollouts=32),
    evolve=EvolveConfig(
        generations=40,
        evaluate_every=10,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=32,
        backend="envpool",
    ),
    rounds=RoundsConfig(
        count=8,
        episodes=200,
        drivers="evaluated",
        # A car that has left the road for good shows nothing but grass, which most dreams would then begin on.
        patience=60,
        new_share=0.25,
    ),
    explorer=NoiseConfig(action_noise=0.1, random_stretches=0.003, stretch_length=15),
    evaluate=EvaluateConfig(episodes=100, environments=16),
)
