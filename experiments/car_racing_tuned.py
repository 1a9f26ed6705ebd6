"""C on the actual track, for 2 CPU cores: found in dreams by five rounds of `car_racing_dream_rounds.py`, then tuned on
EnvPool's tracks. This takes far less than the paper's search from scratch.

pip install -e ".[car,envpool]"
wm-jax run experiments/car_racing_tuned.py --reuse runs/car_racing_dream_rounds

Without --reuse the rounds are done here, too: 1 hour 35 minutes.

Score: 855.6 ± 138.0 (n = 100 fresh tracks of Gymnasium, standard error 13.8). C is the mean of generation 30 of its
tuning, chosen among six candidates by 32 validation tracks of EnvPool (868); one of the six is the controller that it
began from (649). Time, on one core of an AMD EPYC: 57 minutes of tuning; scoring 21 on one to two cores.
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig, TuneConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="car_racing_tuned",
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
        count=5,
        episodes=200,
        drivers="evaluated",
        # A car that has left the road for good shows nothing but grass, which most dreams would then begin on.
        patience=60,
        new_share=0.25,
    ),
    explorer=NoiseConfig(action_noise=0.1, random_stretches=0.003, stretch_length=15),
    # So small a step leaves most candidates able to drive: two whole drives each tell them apart, and who is lost is spared
    # the rest of the track.
    tune=TuneConfig(
        generations=50,
        search=CMAESConfig(population=32, rollouts=2, sigma=0.03),
        evaluate_every=10,
        actual_episodes=32,
        environments=32,
        backend="envpool",
        patience=60,
    ),
    evaluate=EvaluateConfig(episodes=100, environments=16),
)
