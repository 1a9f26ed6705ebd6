"""Take Cover by planning with iCEM, a plan every fifth step, without a trained controller. V and M are those of
`results/take_cover/pieces.safetensors`, as for all controllers that `results/acting/README.md` compares.

wm-jax run experiments/acting/take_cover_icem.py

Score: 442.8 ± 227.8 tics (n = 100, standard error 22.8; in the dream 558.0 ± 79.5, n = 4; a blind sweep on the same
episodes 705.9 ± 387.4), 50 minutes on one core of an AMD EPYC (results/acting/README.md).
"""

from wm_jax.actors.icem import ICEMConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.none import NoSearchConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="take_cover_icem",
    task="take_cover",
    seed=11,
    initial="../../results/take_cover/pieces.safetensors",
    collect=CollectConfig(episodes=200, policy="wander", max_holds=(40, 80, 120, 160), min_length=101),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=64, steps=0),
        memory=MemoryConfig(hidden_size=256, predict_done=True, restart_input=True, steps=0),
    ),
    dream=DreamConfig(temperature=1.1, horizon=2100, start="first", end="drawn", reward="survival"),
    actor=ICEMConfig(horizon=10, hold=5),
    search=NoSearchConfig(),
    evolve=EvolveConfig(generations=1, evaluation_rollouts=4, actual_episodes=0),
    evaluate=EvaluateConfig(episodes=100, environments=16, baselines=("sweep",)),
)
