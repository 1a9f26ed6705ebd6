import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.controller import Controller, PolicyConfig
from wm_jax.errors import UserError
from wm_jax.types import Features, MemoryState


@pytest.mark.parametrize(
    "config, sizes, count",
    [
        (PolicyConfig("zh"), (32, 256, 3), 867),
        (PolicyConfig("zhc", bias=False), (64, 512, 1), 1088),
        (PolicyConfig("z", hidden_size=40), (32, 256, 3), 1443),
        (PolicyConfig("z"), (32, 256, 3), 32 * 3 + 3),
    ],
)
def test_counts_are_the_papers(config, sizes, count):
    assert Controller(config, *sizes).size == count


def random_case(config, seed=0):
    """A controller with Z = 3, H = 4, A = 2, weights, and features that know everything."""
    generator = np.random.default_rng(seed)
    controller = Controller(config, 3, 4, 2)
    weights = generator.normal(size=controller.size)
    z, h, c = (generator.normal(size=size) for size in (3, 4, 4))
    return controller, weights, z, h, c


def act(controller, weights, z, h, c):
    features = Features(z=jnp.asarray(z), memory=MemoryState(h=jnp.asarray(h), c=jnp.asarray(c)))
    return controller(jnp.asarray(weights), features)


@pytest.mark.parametrize("features", ["z", "zh", "zhc"])
def test_a_linear_controller_is_tanh_of_an_affine_map(features):
    controller, weights, z, h, c = random_case(PolicyConfig(features))
    x = np.concatenate({"z": [z], "zh": [z, h], "zhc": [z, c, h]}[features])
    matrix, bias = weights[:-2].reshape(len(x), 2), weights[-2:]
    np.testing.assert_allclose(act(controller, weights, z, h, c), np.tanh(x @ matrix + bias), atol=1e-6)


def test_a_hidden_layer_is_a_second_tanh():
    controller, weights, z, h, c = random_case(PolicyConfig("z", hidden_size=5))
    first, first_bias = weights[:15].reshape(3, 5), weights[15:20]
    second, second_bias = weights[20:30].reshape(5, 2), weights[30:]
    expected = np.tanh(np.tanh(z @ first + first_bias) @ second + second_bias)
    np.testing.assert_allclose(act(controller, weights, z, h, c), expected, atol=1e-6)


def test_without_biases_nothing_seen_means_nothing_done():
    controller, weights, z, h, c = random_case(PolicyConfig("zhc", hidden_size=5, bias=False))
    assert (act(controller, weights, 0 * z, 0 * h, 0 * c) == 0).all()
    assert (act(controller, weights, z, h, c) != 0).all()


def test_a_population_is_an_axis_of_vmap():
    controller, _, z, h, c = random_case(PolicyConfig("zhc"))
    population = jax.random.normal(jax.random.key(0), (6, controller.size))
    actions = jax.vmap(lambda weights: act(controller, weights, z, h, c))(population)
    assert actions.shape == (6, 2)
    np.testing.assert_allclose(actions[4], act(controller, population[4], z, h, c), atol=1e-6)


def test_controllers_are_hashable_recipes():
    assert hash(Controller(PolicyConfig(), 3, 4, 2)) == hash(Controller(PolicyConfig(), 3, 4, 2))


@pytest.mark.parametrize("setting", [{"features": "hz"}, {"hidden_size": -1}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=rf"controller\.{next(iter(setting))}"):
        PolicyConfig(**setting)
