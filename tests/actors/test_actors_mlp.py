import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dream_probe import Line, Point, vision_memory

from wm_jax.actors import ACTORS
from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLP, Layer, MLPConfig
from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.memory import MemoryConfig
from wm_jax.worlds import World

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = {"z": 3, "h": 3, "c": 2}
LINE = Line(latent_size=3, actions=2)
DREAM = Dream(LINE, DreamConfig())


def new_key():
    return jax.random.key(0)


def of_the_papers_size(config, latent_size, hidden_size, action_size):
    model = vision_memory(MemoryConfig(hidden_size=hidden_size), latent_size, action_size)
    return config.build(Dream(model, DreamConfig()))


@pytest.mark.parametrize(
    "config, sizes, count",
    [
        (MLPConfig(), (32, 256, 3), 867),
        (MLPConfig(features=("z", "c", "h"), bias=False), (64, 512, 1), 1088),
        (MLPConfig(features=("z",), hidden_sizes=(40,)), (32, 256, 3), 1443),
        (MLPConfig(features=("z",)), (32, 256, 3), 32 * 3 + 3),
    ],
)
def test_counts_are_the_papers(config, sizes, count):
    assert actors.size(of_the_papers_size(config, *sizes)) == count


def random_case(seed=0, **settings):
    """An actor of the line, weights, and a state that knows everything."""
    generator = np.random.default_rng(seed)
    actor = MLPConfig(**settings).build(DREAM)
    weights = generator.normal(size=actors.size(actor))
    z, h, c = (generator.normal(size=size) for size in SIZES.values())
    return actor, weights, z, h, c


def act(actor, weights, z, h, c):
    """What an actor does whose weights are one array."""
    params = actors.unflat(actors.shapes(actor), jnp.asarray(weights))
    state = Point(jnp.asarray(z), jnp.asarray(h), jnp.asarray(c), jnp.int32(0))
    action, carry = actor.act(params, World(LINE, {}), state, actor.begin(), new_key())
    assert carry is None
    return action


@pytest.mark.parametrize("features", [("z",), ("z", "h"), ("h", "z"), ("z", "c", "h")])
def test_a_linear_controller_is_tanh_of_an_affine_map(features):
    """Of what it reads, in the order in which the settings name it."""
    actor, weights, z, h, c = random_case(features=features)
    x = np.concatenate([{"z": z, "h": h, "c": c}[name] for name in features])
    matrix, bias = weights[:-2].reshape(len(x), 2), weights[-2:]
    np.testing.assert_allclose(act(actor, weights, z, h, c), np.tanh(x @ matrix + bias), atol=1e-6)


def test_a_hidden_layer_is_a_second_tanh():
    actor, weights, z, h, c = random_case(features=("z",), hidden_sizes=(5,))
    first, first_bias = weights[:15].reshape(3, 5), weights[15:20]
    second, second_bias = weights[20:30].reshape(5, 2), weights[30:]
    expected = np.tanh(np.tanh(z @ first + first_bias) @ second + second_bias)
    np.testing.assert_allclose(act(actor, weights, z, h, c), expected, atol=1e-6)


def test_hidden_layers_may_be_many():
    actor, weights, z, h, c = random_case(features=("z",), hidden_sizes=(5, 4), bias=False)
    first, second, third = (part.reshape(shape) for part, shape in zip(
        np.split(weights, [15, 35]), ((3, 5), (5, 4), (4, 2)), strict=True))  # fmt: skip
    expected = np.tanh(np.tanh(np.tanh(z @ first) @ second) @ third)
    np.testing.assert_allclose(act(actor, weights, z, h, c), expected, atol=1e-6)


def test_without_biases_nothing_seen_means_nothing_done():
    actor, weights, z, h, c = random_case(features=("z", "h", "c"), hidden_sizes=(5,), bias=False)
    assert (act(actor, weights, 0 * z, 0 * h, 0 * c) == 0).all()
    assert (act(actor, weights, z, h, c) != 0).all()


def test_a_population_is_an_axis_of_vmap():
    actor, _, z, h, c = random_case(features=("z", "h", "c"))
    population = jax.random.normal(jax.random.key(0), (6, actors.size(actor)), jnp.float32)
    actions = jax.vmap(lambda weights: act(actor, weights, z, h, c))(population)
    assert actions.shape == (6, 2)
    np.testing.assert_allclose(actions[4], act(actor, population[4], z, h, c), atol=1e-6)


def test_weights_as_one_array_are_layer_by_layer_the_kernel_row_by_row_then_the_bias():
    """As bundles and run folders of the first format have them."""
    actor = MLP(("z",), (3, 2, 1))
    layers = (
        Layer(jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], jnp.float32), jnp.array([6.0, 7.0], jnp.float32)),
        Layer(jnp.array([[8.0], [9.0]], jnp.float32), jnp.array([10.0], jnp.float32)),
    )
    np.testing.assert_array_equal(actors.flat(layers), np.arange(11))
    for numbers in (np, jnp):
        found = actors.unflat(actors.shapes(actor), numbers.arange(11.0))
        assert jax.tree.structure(found) == jax.tree.structure(layers)
        jax.tree.map(np.testing.assert_array_equal, found, layers)
        assert all(isinstance(leaf, np.ndarray if numbers is np else jax.Array) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("axes", [0, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_there_and_back_are_the_same_weights(bias, axes):
    actor = MLP(("z",), (3, 4, 2), bias)
    shape = (5, 2)[:axes]
    weights = jax.random.normal(new_key(), (*shape, actors.size(actor)), jnp.float32)
    params = actors.unflat(actors.shapes(actor), weights)
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [
        (*shape, *leaf.shape) for leaf in jax.tree.leaves(actor.init(new_key()))
    ]
    np.testing.assert_array_equal(actors.flat(params, axes), weights)
    assert bias == (params[0].bias is not None)


def test_fresh_weights_have_the_deviation_of_their_inputs_and_the_last_layers_are_small():
    layers = MLP(("z",), (400, 300, 200)).init(new_key())
    for layer, deviation in zip(layers, (1 / 20, 0.01 / 300**0.5), strict=True):
        count = layer.kernel.size
        np.testing.assert_allclose(layer.kernel.std(), deviation, rtol=4 / (2 * count) ** 0.5)
        np.testing.assert_allclose(layer.kernel.mean(), 0, atol=4 * deviation / count**0.5)
        assert not layer.bias.any()


def test_controllers_are_hashable_recipes():
    config = MLPConfig(hidden_sizes=(4,))
    assert hash(config.build(DREAM)) == hash(config.build(DREAM)) and config.build(DREAM) == config.build(DREAM)
    assert ACTORS["mlp"] is MLPConfig


def test_its_words_say_what_it_reads_and_how_it_is_made():
    assert MLPConfig().build(DREAM).words == "z h, linear"
    wired = MLPConfig(features=("c", "z"), hidden_sizes=(40, 8), bias=False).build(DREAM)
    assert wired.words == "c z, hidden layers of 40, 8, no bias"


@pytest.mark.parametrize("setting", [{"features": ()}, {"hidden_sizes": (3, 0)}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=rf"actor\.{next(iter(setting))}"):
        MLPConfig(**setting)


def test_a_feature_that_the_world_model_does_not_have_is_refused_with_those_that_it_has():
    with pytest.raises(UserError, match=r"actor\.features must be one of c, h, z, found 'zh'; did you mean"):
        MLPConfig(features=("zh",)).build(DREAM)
