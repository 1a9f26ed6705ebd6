import os

import jax
import numpy as np
import pytest

from wm_jax.data import latents as latents_file
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.errors import UserError


def example(lengths=(4, 1, 6), seed=0):
    rng = np.random.default_rng(seed)
    frames = sum(lengths)
    return latents_file.build(
        mean=rng.normal(size=(frames, 3)),
        log_var=rng.normal(size=(frames, 3)),
        action=rng.uniform(-1, 1, size=(frames, 2)),
        reward=rng.normal(size=frames),
        length=np.array(lengths),
        terminated=rng.random(len(lengths)) < 0.5,
    )


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert jax.tree.map(lambda a: a.dtype, left) == jax.tree.map(lambda a: a.dtype, right)


def test_what_is_saved_is_loaded_again(tmp_path):
    latents = example()
    np.testing.assert_array_equal(latents.start, [0, 4, 5])
    latents_file.save(tmp_path / "new" / "latents.safetensors", latents)
    assert_equal(latents_file.load(tmp_path / "new" / "latents.safetensors"), latents)
    assert os.listdir(tmp_path / "new") == ["latents.safetensors"]


@pytest.mark.parametrize("value", [70000.0, -70000.0, np.nan, np.inf])
def test_what_float16_cannot_hold_is_refused(value):
    mean = np.zeros((5, 3), np.float32)
    mean[2, 1] = value
    arguments = (np.zeros((5, 2)), np.zeros(5), np.array([5]), np.array([True]))
    with pytest.raises(UserError, match=r"mean of frame 2, dimension 1"):
        latents_file.build(mean, np.zeros((5, 3)), *arguments)
    with pytest.raises(UserError, match=r"log-variance of frame 2, dimension 1"):
        latents_file.build(np.zeros((5, 3)), mean, *arguments)


def test_missing_cut_short_and_altered_files_are_named(tmp_path):
    path = tmp_path / "latents.safetensors"
    with pytest.raises(UserError, match=r"latents\.safetensors does not exist; run the same command again"):
        latents_file.load(path)
    latents_file.save(path, example())
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(
        UserError, match=r"latents\.safetensors is damaged.*delete this file and run the same command again"
    ):
        latents_file.load(path)
    path.write_bytes(whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
    with pytest.raises(
        UserError, match=r"latents\.safetensors was altered.*delete this file and run the same command again"
    ):
        latents_file.load(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mean", lambda a: a.astype(np.float32), r"mean as float16 \[N, Z\], found float32 \[11, 3\]"),
        ("log_var", lambda a: a[:, :2], r"log_var as float16 \[11, 3\], found float16 \[11, 2\]"),
        ("reward", lambda a: a[:-1], r"reward as float32 \[11\], found float32 \[10\]"),
        ("action", lambda a: a[:, 0], r"action as float32 \[11, A\], found float32 \[11\]"),
        ("reward", lambda a: a * np.float32(np.nan), "reward holds values that are not finite"),
        ("length", lambda a: a + 1, "fill the 11 frames"),
        ("start", lambda a: a[::-1].copy(), "fill the 11 frames"),
        ("terminated", lambda a: None, "the arrays action, length"),
    ],
)
def test_inconsistent_contents_are_refused(tmp_path, name, change, message):
    path = tmp_path / "latents.safetensors"
    latents_file.save(path, example())
    arrays, about = load_weights(path)
    changed = change(arrays.pop(name))
    save_weights(path, arrays if changed is None else arrays | {name: changed}, about)
    with pytest.raises(UserError, match=message):
        latents_file.load(path)


def test_parts_are_joined_and_taken_apart():
    first, second = example(), example((2, 7), seed=1)
    both = latents_file.concatenate([first, second])
    np.testing.assert_array_equal(both.start, [0, 4, 5, 11, 13])
    assert_equal(latents_file.select(both, np.arange(3)), first)
    assert_equal(latents_file.select(both, np.array([3, 4])), second)
    assert_equal(latents_file.concatenate([first]), first)
    turned = latents_file.select(both, np.array([4, 0]))
    np.testing.assert_array_equal(turned.stats.mean, np.concatenate([second.stats.mean[2:], first.stats.mean[:4]]))
    np.testing.assert_array_equal(turned.start, [0, 7])
