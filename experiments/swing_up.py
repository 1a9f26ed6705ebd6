"""Cart-pole swing-up from pixels, round by round (the paper's section 5): collect with the C of the round before, train V
and M on, search for C in the new dream.

wm-jax run experiments/swing_up.py

Score: 910.4 ± 2.7 over three training seeds (910.2, 907.8, 913.1; n = 100 each; random policy 42.4 ± 55.1; 920.1 ± 12.1
from the physical state, `swing_up_state.py`), the pole upright in 87 % of the steps, in 13 to 23 minutes on 2 cores of
an AMD EPYC, beside other runs (results/swing_up/README.md).
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
    name="swing_up",
    task="swing_up",
    mirror=True,
    collect=CollectConfig(episodes=160, policy="random"),
    world=VisionMemoryConfig(
        # The pole is thin and all that matters: what moves weighs more.
        vision=VisionConfig(
            latent_size=16,
            width=16,
            # Half a nat for each of 16 numbers would leave 6 degrees of the angle open.
            kl_floor=1.0,
            motion_weight=10.0,
            # V sees no pole for the first 1,500 steps, whatever the batch: small ones cost less. Without the warm-up one of
            # six trainings never saw any.
            batch_size=8,
            steps=6000,
            later_steps=2000,
            optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warm_up=500),
        ),
        memory=MemoryConfig(
            hidden_size=128,
            predict_reward=True,
            predict_done=True,
            batch_size=32,
            sequence_length=50,
            steps=1200,
            later_steps=1000,
            # Ten times the usual rate: at 1e-3 M is far from done when its steps are over.
            optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", clip=1.0),
        ),
    ),
    dream=DreamConfig(temperature=1.0, horizon=250, start="anywhere", end="drawn", reward="predicted"),
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(64,)),
    search=PolicyGradientConfig(dreams=512, decisions=16, hold=1, length=150, noise=0.7, final_noise=0.15),
    evolve=EvolveConfig(
        generations=700,
        evaluate_every=100,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=32,
    ),
    rounds=RoundsConfig(count=6, episodes=60, drivers="evaluated", new_share=0.4, warm_start=True),
    explorer=NoiseConfig(action_noise=0.3),
    evaluate=EvaluateConfig(episodes=100, environments=64, baselines=("random", "held"), rounds=(0,)),
)
