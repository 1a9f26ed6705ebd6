"""Take Cover by PPO in the dream: the actor of Kuth et al. (2021). V and M are those of
`results/take_cover/pieces.safetensors`, as for all controllers that `results/acting/README.md` compares.

wm-jax run experiments/acting/take_cover_ppo.py

Scores: results/acting/README.md.
"""

from wm_jax.actors.policy import PolicyConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.ppo import PPOConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="take_cover_ppo",
    task="take_cover",
    seed=11,
    initial="../../results/take_cover/pieces.safetensors",
    collect=CollectConfig(episodes=200, policy="wander", max_holds=(40, 80, 120, 160), min_length=101),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=64, steps=0),
        memory=MemoryConfig(hidden_size=256, predict_done=True, restart_input=True, steps=0),
    ),
    dream=DreamConfig(temperature=1.1, horizon=2100, start="first", end="drawn", reward="survival"),
    actor=PolicyConfig(features=("z", "h")),
    search=PPOConfig(dreams=512, decisions=16, hold=2, length=200),
    evolve=EvolveConfig(
        generations=150,
        evaluate_every=50,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=32,
        seeds=3,
    ),
    evaluate=EvaluateConfig(episodes=34, environments=16, baselines=("sweep",)),
)
