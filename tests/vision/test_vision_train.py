from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from wm_jax import optimizers
from wm_jax.optimizers import OptimizerConfig
from wm_jax.vision import Vision, VisionConfig, layers, model, sample
from wm_jax.vision.train import continue_from, evaluate, init, loss, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = VisionConfig(latent_size=4, width=4, steps=100, optimizer=OptimizerConfig(learning_rate=3e-3))
MODEL = Vision(CONFIG)
PARAMS = init(MODEL, jax.random.key(0)).params


def new_key():
    return jax.random.key(5)


def squares(n):
    """Frames of one coloured square each on a dark ground."""
    generator = np.random.default_rng(0)
    frames = np.full((n, 64, 64, 3), 20, np.uint8)
    for frame in frames:
        row, column = generator.integers(0, 40, 2)
        frame[row : row + 24, column : column + 24] = generator.integers(60, 256, 3)
    return jnp.asarray(frames)


FRAMES = squares(4)


def spread_out(params):
    """Weights whose posteriors lie far enough from the prior for the KL to matter."""
    encoder = {**params["encoder"]}
    for name in ("mean", "log_var"):
        encoder[name] = {**encoder[name], "kernel": 8 * encoder[name]["kernel"]}
    return {**params, "encoder": encoder}


def kl_by_quadrature(mean, log_var):
    std = np.exp(log_var / 2)

    def integrand(x):
        log_posterior = norm.logpdf(x, mean, std)
        return np.exp(log_posterior) * (log_posterior - norm.logpdf(x))

    return quad(integrand, mean - 8 * std, mean + 8 * std)[0]


def gradient(kl_floor, params):
    model = Vision(replace(CONFIG, kl_floor=kl_floor))
    return jax.jit(jax.grad(partial(loss, model), has_aux=True))(params, FRAMES, new_key())[0]


def same(tree, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, other)))


def test_loss_is_squared_error_plus_kl_with_a_floor_on_each_frames_total():
    params = spread_out(PARAMS)
    stats = jax.jit(MODEL.encode)(params, FRAMES)
    kl = np.vectorize(kl_by_quadrature)(np.asarray(stats.mean, float), np.asarray(stats.log_var, float)).sum(-1)
    floor = float(np.sort(kl)[1:3].mean())
    model = Vision(replace(CONFIG, kl_floor=floor / 4))
    decoded = np.asarray(jax.jit(model.decode)(params, sample(stats, new_key())), float)
    reconstruction = ((np.asarray(FRAMES) / 255.0 - decoded) ** 2).sum((1, 2, 3)).mean()
    floored = np.maximum(kl, floor).mean()
    assert floored > max(kl.mean(), floor) * 1.001

    value, metrics = jax.jit(partial(loss, model))(params, FRAMES, new_key())
    assert metrics.keys() == {"loss", "reconstruction", "kl", "kl_floored"}
    np.testing.assert_allclose(metrics["reconstruction"], reconstruction, rtol=1e-4)
    np.testing.assert_allclose(metrics["kl"], kl.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["kl_floored"], floored, rtol=1e-4)
    np.testing.assert_allclose(value, reconstruction + floored, rtol=1e-4)
    assert value == metrics["loss"]


def test_with_a_motion_weight_errors_count_by_how_much_their_pixel_changed():
    weighing = Vision(replace(CONFIG, motion_weight=3.0))
    before = FRAMES[jnp.array([1, 0, 2, 3])]
    pairs = jnp.stack([before, FRAMES], axis=1)
    value, metrics = jax.jit(partial(loss, weighing))(PARAMS, pairs, new_key())
    plain = jax.jit(partial(loss, MODEL))(PARAMS, FRAMES, new_key())[1]
    decoded = jax.jit(lambda: MODEL.decode(PARAMS, sample(MODEL.encode(PARAMS, FRAMES), new_key())))()
    error = (np.asarray(FRAMES) / 255.0 - np.asarray(decoded, float)) ** 2
    change = np.abs(np.asarray(FRAMES) / 255.0 - np.asarray(before) / 255.0).max(-1, keepdims=True)
    motion = (error * change).sum((1, 2, 3))
    assert motion[0] > 0 and motion[2] == 0, "two frames follow on another one, two on themselves"
    np.testing.assert_allclose(metrics["motion"], motion.mean(), rtol=1e-4)
    for name in ("reconstruction", "kl", "kl_floored"):
        np.testing.assert_allclose(metrics[name], plain[name], rtol=1e-5)
    np.testing.assert_allclose(value, plain["loss"] + 3 * motion.mean(), rtol=1e-4)


def test_single_frames_are_not_taken_for_pairs_nor_pairs_for_single_frames():
    for weight, frames in ((1.0, FRAMES), (0.0, jnp.stack([FRAMES, FRAMES], axis=1))):
        with pytest.raises(ValueError, match="frames must be"):
            loss(Vision(replace(CONFIG, motion_weight=weight)), PARAMS, frames, new_key())


def test_below_the_floor_the_kl_has_no_gradient():
    """Without a floor the means' biases get, beside the reconstruction's gradient, d KL / d mean = mean."""
    with_floor, without = (gradient(floor, PARAMS)["encoder"]["mean"]["bias"] for floor in (50.0, 0.0))
    means = jax.jit(MODEL.encode)(PARAMS, FRAMES).mean
    tolerance = 1e-3 * float(jnp.abs(without).max())
    np.testing.assert_allclose(without - with_floor, means.mean(0), atol=tolerance)


def test_gradient_is_the_plain_convolutions(monkeypatch):
    params = spread_out(PARAMS)
    found = gradient(0.0, params)
    monkeypatch.setattr(model, "convolution", layers.plain_convolution)
    monkeypatch.setattr(model, "transposed_convolution", layers.plain_transposed_convolution)
    for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(gradient(0.0, params)), strict=True):
        np.testing.assert_allclose(leaf, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_it_learns_to_redraw_a_few_frames():
    state = continue_from(MODEL, PARAMS)
    pixels = FRAMES / 255
    blind = float(jnp.sum((pixels - pixels.mean(0, keepdims=True)) ** 2) / len(pixels))
    assert evaluate(MODEL, state.params, FRAMES, new_key())["reconstruction"] > blind
    for _ in range(300):
        state, _ = train_step(MODEL, state, FRAMES, new_key())
    assert state.step == 300
    assert evaluate(MODEL, state.params, FRAMES, new_key())["reconstruction"] < 0.5 * blind


def test_many_steps_are_traced_once(monkeypatch):
    traces = []
    encode = Vision.encode
    monkeypatch.setattr(Vision, "encode", lambda *arguments: traces.append(0) or encode(*arguments))
    model = Vision(replace(CONFIG, steps=77))
    state = continue_from(model, PARAMS)
    for seed in range(3):
        state, _ = train_step(model, state, FRAMES, jax.random.key(seed))
    state = jax.tree.map(np.asarray, continue_from(model, state.params))
    train_step(Vision(replace(CONFIG, steps=77)), state, np.asarray(FRAMES), new_key())
    assert len(traces) == 1


def test_going_on_from_a_saved_state_gives_the_same_bits():
    state = continue_from(MODEL, PARAMS)
    saved = []
    for _ in range(6):
        state, _ = train_step(MODEL, state, FRAMES, new_key())
        saved.append(jax.tree.map(np.array, state))
    again = jax.tree.map(jnp.asarray, saved[2])
    for _ in range(3):
        again, _ = train_step(MODEL, again, FRAMES, new_key())
    assert same(saved[5], again)


def test_each_step_draws_its_own_noise_from_the_trainings_key():
    for step in (0, 1):
        state = replace(continue_from(MODEL, PARAMS), step=jnp.asarray(step, jnp.int32))
        _, metrics = train_step(MODEL, state, FRAMES, new_key())
        expected = evaluate(MODEL, PARAMS, FRAMES, jax.random.fold_in(new_key(), step))
        other = evaluate(MODEL, PARAMS, FRAMES, jax.random.fold_in(new_key(), 1 - step))
        np.testing.assert_allclose(metrics["reconstruction"], expected["reconstruction"], rtol=1e-6)
        assert abs(metrics["reconstruction"] / other["reconstruction"] - 1) > 1e-5


def test_further_training_starts_a_fresh_optimiser_and_leaves_the_given_weights_alone():
    state, _ = train_step(MODEL, continue_from(MODEL, PARAMS), FRAMES, new_key())
    further = continue_from(MODEL, state.params)
    assert further.step == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(further.opt_state))
    before = jax.tree.map(np.array, state.params)
    train_step(MODEL, further, FRAMES, new_key())
    assert same(before, state.params)


@pytest.mark.parametrize("warm_up", [4, 100], ids=["half", "longer"])
def test_the_learning_rate_warms_up(warm_up: int):
    """Adam's step on a constant gradient is its learning rate. No more than half of a training warms up."""
    config = OptimizerConfig(learning_rate=0.1, schedule="cosine", final_learning_rate=0.0, warm_up=warm_up)
    optimizer, weight = optimizers.make(config, 8), jnp.zeros((), jnp.float32)
    state, steps = optimizer.init(weight), []
    for _ in range(8):
        update, state = optimizer.update(jnp.float32(1), state)
        steps.append(-np.asarray(update))
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(8) / 8))
    np.testing.assert_allclose(steps, cosine * np.minimum(np.arange(1, 9) / 4, 1), rtol=1e-4)
