import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from wm_jax.memory import Mixture, draw_noise, sample_mixture

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
