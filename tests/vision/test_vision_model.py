from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.errors import UserError
from wm_jax.optimizers import OptimizerConfig
from wm_jax.vision import LatentStats, Vision, VisionConfig, layers, model, sample

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = Vision(VisionConfig(latent_size=5, width=4))
PARAMS = SMALL.init(jax.random.key(0))
ENCODE, DECODE = jax.jit(SMALL.encode), jax.jit(SMALL.decode)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def frames(*leading):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (*leading, 64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(("latent_size", "parameters"), [(32, 4_348_547), (64, 4_446_915)])
def test_parameter_counts_of_the_paper(latent_size, parameters):
    shapes = jax.eval_shape(Vision(VisionConfig(latent_size=latent_size)).init, jax.random.key(0))
    assert count(shapes) == parameters


def test_all_widths_scale_together():
    def kernels(width):
        params = jax.eval_shape(Vision(VisionConfig(width=width)).init, jax.random.key(0))
        return [params["encoder"][f"conv{i}"]["kernel"].shape for i in range(1, 5)], [
            params["decoder"][f"deconv{i}"]["kernel"].shape for i in range(1, 5)
        ]

    assert kernels(32) == (
        [(4, 4, 3, 32), (4, 4, 32, 64), (4, 4, 64, 128), (4, 4, 128, 256)],
        [(5, 5, 128, 1024), (5, 5, 64, 128), (6, 6, 32, 64), (6, 6, 3, 32)],
    )
    assert kernels(8)[0][-1] == (4, 4, 32, 64)
    assert kernels(8)[1][0] == (5, 5, 32, 256)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_shapes_and_ranges(leading):
    stats = ENCODE(PARAMS, frames(*leading))
    assert stats.mean.shape == stats.log_var.shape == (*leading, 5)
    decoded = DECODE(PARAMS, stats.mean)
    assert decoded.shape == (*leading, 64, 64, 3)
    assert decoded.dtype == jnp.float32
    assert 0 <= decoded.min() <= decoded.max() <= 1


def test_a_frame_is_seen_alike_alone_and_in_a_batch(monkeypatch):
    monkeypatch.setattr(model, "ENCODED_AT_ONCE", 4)
    together = jax.jit(lambda pixels: SMALL.encode(PARAMS, pixels))(frames(2, 3))
    alone = ENCODE(PARAMS, frames(2, 3)[1, 2])
    np.testing.assert_allclose(together.mean[1, 2], alone.mean, atol=1e-6)
    np.testing.assert_allclose(together.log_var[1, 2], alone.log_var, atol=1e-6)


def test_cpu_and_accelerator_forms_are_the_same_function(monkeypatch):
    pixels = frames(4)

    def there_and_back(pixels):
        stats = SMALL.encode(PARAMS, pixels)
        return stats.mean, SMALL.decode(PARAMS, stats.mean)

    on_cpu = jax.jit(there_and_back)(pixels)
    monkeypatch.setattr(model, "convolution", layers.plain_convolution)
    monkeypatch.setattr(model, "transposed_convolution", layers.plain_transposed_convolution)
    for found, expected in zip(on_cpu, jax.jit(lambda pixels: there_and_back(pixels))(pixels), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_decoder_ends_in_a_sigmoid_and_its_dense_layer_is_linear():
    params = jax.tree.map(jnp.copy, PARAMS)
    for name in ("deconv1", "deconv2", "deconv3", "deconv4"):
        params["decoder"][name]["kernel"] = jnp.zeros_like(params["decoder"][name]["kernel"])
    params["decoder"]["deconv4"]["bias"] = jnp.array([0.0, 1.0, -2.0], jnp.float32)
    decoded = DECODE(params, jnp.ones(5, jnp.float32))
    expected = np.broadcast_to(1 / (1 + np.exp([0.0, -1.0, 2.0])), (64, 64, 3))
    np.testing.assert_allclose(decoded, expected, rtol=1e-5)


def test_kernels_start_glorot_uniform_and_biases_zero():
    params = Vision(VisionConfig()).init(jax.random.key(3))
    fans = {
        ("encoder", "conv3"): 16 * (64 + 128),
        ("encoder", "mean"): 1024 + 32,
        ("decoder", "dense"): 32 + 1024,
        ("decoder", "deconv1"): 25 * (128 + 1024),
        ("decoder", "deconv4"): 36 * (3 + 32),
    }
    for (half, name), fan_sum in fans.items():
        kernel, limit = np.asarray(params[half][name]["kernel"]), np.sqrt(6 / fan_sum)
        assert 0.99 * limit < np.abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.03)
        assert not np.any(params[half][name]["bias"])


def test_init_depends_on_the_key_alone():
    first, again, other = (SMALL.init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    assert not np.array_equal(first["encoder"]["conv1"]["kernel"], other["encoder"]["conv1"]["kernel"])


def test_wrong_frames_and_latents_are_refused():
    with pytest.raises(ValueError, match=r"64, 64, 3\] uint8, found \(2, 32, 32, 3\)"):
        SMALL.encode(PARAMS, jnp.zeros((2, 32, 32, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"uint8, found .* float32"):
        SMALL.encode(PARAMS, jnp.zeros((64, 64, 3), jnp.float32))
    with pytest.raises(ValueError, match=r"z must be \[..., 5\], found \(2, 4\)"):
        SMALL.decode(PARAMS, jnp.zeros((2, 4), jnp.float32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_sample_has_the_posteriors_mean_and_standard_deviation(dtype):
    mean, log_var = jnp.array([-3.0, 0.0, 2.0], dtype), jnp.array([-2.0, 0.0, 1.5], dtype)
    n = 20_000
    stats = LatentStats(jnp.broadcast_to(mean, (n, 3)), jnp.broadcast_to(log_var, (n, 3)))
    z = np.asarray(sample(stats, jax.random.key(0)))
    std = np.exp(np.asarray(log_var, np.float32) / 2)
    assert z.dtype == np.float32
    np.testing.assert_array_less(np.abs(z.mean(0) - np.asarray(mean, np.float32)), 4 * std / np.sqrt(n))
    np.testing.assert_allclose(z.std(0), std, rtol=0.03)
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.03


@pytest.mark.parametrize("setting", ["latent_size", "width", "kl_floor", "batch_size", "steps", "later_steps"])
def test_impossible_settings_are_refused_by_name(setting):
    wrong: dict[str, Any] = {setting: -1}
    with pytest.raises(UserError, match=rf"^world\.vision\.{setting} must be (at least|between)"):
        VisionConfig(**wrong)


def test_impossible_settings_of_the_optimizer_are_refused_by_full_name():
    with pytest.raises(UserError, match=r"^world\.vision\.optimizer\.learning_rate must be"):
        VisionConfig(optimizer=OptimizerConfig(learning_rate=0.0))
