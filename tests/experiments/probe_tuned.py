"""The probe, whose policy is tuned by PPO in the actual environment."""

from dataclasses import replace
from pathlib import Path

from wm_jax.actors.policy import PolicyConfig
from wm_jax.experiment import load
from wm_jax.search.config import TuneConfig
from wm_jax.search.ppo import PPOConfig

CONFIG = replace(
    load(Path(__file__).parent / "probe.py"),
    actor=PolicyConfig(features=("z", "h"), hidden_sizes=(4,)),
    tune=TuneConfig(search=PPOConfig(dreams=3, batches=2), generations=1, actual_episodes=2, environments=2),
)
