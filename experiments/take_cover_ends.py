"""Take Cover: compares rules that end a dream, and ways to learn from the probability of an end, on one V and one M.

wm-jax run experiments/take_cover_ends.py
wm-jax run experiments/take_cover_ends.py --search.learn-from ends --run-dir runs/take_cover_ends_sampled
wm-jax run experiments/take_cover_ends.py --dream.end threshold --run-dir runs/take_cover_ends_threshold

V and M are those of `results/take_cover/pieces.safetensors`. Each command searches for three controllers, with the
search and the dreams of `take_cover_gradient.py`, and 400 generations. At a threshold the probability of an end is 0 or 1,
so that `search.learn_from` has no effect.

Scores, mean ± standard deviation over the three searches (n = 300 fresh episodes each): 1069.7 ± 82.8, 996.9 ± 5.7 and
1019.6 ± 13.9, in the order of the commands (`results/take_cover/README.md`). Time of a command on 2 cores of an AMD EPYC:
about 17 minutes for the searches, on one core, and 11 for scoring.
"""

from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import DreamConfig
from wm_jax.experiment import Experiment
from wm_jax.memory import MemoryConfig
from wm_jax.rollouts import CollectConfig, EvaluateConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

CONFIG = Experiment(
    name="take_cover_ends",
    task="take_cover",
    seed=11,
    initial="../results/take_cover/pieces.safetensors",
    # Where dreams begin; V and M are not trained.
    collect=CollectConfig(episodes=200, policy="wander", max_holds=(40, 80, 120, 160), min_length=101),
    world=VisionMemoryConfig(
        vision=VisionConfig(latent_size=64, steps=0),
        memory=MemoryConfig(hidden_size=256, predict_done=True, restart_input=True, steps=0),
    ),
    dream=DreamConfig(temperature=1.1, horizon=2100, start="first", end="drawn", reward="survival"),
    actor=MLPConfig(features=("z", "h"), hidden_sizes=(256,)),
    search=PolicyGradientConfig(),
    evolve=EvolveConfig(
        generations=400,
        evaluate_every=200,
        evaluation_rollouts=256,
        select="actual",
        actual_episodes=32,
        seeds=3,
    ),
    evaluate=EvaluateConfig(episodes=300, environments=64, baselines=("sweep",)),
)
