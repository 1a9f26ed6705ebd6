import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from wm_jax.actors.actor_critic import ActorCriticConfig
from wm_jax.actors.icem import ICEMConfig
from wm_jax.actors.mlp import MLPConfig
from wm_jax.actors.policy import PolicyConfig
from wm_jax.actors.protocol import ActorConfig
from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.explore.draws import DrawsConfig
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.tasks import load_task
from wm_jax.vision import VisionConfig
from wm_jax.worlds import World
from wm_jax.worlds.protocol import shapes
from wm_jax.worlds.vision_memory import VisionMemoryConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

WORLD = VisionMemoryConfig(
    vision=VisionConfig(latent_size=3, width=2), memory=MemoryConfig(hidden_size=4, predict_reward=True)
).build(load_task("swing_up"))
DREAM = Dream(WORLD, DreamConfig(reward="predicted"))


@pytest.mark.parametrize(
    "config",
    [PolicyConfig(hidden_sizes=(5,)), ActorCriticConfig(features=("z", "h"), hidden_sizes=(5,))],
    ids=["policy", "critic"],
)
def test_actions_are_drawn_from_the_policys_distribution(config: PolicyConfig) -> None:
    """As a rank test of two samples, and their spread, say; the same actor acts by the mode otherwise."""
    actor = config.build(DREAM)
    drawing = DrawsConfig().build(1).collector(actor)
    params = actor.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf - 0.3, params)
    state = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), shapes(WORLD)[2])
    keys = jax.random.split(jax.random.key(1), 4000)
    world = World(WORLD, {})
    found = np.asarray(jax.vmap(lambda key: drawing.act(params, world, state, None, key)[0])(keys))
    policy = actor.guide
    distribution = policy.distribution(actor.parts(params)[0], policy.inputs(world, state), 0.0)
    others = jax.random.split(jax.random.key(2), 4000)
    expected = np.asarray(jax.vmap(lambda key: distribution.action(distribution.draw(key)))(others))
    assert found.std() > 0.05
    assert scipy.stats.mannwhitneyu(found[:, 0], expected[:, 0]).pvalue > 1e-3
    np.testing.assert_allclose(found.std(), expected.std(), rtol=0.1)
    assert not np.allclose(found, actor.act(params, world, state, None, jax.random.key(3))[0])
    assert jax.tree.structure(drawing.init(jax.random.key(0))) == jax.tree.structure(params)


def test_a_policy_deployed_by_samples_acts_as_it_explores() -> None:
    """With the same key, the same action; the mode is another."""
    config = ActorCriticConfig(features=("z", "h"), hidden_sizes=(5,))
    mode, sampled = config.build(DREAM), dataclasses.replace(config, deployed="sample").build(DREAM)
    params = mode.init(jax.random.key(0))
    drawing = DrawsConfig().build(1).collector(mode)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes(WORLD)[2])
    drawn, deployed, usual = (
        actor.act(params, World(WORLD, {}), state, None, jax.random.key(1))[0] for actor in (drawing, sampled, mode)
    )
    np.testing.assert_array_equal(deployed, drawn)
    assert not np.allclose(usual, drawn)
    assert sampled.words.endswith(", sampled") and "sampled" not in mode.words
    with pytest.raises(UserError, match=r"actor\.deployed .*'both'"):
        ActorCriticConfig(deployed="both")  # type: ignore[arg-type]


def test_noise_leaves_the_actor_as_it_is() -> None:
    actor = MLPConfig().build(DREAM)
    assert NoiseConfig(action_noise=0.1).build(1).collector(actor) is actor


@pytest.mark.parametrize(
    "config",
    [MLPConfig(), ICEMConfig(), ICEMConfig(hidden_sizes=(4,), discount=0.99)],
    ids=["mlp", "planner", "guided"],
)
def test_what_has_no_distribution_of_its_own_is_refused(config: ActorConfig) -> None:
    with pytest.raises(UserError, match=r"needs a policy with its own standard deviation, .*set actor\.kind to"):
        DrawsConfig().build(1).collector(config.build(DREAM))
