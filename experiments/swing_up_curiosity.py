"""Curiosity on swing-up (the paper's section 5): half of each later round's episodes are collected by a controller that
seeks what M predicts badly. V stays that of `swing_up.py`, so that M's likelihood means the same in every run.

wm-jax run experiments/swing_up_curiosity.py --seed 1

Score over three training seeds (1, 2, 3; n = 100 each): 845 ± 24, with C's collection alone 882 ± 15, by the random policy
668 ± 62: curiosity does not help here. 7 minutes each on 2 cores of an AMD EPYC, two runs side by side. Compared by
`python benchmarks/exploration.py` on runs of these (results/curiosity/README.md):

--explorer.reward excess_surprise        M's loss less its own entropy
--explorer.kind noise                    C and noise alone
--rounds.drivers scripted --rounds.episodes 96 --explorer.kind noise
                                         the random policy, whose episodes are shorter, in every round
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.explore.curiosity import CuriosityConfig
from wm_jax.memory import MemoryConfig
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="swing_up_curiosity",
    task="swing_up",
    seed=1,
    mirror=True,
    initial="swing_up",
    initial_learners=("vision",),
    collect=CollectConfig(episodes=120, policy="random"),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=16, width=16, kl_floor=1.0, motion_weight=10.0, steps=0, later_steps=0),
        memory=MemoryConfig(
            hidden_size=128,
            predict_reward=True,
            predict_done=True,
            predict_surprise=True,
            batch_size=32,
            sequence_length=50,
            steps=700,
            later_steps=700,
            # Ten times the usual rate: at 1e-3 M is far from done when its steps are over.
            optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", end="drawn", reward="predicted"),
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(64,)),
    search=PolicyGradientConfig(dreams=512, decisions=16, hold=1, length=150, noise=0.7, final_noise=0.15),
    evolve=EvolveConfig(
        generations=500,
        evaluate_every=100,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=16,
    ),
    rounds=RoundsConfig(count=4, episodes=40, drivers="evaluated", new_share=0.4, warm_start=True),
    explorer=CuriosityConfig(action_noise=0.3, reward="surprise", share=0.5, generations=200),
    evaluate=EvaluateConfig(episodes=100, environments=64, baselines=("random",), rounds=(0,)),
)
