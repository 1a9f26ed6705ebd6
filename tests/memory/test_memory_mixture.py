import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from wm_jax.memory import Mixture, MixtureNoise, draw, draw_noise, sample_mixture

pytestmark = pytest.mark.usefixtures("quick_compilation")

WEIGHTS = np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])
MEANS = np.array([[-2.0, 0.0, 3.0], [1.0, -4.0, 2.0]])
STDS = np.array([[0.5, 1.0, 0.2], [0.3, 2.0, 1.0]])
MIXTURE = Mixture(jnp.log(WEIGHTS.T), jnp.asarray(MEANS.T), jnp.log(STDS.T))


def new_key():
    return jax.random.key(7)


def draws(mixture, temperature, count):
    shape = mixture.means.shape[1:]
    sample = jax.jit(jax.vmap(lambda key: sample_mixture(mixture, temperature, draw_noise(key, shape))))
    return np.asarray(sample(jax.random.split(new_key(), count)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_tempered_draws_follow_the_analytic_distribution(temperature):
    z = draws(MIXTURE, temperature, 20_000)
    weights = WEIGHTS ** (1 / temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    stds = STDS * np.sqrt(temperature)
    for i in range(2):

        def cdf(x, i=i):
            return (weights[i] * scipy.stats.norm.cdf(np.asarray(x)[:, None], MEANS[i], stds[i])).sum(axis=1)

        assert scipy.stats.kstest(z[:, i], cdf).pvalue > 0.01
        mean = (weights[i] * MEANS[i]).sum()
        variance = (weights[i] * (stds[i] ** 2 + MEANS[i] ** 2)).sum() - mean**2
        np.testing.assert_allclose(z[:, i].mean(), mean, atol=4 * np.sqrt(variance / len(z)))
        np.testing.assert_allclose(z[:, i].var(), variance, rtol=0.04)
    assert abs(np.corrcoef(z.T)[0, 1]) < 4 / np.sqrt(len(z))


def test_a_low_temperature_leaves_only_the_most_likely_component():
    z = draws(MIXTURE, 0.001, 500)
    np.testing.assert_allclose(z, np.broadcast_to([0.0, 1.0], z.shape), atol=0.2)


@pytest.mark.parametrize("only", [0, 1, 2])
def test_a_component_without_weight_is_never_drawn(only):
    log_weights = jnp.full((3, 64), -jnp.inf, jnp.float32).at[only].set(0.0)
    means = jnp.broadcast_to(jnp.array([[10.0], [20.0], [30.0]], jnp.float32), (3, 64))
    z = draws(Mixture(log_weights, means, jnp.full((3, 64), -10.0, jnp.float32)), 1.15, 500)
    np.testing.assert_allclose(z, 10.0 * (only + 1), atol=0.01)


TEMPERATURE, COUNT = 1.5, 40_000
NEAR = Mixture(
    jnp.asarray([[0.3, -0.5], [-0.2, 0.4], [0.1, 0.0]], jnp.float32),
    jnp.asarray([[-1.0, 0.5], [0.2, 1.5], [1.2, -0.3]], jnp.float32),
    jnp.asarray([[-0.5, 0.1], [-0.2, -0.4], [0.0, -0.3]], jnp.float32),
)
"""Of each dimension three components with little room between them: no density there is as small as divides a gradient."""


def noises(count):
    """[count, Z]"""
    return jax.vmap(lambda key: draw_noise(key, (2,)))(jax.random.split(new_key(), count))


def tempered():
    """The weights and the deviations [K, Z] of NEAR at that temperature, and its means."""
    logits, means, log_stds = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(NEAR))
    weights = np.exp(logits / TEMPERATURE)
    return weights / weights.sum(axis=0), np.exp(log_stds) * TEMPERATURE**0.5, means


@pytest.mark.parametrize("component", ["held", "straight_through", "implicit"])
def test_whatever_the_gradient_is_the_draw_is_the_same(component):
    noise = noises(2000)
    drawn = jax.jit(jax.vmap(lambda noise: draw(NEAR, TEMPERATURE, noise, component)))(noise)
    expected = jax.jit(jax.vmap(lambda noise: sample_mixture(NEAR, TEMPERATURE, noise)))(noise)
    np.testing.assert_allclose(drawn, expected, rtol=1e-5, atol=1e-6)


def test_the_expectation_is_the_weighed_mean_of_what_the_components_draw():
    weights, stds, means = tempered()
    noise = noises(50)
    found = jax.vmap(lambda noise: draw(NEAR, TEMPERATURE, noise, "expectation"))(noise)
    values = means + stds * np.asarray(noise.normal)[:, None]
    np.testing.assert_allclose(found, (weights * values).sum(axis=1), rtol=1e-5, atol=1e-6)


def slopes(component):
    """d z^2 / d parameters of many draws: arrays [COUNT, K, Z]."""

    def squares(mixture, noise):
        return (draw(mixture, TEMPERATURE, noise, component) ** 2).sum()

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(jax.grad(squares), (None, 0)))(NEAR, noises(COUNT)))


def off(drawn, expected):
    """By how many standard errors the mean of what was `drawn` [COUNT, K, Z] is off, at most."""
    error = drawn.std(axis=0) / COUNT**0.5
    return (np.abs(drawn.mean(axis=0) - expected) / error).max()


@pytest.mark.parametrize("component", ["held", "straight_through", "implicit"])
def test_the_gradient_of_a_mean_is_the_mean_of_gradients_but_for_the_weights_where_they_are_not_drawn_through(
    component,
):
    """Of E[z^2] = sum of w (m^2 + s^2), w being softmax(logits / tau) and s^2 a component's variance times tau. Of the
    weights held knows nothing, and straight_through takes the mean of what all components would have drawn for z, whose
    square is another one."""
    weights, stds, means = tempered()
    second = means**2 + stds**2
    mean, spread = ((weights * part).sum(axis=0) for part in (means, stds))
    through = 2 * weights / TEMPERATURE * (mean * (means - mean) + spread * (stds - spread))
    exact = weights / TEMPERATURE * (second - (weights * second).sum(axis=0))
    found = slopes(component)
    assert off(found.means, 2 * weights * means) < 5 and off(found.log_stds, 2 * weights * stds**2) < 5
    if component == "implicit":
        assert off(found.logits, exact) < 5
    elif component == "straight_through":
        assert off(found.logits, through) < 5 < 20 < off(found.logits, exact)
    else:
        assert not found.logits.any() and np.abs(exact).max() > 0.1


@pytest.mark.parametrize("normal", [0.5, 20.0])
def test_an_implicit_gradient_is_finite_where_there_is_no_density(normal):
    """Half a deviation from where all components are, a draw moves as they do; 20 away the density is 0: nothing does."""
    mixture = Mixture(
        jnp.asarray([[5.0], [-5.0]], jnp.float32), jnp.zeros((2, 1), jnp.float32), jnp.zeros((2, 1), jnp.float32)
    )
    noise = MixtureNoise(jnp.zeros(1, jnp.float32), jnp.full(1, normal, jnp.float32))
    found = jax.jit(jax.grad(lambda mixture: draw(mixture, 1.0, noise, "implicit")[0]))(mixture)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    np.testing.assert_allclose(found.means.sum(), 1 if normal < 1 else 0, atol=1e-5)
