"""With JAX's 64-bit types switched on, all is as without: float32 and int32 are said where arrays are made."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import recordings, vision_memory

import wm_jax
from wm_jax.actors.actor_critic import ActorCriticConfig
from wm_jax.actors.mlp import MLPConfig
from wm_jax.actors.policy import PolicyConfig
from wm_jax.dream import Dream, DreamConfig, start_states
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.memory import train as memory_train
from wm_jax.memory.evaluation import evaluate
from wm_jax.optimizers import OptimizerConfig
from wm_jax.rollouts.agent import Agent, AgentBatch, driver_of
from wm_jax.rssm import RSSM, RSSMConfig
from wm_jax.rssm import train as rssm_train
from wm_jax.rssm.model import Latents
from wm_jax.search import Dreams
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.dreamer import DreamerConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.search.ppo import PPOConfig
from wm_jax.search.protocol import SearchConfig
from wm_jax.vision import Vision, VisionConfig
from wm_jax.vision import train as vision_train
from wm_jax.worlds import Actor

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

BUNDLE = Path(__file__).parents[2] / "wm_jax" / "pretrained" / "take_cover.safetensors"
MEMORY = MemoryConfig(
    hidden_size=8, mixtures=3, predict_reward=True, reward_loss="poisson", predict_done=True, restart_input=True,
    batch_size=2, sequence_length=8, optimizer=OptimizerConfig(schedule="cosine", clip=1.0),
)  # fmt: skip
WORLD = vision_memory(MEMORY, 4, 2, reward_range=(-0.5, 8.0))
RECORDED = recordings((180, 12), 4, 2)
DREAM = Dream(WORLD, DreamConfig(horizon=40, end="drawn", reward="predicted", start="anywhere", full_return=30.0))
ACTOR = MLPConfig(features=("z", "h"), hidden_sizes=(3,)).build(DREAM)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
FIRST, GENERATIONS = 3, 2


def key():
    return jax.random.key(1)


def pretrained():
    """What a bundle dreams."""
    agent = wm_jax.load(BUNDLE)
    return agent.weights, agent.recorded, agent.dream_returns(4)


def searched(config: SearchConfig, actor: Actor = ACTOR):
    """A search after some generations in dreams, and the states that these start in."""
    params = WORLD.init(key())
    starts, search = start_states(DREAM, params, RECORDED, key()), config.build(actor, DREAM, 10)
    state = search.init(key(), None, starts)
    return starts, search.iterate(state, Dreams(params, starts, jnp.float32(1.1)), FIRST, key(), GENERATIONS)


def vision_trained():
    """V after two steps."""
    model = Vision(VisionConfig(latent_size=3, width=1, optimizer=OptimizerConfig(schedule="exponential")))
    state, metrics = vision_train.init(model, key()), None
    for _ in range(2):
        state, metrics = vision_train.train_step(model, state, FRAMES, key())
    return state, metrics


def memory_trained():
    """M after two steps, and what its report says."""
    memory, start, length = WORLD.memory, np.asarray(RECORDED.start), np.asarray(RECORDED.length)
    state, metrics = memory_train.init(memory, key()), None
    chunks = memory_train.chunks_from(start, length, 2, 8, 0, 0)
    for _ in range(2):
        state, metrics = memory_train.train_step(memory, state, RECORDED, next(chunks), key())
    return state, metrics, evaluate(memory, state.params, RECORDED, key())


def rssm_trained():
    """The RSSM after two steps, and what its report says."""
    settings = RSSMConfig(
        deterministic_size=8, variables=2, classes=3, hidden_size=4, head_size=4, blocks=2, predict_end=True
    )
    model = RSSM(settings, Latents(4), 2, (-0.5, 8.0))
    state, metrics = rssm_train.continue_from(model, model.init(key())), None
    positions = np.arange(20, dtype=np.int32).reshape(2, 10)
    for _ in range(2):
        state, metrics = rssm_train.train_step(model, state, RECORDED, positions, key())
    return state, metrics, rssm_train.evaluate(model, state.params, RECORDED, positions, key())


def acted():
    """An agent's state and what it does, with noise on it."""
    agent = Agent(WORLD, ACTOR, NoiseConfig(action_noise=0.1, random_stretches=0.5).build(2))
    batch = AgentBatch(driver_of(agent, WORLD.init(key()), ACTOR.init(key())), 3)
    batch.begin({0: (5, 0), 2: (2**32 - 1, 0)})
    return [batch(FRAMES) for _ in range(3)], batch.state


WORKS = {
    "bundle": pretrained,
    "CMA-ES": partial(searched, CMAESConfig(population=4, rollouts=2)),
    "policy gradient": partial(searched, PolicyGradientConfig(dreams=4, decisions=4, hold=3)),
    "PPO": partial(
        searched, PPOConfig(dreams=4, decisions=4, hold=3, batches=2), PolicyConfig(hidden_sizes=(3,)).build(DREAM)
    ),
    "Dreamer": partial(
        searched,
        DreamerConfig(dreams=4, horizon=5),
        ActorCriticConfig(features=("z", "h"), hidden_sizes=(3,)).build(DREAM),
    ),
    "V": vision_trained,
    "M": memory_trained,
    "RSSM": rssm_trained,
    "agent": acted,
}


@pytest.mark.parametrize("name", WORKS)
def test_64_bit_types_change_no_type_and_no_bit(name):
    """XLA, taking less care, orders the sums in the RSSM's gradient anew: there the bits are left out."""
    work, results = WORKS[name], []
    for wide in (False, True):
        with jax.enable_x64(wide):
            results.append(work())
    narrow, found = (jax.tree_util.tree_leaves_with_path(result) for result in results)
    assert len(narrow) == len(found) > 0
    for (path, expected), (_, leaf) in zip(narrow, found, strict=True):
        where = jax.tree_util.keystr(path)
        if isinstance(expected, float | int):
            assert leaf == expected, where
            continue
        assert (leaf.dtype, leaf.shape) == (expected.dtype, expected.shape) and leaf.dtype.itemsize <= 4, where
        if name == "RSSM":
            np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-6, err_msg=where)
        else:
            assert np.asarray(leaf).tobytes() == np.asarray(expected).tobytes(), where
