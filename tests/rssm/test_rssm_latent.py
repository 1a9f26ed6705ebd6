"""What the stochastic state is drawn from, and rewards as distributions, against references."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from wm_jax.rssm import two_hot
from wm_jax.rssm.latent import CategoricalLatent, GaussianLatent, Normals

pytestmark = pytest.mark.usefixtures("quick_compilation")

GAUSSIAN = GaussianLatent(3, 0.1)
CATEGORICAL = CategoricalLatent(2, 4, 0.1)
P = Normals(jnp.asarray([0.3, -1.0, 2.0], jnp.float32), jnp.asarray([0.5, 1.5, 0.2], jnp.float32))
Q = Normals(jnp.asarray([0.0, 0.5, 1.8], jnp.float32), jnp.asarray([1.0, 0.7, 0.4], jnp.float32))
LOGITS = np.array([[1.0, -0.5, 0.2, 3.0, 0.0, 0.0, -9.0, 2.0], [0.1, 0.2, 0.3, 0.4, -1.0, 1.0, -1.0, 1.0]], np.float32)


def mixed(logits: np.ndarray) -> np.ndarray:
    """The probabilities [..., 2, 4], by hand."""
    each = np.exp(logits.reshape(*logits.shape[:-1], 2, 4).astype(np.float64))
    return 0.9 * each / each.sum(axis=-1, keepdims=True) + 0.1 / 4


def test_the_divergence_of_normals_is_the_integral() -> None:
    expected = 0.0
    for mean, deviation, other, width in zip(*map(np.asarray, (P.mean, P.deviation, Q.mean, Q.deviation)), strict=True):
        p: Any = stats.norm(mean, deviation)
        q: Any = stats.norm(other, width)
        expected += integrate.quad(lambda x, p=p, q=q: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), *p.interval(1 - 1e-12))[
            0
        ]
    np.testing.assert_allclose(GAUSSIAN.divergence(P, Q), expected, rtol=1e-4)
    assert GAUSSIAN.divergence(P, P) == 0


def test_the_divergence_of_categorical_variables_has_the_uniform_share_in_it() -> None:
    p, q = (CATEGORICAL.distribution(jnp.asarray(logits)) for logits in LOGITS)
    expected = stats.entropy(mixed(LOGITS[0]), mixed(LOGITS[1]), axis=-1).sum()
    np.testing.assert_allclose(CATEGORICAL.divergence(p, q), expected, rtol=1e-4)
    np.testing.assert_allclose(np.exp(p), mixed(LOGITS[0]), rtol=1e-4)
    assert np.exp(p).min() >= 0.1 / 4


def test_normals_are_no_narrower_than_they_may_be() -> None:
    found = GAUSSIAN.distribution(jnp.asarray([1.0, 2.0, 3.0, -50.0, 0.0, 5.0], jnp.float32))
    np.testing.assert_array_equal(found.mean, [1, 2, 3])
    np.testing.assert_allclose(found.deviation, [0.1, np.log(2) + 0.1, np.log1p(np.exp(5)) + 0.1], rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_distribution(temperature: float) -> None:
    count = 20_000
    noise = GAUSSIAN.noise(jax.random.key(0), (count,))
    drawn = np.asarray(jax.vmap(GAUSSIAN.draw, (None, 0, None))(P, noise, temperature))
    for number in range(3):
        expected = stats.norm(P.mean[number], P.deviation[number] * temperature**0.5)
        assert stats.kstest(drawn[:, number], expected.cdf).pvalue > 0.001
    distribution = CATEGORICAL.distribution(jnp.asarray(LOGITS[0]))
    noise = CATEGORICAL.noise(jax.random.key(1), (count,))
    drawn = np.asarray(jax.vmap(CATEGORICAL.draw, (None, 0, None))(distribution, noise, temperature))
    drawn = drawn.reshape(count, 2, 4)
    np.testing.assert_allclose(drawn.sum(axis=-1), 1, rtol=1e-6)
    tempered = mixed(LOGITS[0]) ** (1 / temperature)
    tempered /= tempered.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(drawn.mean(axis=0), tempered, atol=5 * 0.5 / count**0.5)


def test_the_gradient_of_a_choice_is_that_of_the_probabilities() -> None:
    noise, weights = CATEGORICAL.noise(jax.random.key(2)), jnp.arange(8, dtype=jnp.float32) ** 2
    found = jax.grad(lambda p: (CATEGORICAL.draw(p, noise) * weights).sum())(jnp.zeros((2, 4), jnp.float32))
    expected = jax.grad(lambda p: (jax.nn.softmax(p).reshape(-1) * weights).sum())(jnp.zeros((2, 4), jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


NUMBERS = np.array([0.0, 1.0, -1.0, 0.01, -33.3, 1000.0, 7e5, 2.0**0.5], np.float32)


def test_a_number_lies_between_the_two_values_that_it_is_told_by() -> None:
    table = np.asarray(two_hot.values())
    expected = np.sign(np.linspace(-20, 20, 255)) * np.expm1(np.abs(np.linspace(-20, 20, 255)))
    np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(table, -table[::-1])
    target = np.asarray(two_hot.target(jnp.asarray(NUMBERS)), np.float64)
    np.testing.assert_allclose(target.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(target @ table.astype(np.float64), NUMBERS, rtol=1e-4, atol=1e-6)
    for number, row in zip(NUMBERS, target, strict=True):
        near = np.flatnonzero(row)
        assert 1 <= len(near) <= 2 and near[-1] - near[0] <= 1
        assert table[near[0]] <= number * (1 + 1e-6) + 1e-9 and number <= table[near[-1]] * (1 + 1e-6) + 1e-9
    np.testing.assert_array_equal(two_hot.target(jnp.float32(1e30)), np.eye(255, dtype=np.float32)[-1])


def test_what_costs_least_is_the_target_and_its_mean_the_number() -> None:
    x = jnp.asarray(NUMBERS)
    target = two_hot.target(x)
    logits = jnp.log(target + 1e-30)
    np.testing.assert_allclose(two_hot.mean(logits), NUMBERS, rtol=1e-3, atol=1e-5)
    entropy = stats.entropy(np.asarray(target), axis=-1)
    np.testing.assert_allclose(two_hot.cross_entropy(logits, x), entropy, rtol=1e-3, atol=1e-5)
    worse = two_hot.cross_entropy(logits + 0.5 * jax.random.normal(jax.random.key(0), logits.shape, jnp.float32), x)
    assert (np.asarray(worse) >= entropy - 1e-5).all()


def test_a_fresh_head_tells_exactly_nothing() -> None:
    """Though its largest values are beyond 10^8."""
    assert two_hot.mean(jnp.zeros(255, jnp.float32)) == 0
    assert two_hot.mean(jnp.full(255, 3.7, jnp.float32)) == 0
