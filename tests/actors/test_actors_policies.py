import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from dream_probe import Line, Point, vision_memory
from scipy.integrate import quad

from wm_jax.actors import protocol as actors
from wm_jax.actors.convolutional import FILTERS, UNITS, ConvolutionalConfig, Pyramid, convolution
from wm_jax.actors.distributions import NARROWEST, Beta, BoundedNormal, Categorical, SquashedNormal
from wm_jax.actors.mlp import MLP, Layer
from wm_jax.actors.policy import Head, PolicyConfig
from wm_jax.actors.protocol import ExploringActor
from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.memory import MemoryConfig
from wm_jax.worlds import World
from wm_jax.worlds.pixels import Pixels
from wm_jax.worlds.protocol import feature_sizes

pytestmark = pytest.mark.usefixtures("quick_compilation")

ACTIONS = ((-1.0, 0.5), (0.25, 0.0), (1.0, -1.0))
LINE = Line(latent_size=3, actions=2)


def new_key(number=0):
    return jax.random.key(number)


def single(array):
    return jnp.asarray(np.asarray(array, np.float32))


def on_the_line(generator):
    """A state that knows everything."""
    z, h, c = (single(generator.normal(size=size)) for size in (3, 3, 2))
    return Point(z, h, c, jnp.int32(0))


# Sizes


def test_the_policys_weights_are_as_many_as_those_of_kuth_et_al():
    model = vision_memory(MemoryConfig(hidden_size=256), 32, 3)
    assert actors.size(PolicyConfig().build(Dream(model, DreamConfig()))) == 181_318


def test_the_convolutional_actors_are_too_and_its_critic_has_one_output():
    actor = ConvolutionalConfig().build(Dream(Pixels(1, 3), DreamConfig()))
    assert (actors.size(actor), actors.size(actor.critic)) == (644_646, 642_641)


# Distributions


NORMAL = SquashedNormal(single([[0.3, -1.2]]), single([[0.5, 1.5]]))
BETA = Beta(single([[2.0, 1.5]]), single([[3.0, 4.0]]))
CATEGORICAL = Categorical(single([[0.3, -0.4, 1.0]]), single(ACTIONS))
PROBABILITIES = np.exp([0.3, -0.4, 1.0]) / np.exp([0.3, -0.4, 1.0]).sum()


def test_log_likelihoods_are_those_of_scipy():
    likelihood = jax.jit(lambda distribution, drawn: distribution.log_likelihood(drawn))
    for drawn in ([0.1, 2.0], [-3.0, 0.7]):
        expected = scipy.stats.norm.logpdf(drawn, NORMAL.center, NORMAL.deviation).sum(axis=1)
        np.testing.assert_allclose(likelihood(NORMAL, single([drawn])), expected, rtol=1e-5)
    for drawn in ([0.1, 0.8], [0.5, 1e-4]):
        expected = scipy.stats.beta.logpdf(drawn, BETA.alpha, BETA.beta).sum(axis=1)
        np.testing.assert_allclose(likelihood(BETA, single([drawn])), expected, rtol=1e-5)
    for number in range(3):
        expected = np.log(PROBABILITIES[[number]])
        np.testing.assert_allclose(likelihood(CATEGORICAL, single([[number]])), expected, rtol=1e-5)


def test_a_bounded_normal_is_one_of_which_the_action_is_clipped():
    bounded = BoundedNormal(single([[0.3, -0.9]]), single([[0.5, 0.2]]))
    drawn = single([[1.7, -0.4]])
    expected = scipy.stats.norm.logpdf(drawn, bounded.center, bounded.deviation).sum(axis=1)
    np.testing.assert_allclose(bounded.log_likelihood(drawn), expected, rtol=1e-5)
    of_x = scipy.stats.norm.entropy(bounded.center, bounded.deviation).sum(axis=1)
    np.testing.assert_allclose(bounded.entropy(drawn), of_x, rtol=1e-5)
    np.testing.assert_array_equal(bounded.action(drawn), single([[1.0, -0.4]]))
    np.testing.assert_array_equal(bounded.mode(), bounded.center)
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (10_000, 2)), bounded).draw(new_key())
    for number in range(2):
        law = scipy.stats.norm(*(float(each[0, number]) for each in (bounded.center, bounded.deviation)))
        assert scipy.stats.kstest(np.asarray(many)[:, number], law.cdf).pvalue > 1e-3


def test_the_entropy_of_beta_is_that_of_the_action_but_for_a_constant():
    """An action is twice as wide as x: log 2 for each of its numbers."""
    of_x = scipy.stats.beta.entropy(np.float64(BETA.alpha), np.float64(BETA.beta)).sum(axis=1)
    np.testing.assert_allclose(jax.jit(BETA.entropy)(single([[0.5, 0.5]])), of_x, rtol=1e-5, atol=1e-5)


def test_the_entropy_of_categorical_is_exact():
    expected = -(PROBABILITIES * np.log(PROBABILITIES)).sum()
    np.testing.assert_allclose(CATEGORICAL.entropy(single([[0.0]])), [expected], rtol=1e-5)


def entropy_of_tanh(center, deviation):
    """By integration over the action."""

    def integrand(action):
        x = np.arctanh(action)
        log = scipy.stats.norm.logpdf(x, center, deviation) - np.log1p(-(action**2))
        return -np.exp(log) * log

    return quad(integrand, -1 + 1e-9, 1 - 1e-9, limit=200)[0]


def test_the_entropy_of_squashed_normal_and_its_gradient_are_right_on_average():
    center, deviation, count, small = 0.7, 0.5, 40_000, 1e-3

    @jax.jit
    def estimates(key):
        centers, deviations = (jnp.full((count, 1), value, jnp.float32) for value in (center, deviation))
        drawn = SquashedNormal(centers, deviations).draw(key)
        entropy, pull = jax.vjp(lambda *parameters: SquashedNormal(*parameters).entropy(drawn), centers, deviations)
        return entropy, *(slope[:, 0] for slope in pull(jnp.ones(count, jnp.float32)))

    expected = (
        entropy_of_tanh(center, deviation),
        (entropy_of_tanh(center + small, deviation) - entropy_of_tanh(center - small, deviation)) / (2 * small),
        (entropy_of_tanh(center, deviation + small) - entropy_of_tanh(center, deviation - small)) / (2 * small),
    )
    for found, value in zip(np.asarray(estimates(new_key()), np.float64), expected, strict=True):
        np.testing.assert_allclose(found.mean(), value, atol=4 * found.std() / count**0.5)


def test_the_entropy_of_squashed_normal_is_finite_where_its_actions_round_to_1():
    certain = SquashedNormal(single([[30.0]]), single([[0.1]]))
    np.testing.assert_allclose(
        certain.entropy(single([[30.0]])), [np.log(0.1) + 1.418939 + 2 * np.log(2) - 60], rtol=1e-5
    )


def test_modes_are_where_the_density_is_highest():
    np.testing.assert_allclose(NORMAL.mode(), np.tanh([[0.3, -1.2]]), rtol=1e-5)
    places = np.linspace(0, 1, 20_001)[:, None]
    densest = places[scipy.stats.beta.pdf(places, BETA.alpha, BETA.beta).argmax(axis=0), 0]
    np.testing.assert_allclose(BETA.mode()[0], 2 * densest - 1, atol=2e-4)
    np.testing.assert_array_equal(CATEGORICAL.mode(), [ACTIONS[2]])


def test_draws_follow_their_distribution_and_actions_are_between_their_bounds():
    count = 10_000

    @jax.jit
    def draws():
        many = (
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, 2)), NORMAL),
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, 2)), BETA),
            Categorical(jnp.broadcast_to(CATEGORICAL.logits, (count, 3)), CATEGORICAL.actions),
        )
        drawn = [each.draw(new_key(number)) for number, each in enumerate(many)]
        return [(x, each.action(x)) for x, each in zip(drawn, many, strict=True)]

    normal, beta, categorical = draws()
    laws = (
        *(scipy.stats.norm(center, deviation) for center, deviation in ((0.3, 0.5), (-1.2, 1.5))),
        *(scipy.stats.beta(alpha, beta) for alpha, beta in ((2.0, 3.0), (1.5, 4.0))),
    )
    for number, law in enumerate(laws):
        drawn, action = (np.asarray(array)[:, number % 2] for array in (normal, beta)[number // 2])
        assert np.abs(action).max() <= 1
        np.testing.assert_allclose(drawn.mean(), law.mean(), atol=4 * law.std() / count**0.5)
        assert scipy.stats.kstest(drawn, law.cdf).pvalue > 1e-3
    np.testing.assert_allclose(normal[1], np.tanh(normal[0]), atol=1e-5)
    np.testing.assert_allclose(beta[1], 2 * np.asarray(beta[0]) - 1, atol=1e-6)
    number, action = (np.asarray(array) for array in categorical)
    assert number.shape == (count, 1)
    shares = (number == np.arange(3)).mean(axis=0)
    np.testing.assert_allclose(shares, PROBABILITIES, atol=4 * (0.25 / count) ** 0.5)
    np.testing.assert_array_equal(action, np.asarray(ACTIONS, np.float32)[number[:, 0].astype(int)])


# The policy of features


def test_what_a_network_puts_out_are_the_parameters_of_a_distribution():
    outputs = single([[0.5, -0.2, 3.0, -200.0]])
    normal, beta = (Head(kind, 2, ())(outputs) for kind in ("gaussian", "beta"))
    assert isinstance(normal, SquashedNormal) and isinstance(beta, Beta)
    np.testing.assert_array_equal(normal.center, outputs[:, :2])
    np.testing.assert_allclose(normal.deviation, NARROWEST + np.log1p(np.exp([[3.0, -200.0]])), rtol=1e-5)
    np.testing.assert_allclose(beta.alpha, 1.001 + np.log1p(np.exp([[0.5, -0.2]])), rtol=1e-5)
    np.testing.assert_allclose(beta.beta, 1.001 + np.log1p(np.exp([[3.0, -200.0]])), rtol=1e-5)
    # In float32, 1 + softplus(-20) is 1: without the margin there would be no mode.
    np.testing.assert_allclose(Head("beta", 1, ())(single([[-20.0, -20.0]])).mode(), 0, atol=1e-3)
    bounded = Head("bounded_normal", 2, ())(outputs)
    assert isinstance(bounded, BoundedNormal)
    np.testing.assert_allclose(bounded.center, np.tanh([[0.5, -0.2]]), rtol=1e-5)
    np.testing.assert_allclose(bounded.deviation, [[0.1 + 0.9 / (1 + np.exp(-5)), 0.1]], rtol=1e-5)
    choice = Head("categorical", 2, ACTIONS)(outputs[:, :3])
    assert isinstance(choice, Categorical)
    np.testing.assert_array_equal(choice.logits, outputs[:, :3])
    np.testing.assert_array_equal(choice.actions, ACTIONS)


@pytest.mark.parametrize(
    "kind, outputs, drawn", [("gaussian", 4, 2), ("bounded_normal", 4, 2), ("beta", 4, 2), ("categorical", 3, 1)]
)
def test_a_policy_acts_by_the_mode_of_what_its_network_says(kind, outputs, drawn):
    config = PolicyConfig(features=("h", "z"), hidden_sizes=(5,), distribution=kind)
    actor = config.build(Dream(LINE, DreamConfig(), ACTIONS))
    assert (actor.network.sizes, actor.drawn_size) == ((6, 5, outputs), drawn)
    generator = np.random.default_rng(0)
    params = actors.unflat(actors.shapes(actor), np.float32(generator.normal(size=actors.size(actor))))
    state = on_the_line(generator)
    action, carry = jax.jit(actor.act)(params, World(LINE, {}), state, None, new_key())
    first, last = params
    x = np.tanh(np.concatenate([state.h, state.z]) @ first.kernel + first.bias) @ last.kernel + last.bias
    np.testing.assert_allclose(action, actor.head(single(x)).mode(), rtol=1e-4, atol=1e-5)
    assert carry is None


def test_a_policy_is_its_own_guide_and_leaves_its_critic_behind():
    actor = PolicyConfig(features=("z",), hidden_sizes=(5,)).build(Dream(LINE, DreamConfig()))
    assert actor.guide is actor and actor.critic == MLP(("z",), (3, 5, 1))
    policy, critic = actors.shapes(actor), actors.shapes(actor.critic)
    assert actor.assemble(policy, critic) == policy and actor.parts(policy) == (policy, None)
    weights = (
        Layer(single(np.full((3, 5), 0.1)), single(np.zeros(5))),
        Layer(single(np.ones((5, 1))), single([1.0])),
    )
    np.testing.assert_allclose(actor.value(weights, single([[1.0, 2.0, 3.0]])), [5 * np.tanh(0.6) + 1], rtol=1e-5)


@pytest.mark.parametrize("setting", [{"features": ()}, {"hidden_sizes": (3, 0)}, {"distribution": "normal"}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=rf"actor\.{next(iter(setting))}"):
        PolicyConfig(**setting)


def test_what_the_world_model_does_not_show_is_refused():
    with pytest.raises(UserError, match=r"actor\.features must be one of c, h, z, found 'zh'; did you mean"):
        PolicyConfig(features=("zh",)).build(Dream(LINE, DreamConfig()))


@pytest.mark.parametrize("config, model", [(PolicyConfig, LINE), (ConvolutionalConfig, Pixels(1, 2))])
def test_a_choice_needs_actions_to_choose_from(config, model):
    with pytest.raises(
        UserError, match="'categorical' but the task names no discrete actions; give its Task `actions`"
    ):
        config(distribution="categorical").build(Dream(model, DreamConfig()))


# The policy of pixels


@pytest.mark.parametrize("side, channels, layer", [(64, 1, 0), (15, 32, 1), (6, 64, 2)])
def test_a_convolution_is_xlas_in_value_and_in_both_gradients(side, channels, layer):
    number, size, stride = FILTERS[layer]
    generator = np.random.default_rng(0)
    x = single(generator.normal(size=(2, side, side, channels)))
    kernel = single(generator.normal(size=(size, size, channels, number)) / size)
    after = (side - size) // stride + 1
    cotangent = single(generator.normal(size=(2, after, after, number)))

    def theirs(x, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=names)

    @jax.jit
    def both(x, kernel, cotangent):
        results = []
        for function in (lambda x, kernel: convolution(x, kernel, stride), theirs):
            value, pull = jax.vjp(function, x, kernel)
            results.append((value, *pull(cotangent)))
        return results

    for found, expected in zip(*both(x, kernel, cotangent), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_the_network_is_three_convolutions_and_three_layers_with_relu_between():
    generator = np.random.default_rng(0)
    network = Pyramid(2, 5)
    assert [shape[-1] for shape in network.shapes] == [*(number for number, _, _ in FILTERS), *UNITS, 5]
    params = tuple(
        Layer(single(generator.normal(size=shape) / np.prod(shape[:-1]) ** 0.5), single(np.full(shape[-1], 0.1)))
        for shape in network.shapes
    )
    pictures = single(generator.uniform(size=(3, 64 * 64 * 2)))

    @jax.jit
    def written_out(params, pictures):
        x = pictures.reshape(3, 64, 64, 2)
        for layer, (_, _, stride) in zip(params[:3], FILTERS, strict=True):
            names = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, layer.kernel, (stride, stride), "VALID", dimension_numbers=names)
            x = jax.nn.relu(x + 0.1)
        x = x.reshape(3, -1)
        for layer in params[3:5]:
            x = jax.nn.relu(x @ layer.kernel + 0.1)
        return x @ params[5].kernel + 0.1

    found = jax.jit(network.outputs)(params, pictures)
    np.testing.assert_allclose(found, written_out(params, pictures), rtol=1e-4, atol=1e-5)


def test_a_policy_of_pixels_acts_on_what_was_seen():
    model = Pixels(2, 3)
    actor = ConvolutionalConfig(distribution="beta").build(Dream(model, DreamConfig()))
    assert actor.features == ("pixels",)
    seen = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)

    @jax.jit
    def act():
        world, params = World(model, {}), actor.init(new_key())
        state = world.begin(seen, new_key(1))
        distribution = actor.distribution(params, actor.inputs(world, state), 0.0)
        return actor.act(params, world, state, None, new_key(2))[0], distribution.mode()

    action, mode = act()
    np.testing.assert_array_equal(action, mode)
    assert action.shape == (3,) and np.abs(action).max() <= 1


def test_a_world_model_without_pixels_is_refused():
    with pytest.raises(
        UserError, match=r"'convolutional', which reads pixels, but the world model has c, h, z; set world"
    ):
        ConvolutionalConfig().build(Dream(LINE, DreamConfig()))


# Pixels as a world model


def test_grey_is_that_of_bt_601():
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (2, 64, 64, 3), np.uint8)
    frames[0, 0, :4] = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    grey = np.asarray(jax.jit(Pixels(1, 1).encode)({}, frames))
    assert grey.dtype == np.uint8 and grey.shape == (2, 64, 64)
    np.testing.assert_array_equal(grey[0, 0, :4], [76, 150, 29, 255])
    assert np.abs(grey - frames @ np.array([0.299, 0.587, 0.114])).max() < 0.5 + 1e-3


def test_the_first_frame_stands_for_those_before_it_and_others_come_in_order():
    model = Pixels(3, 1)
    first, second, third = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    action = jnp.zeros(1, jnp.float32)

    @jax.jit
    def seen():
        states = [model.begin({}, jnp.asarray(first), new_key())]
        for obs in (second, third):
            states.append(model.observe({}, states[-1], action, jnp.asarray(obs), new_key()))
        return states, model.features(states[-1])["pixels"], model.frame({}, states[-1])

    states, pixels, frame = seen()
    for state, expected in zip(
        states, ((first, first, first), (first, first, second), (first, second, third)), strict=True
    ):
        np.testing.assert_array_equal(state.frames, np.stack(expected, axis=-1))
    expected = np.stack((first, second, third), axis=-1).reshape(-1) / np.float32(255)
    np.testing.assert_allclose(pixels, expected, rtol=1e-6)
    assert pixels.min() >= 0 and pixels.max() <= 1
    np.testing.assert_allclose(frame, np.repeat(third[..., None], 3, axis=-1) / np.float32(255), rtol=1e-6)


def test_its_feature_has_as_many_numbers_as_its_frames_have_pixels():
    assert feature_sizes(Pixels(4, 2)) == {"pixels": 64 * 64 * 4}


def test_its_dream_stands_still_and_expects_nothing():
    model = Pixels(1, 1)
    state = model.begin({}, jnp.zeros((64, 64), jnp.uint8), new_key())
    after, outcome = model.imagine({}, state, jnp.ones(1, jnp.float32), model.noise(new_key()), 1.0)
    assert after is state and outcome.reward is None and outcome.end is None
    with pytest.raises(UserError, match="does not predict the reward of a step; choose another world model"):
        Dream(model, DreamConfig(reward="predicted")).check()


# Policies that try


def test_what_is_tried_is_kept_for_as_many_steps_as_it_holds():
    """The place changes meanwhile, and nothing comes of that."""
    generator = np.random.default_rng(0)
    policy = PolicyConfig(features=("z",), hidden_sizes=(), distribution="beta").build(Dream(LINE, DreamConfig()))
    trying = ExploringActor(policy, 3)
    params = {
        "policy": actors.unflat(actors.shapes(policy), np.float32(generator.normal(size=16))),
        "noise": np.float32(0),
    }
    act, carry, done = jax.jit(trying.act), trying.begin(), []
    for number in range(7):
        action, carry = act(params, World(LINE, {}), on_the_line(generator), carry, new_key(number))
        np.testing.assert_allclose(action, 2 * np.asarray(carry.drawn) - 1, atol=1e-6)
        assert int(carry.left) == 2 - number % 3
        done.append(np.asarray(action))
    for kept in (done[:3], done[3:6]):
        assert (kept[0] == kept[1]).all() and (kept[0] == kept[2]).all()
    assert (done[0] != done[3]).all() and (done[3] != done[6]).all()


def test_the_noise_of_an_mlp_is_what_the_weights_say():
    generator, count = np.random.default_rng(0), 4000
    policy = MLP(("z",), (3, 2))
    state, trying = on_the_line(generator), ExploringActor(policy, 2)
    weights = actors.unflat(actors.shapes(policy), np.float32(generator.normal(size=8)))

    @jax.jit
    def drawn(noise):
        def one(key):
            params = {"policy": weights, "noise": noise}
            return trying.act(params, World(LINE, {}), state, trying.begin(), key)[1].drawn

        return jax.vmap(one)(jax.random.split(new_key(), count))

    center = np.asarray(state.z) @ weights[0].kernel + weights[0].bias
    np.testing.assert_allclose(drawn(jnp.float32(0)), np.broadcast_to(center, (count, 2)), rtol=1e-5, atol=1e-6)
    found = np.asarray(drawn(jnp.float32(0.7)))
    np.testing.assert_allclose(found.mean(axis=0), center, atol=4 * 0.7 / count**0.5)
    np.testing.assert_allclose(found.std(axis=0), 0.7, rtol=4 / (2 * count) ** 0.5)


def test_the_noise_of_a_policy_is_its_own():
    policy = PolicyConfig(features=("z",), hidden_sizes=()).build(Dream(LINE, DreamConfig()))
    assert not policy.needs_noise and MLP.needs_noise
    weights = actors.unflat(actors.shapes(policy), np.linspace(-1, 1, 16, dtype=np.float32))
    quiet, loud = (policy.distribution(weights, single([1.0, -1.0, 0.5]), noise) for noise in (0.0, 5.0))
    jax.tree.map(np.testing.assert_array_equal, quiet, loud)


def test_who_begins_to_try_has_fresh_weights_and_no_noise():
    trying = ExploringActor(MLP(("z",), (3, 2)), 4)
    params = trying.init(new_key())
    assert set(params) == {"policy", "noise"} and params["noise"] == 0
    jax.tree.map(np.testing.assert_array_equal, params["policy"], trying.policy.init(new_key()))
    carry = trying.begin()
    assert (carry.left, carry.drawn.shape) == (0, (2,))
