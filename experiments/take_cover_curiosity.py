"""Curiosity on Take Cover, small: two rounds in dreams; half of the second one's episodes are played by a controller
that seeks what M predicts badly. V is that of `take_cover_further.py`, so that M's likelihood means the same in every run.

wm-jax run experiments/take_cover_curiosity.py --seed 5

--explorer.kind noise --explorer.action-noise 0.5     without curiosity

Score over three training seeds (5, 6, 7; n = 50 each): 313 ± 117, without curiosity 247 ± 53, in 7 minutes each on 2 cores
of an AMD EPYC, two runs side by side: no difference beyond the spread of the seeds
(results/curiosity/README.md).
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
    name="take_cover_curiosity",
    task="take_cover",
    seed=5,
    initial="../results/take_cover/further.safetensors",
    initial_learners=("vision",),
    collect=CollectConfig(episodes=150, policy="wander", max_holds=(40, 80, 120, 160), min_length=101),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=64, kl_floor=1.5, motion_weight=10.0, steps=0, later_steps=0),
        memory=MemoryConfig(
            hidden_size=128,
            predict_done=True,
            predict_surprise=True,
            restart_input=True,
            batch_size=32,
            sequence_length=250,
            steps=400,
            later_steps=400,
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", clip=1.0),
        ),
    ),
    # At temperature 1 what is drawn has the entropy that M foresees.
    dream=DreamConfig(temperature=1.0, horizon=2100, start="first", end="drawn", reward="survival"),
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(64,)),
    search=PolicyGradientConfig(dreams=512),
    evolve=EvolveConfig(
        generations=120,
        evaluate_every=120,
        evaluation_rollouts=128,
        select="actual",
        actual_episodes=32,
    ),
    rounds=RoundsConfig(count=2, episodes=60, drivers="evaluated", new_share=0.25),
    explorer=CuriosityConfig(action_noise=0.5, reward="surprise", share=0.5, generations=60),
    evaluate=EvaluateConfig(episodes=50, environments=64, baselines=()),
)
