"""Observations on disk: what is saved is loaded again, whatever a world model makes of a frame; damage is named."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax.data import observations
from wm_jax.data.weights import load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.types import Observations
from wm_jax.vision import LatentStats

STATS = jax.eval_shape(lambda: LatentStats(jnp.zeros(3, jnp.float32), jnp.zeros(3, jnp.float32)))
"""One frame as V encodes it."""


def recorded(encode: Any, lengths=(4, 1, 6), seed: int = 0) -> Observations:
    """Episodes of these lengths, each of whose frames is what `encode` makes of (a generator, the number of frames)."""
    rng = np.random.default_rng(seed)
    frames = sum(lengths)
    return observations.build(
        encode(rng, frames),
        action=rng.uniform(-1, 1, size=(frames, 2)),
        reward=rng.normal(size=frames),
        length=np.array(lengths),
        terminated=rng.random(len(lengths)) < 0.5,
    )


def stats(rng: np.random.Generator, frames: int) -> LatentStats:
    mean, log_var = rng.normal(size=(2, frames, 3))
    return LatentStats(jnp.asarray(mean), jnp.asarray(log_var))


def several(rng: np.random.Generator, frames: int) -> dict[str, Any]:
    return {
        "codes": rng.integers(0, 512, (frames, 2, 3), np.int32),
        "features": (rng.normal(size=(frames, 5)).astype(np.float32), rng.normal(size=frames).astype(jnp.bfloat16)),
        "pixels": rng.integers(0, 256, (frames, 4, 4), np.uint8),
        # Called as what is recorded beside the frames.
        "action": rng.random((frames, 2)) < 0.5,
    }


def one_array(rng: np.random.Generator, frames: int) -> np.ndarray:
    return rng.normal(size=(frames, 4)).astype(np.float32)


def tokens(rng: np.random.Generator, frames: int) -> np.ndarray:
    return rng.integers(0, 1024, (frames, 16), np.int32)


ENCODERS = [stats, several, one_array, tokens]


def example(lengths=(4, 1, 6), seed: int = 0) -> Observations:
    return recorded(stats, lengths, seed)


def frame_of(encode: Any) -> Any:
    """The shape of one encoded frame."""
    found = encode(np.random.default_rng(0), 2)
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape[1:], jax.dtypes.canonicalize_dtype(array.dtype)), found
    )


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert jax.tree.map(lambda a: a.dtype, left) == jax.tree.map(lambda a: a.dtype, right)


@pytest.mark.parametrize("encode", ENCODERS)
def test_what_is_saved_is_loaded_again(encode, tmp_path):
    found = recorded(encode)
    np.testing.assert_array_equal(found.start, [0, 4, 5])
    path = tmp_path / "new" / "latents.safetensors"
    observations.save(path, found)
    assert_equal(observations.load(path, frame_of(encode)), found)
    assert os.listdir(tmp_path / "new") == ["latents.safetensors"]


@pytest.mark.parametrize("encode", ENCODERS)
def test_numbers_are_kept_as_they_are_but_floating_point_ones_in_half_precision(encode):
    given = encode(np.random.default_rng(0), 11)

    def check(array, was):
        assert array.dtype == (np.float16 if jnp.issubdtype(was.dtype, jnp.floating) else was.dtype)
        np.testing.assert_allclose(np.asarray(array, np.float64), np.asarray(was, np.float64), rtol=6e-4, atol=1e-7)

    jax.tree.map(check, recorded(encode).encoded, given)


@pytest.mark.parametrize("encode", ENCODERS)
def test_a_frame_takes_the_bytes_that_are_told_in_advance(encode):
    found = recorded(encode)
    stored = jax.tree.leaves((found.encoded, found.action, found.reward))
    assert 11 * observations.bytes_of_a_frame(frame_of(encode), 2) == sum(np.asarray(array).nbytes for array in stored)


@pytest.mark.parametrize("value", [70000.0, -70000.0, np.nan, np.inf])
def test_what_float16_cannot_hold_is_refused(value):
    zeros = jnp.zeros((5, 3), jnp.float32)
    wrong = zeros.at[2, 1].set(value)
    arguments = (np.zeros((5, 2)), np.zeros(5), np.array([5]), np.array([True]))
    for encoded, name in (
        (LatentStats(wrong, zeros), "mean"),
        (LatentStats(zeros, wrong), "log_var"),
        ({"many": (zeros, wrong)}, "many/1"),
        (wrong, "encoding"),
    ):
        with pytest.raises(UserError, match=rf"frame 2 does not fit float16 .*: its {name} \[1\] is .*train it again"):
            observations.build(encoded, *arguments)


def test_missing_cut_short_and_altered_files_are_named(tmp_path):
    path = tmp_path / "latents.safetensors"
    with pytest.raises(UserError, match=r"latents\.safetensors does not exist; run the same command again"):
        observations.load(path, STATS)
    observations.save(path, example())
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(
        UserError, match=r"latents\.safetensors is damaged.*delete this file and run the same command again"
    ):
        observations.load(path, STATS)
    path.write_bytes(whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
    with pytest.raises(
        UserError, match=r"latents\.safetensors was altered.*delete this file and run the same command again"
    ):
        observations.load(path, STATS)


def written_in_format_1(path: Path) -> dict[str, np.ndarray]:
    """A file as it was written when there was no other world model: V's mean and log_var beside the rest."""
    found = example()
    arrays = {name: getattr(found, name) for name in ("action", "reward", "start", "length", "terminated")}
    arrays = {"mean": found.encoded.mean, "log_var": found.encoded.log_var, **arrays}
    save_weights(path, arrays, {"content": "latents"})
    return {name: np.asarray(array) for name, array in arrays.items()}


def test_a_file_of_format_1_is_read(tmp_path):
    path = tmp_path / "latents.safetensors"
    written_in_format_1(path)
    assert_equal(observations.load(path, STATS), example())


CHANGES = [
    ("mean", lambda a: a.astype(np.float32), r"mean as float16 \[N, 3\], found float32 \[11, 3\]"),
    ("mean", lambda a: a[:, :2], r"mean as float16 \[N, 3\], found float16 \[11, 2\]"),
    ("log_var", lambda a: a[:, :2], r"log_var as float16 \[11, 3\], found float16 \[11, 2\]"),
    ("log_var", lambda a: a[:-1], r"log_var as float16 \[11, 3\], found float16 \[10, 3\]"),
    ("reward", lambda a: a[:-1], r"reward as float32 \[11\], found float32 \[10\]"),
    ("action", lambda a: a[:, 0], r"action as float32 \[11, A\], found float32 \[11\]"),
    ("reward", lambda a: a * np.float32(np.nan), "reward holds values that are not finite"),
    ("length", lambda a: a + 1, "fill the 11 frames"),
    ("start", lambda a: a[::-1].copy(), "fill the 11 frames"),
    ("terminated", lambda a: None, "the arrays action, encoded/log_var, encoded/mean, length"),
    ("mean", lambda a: None, "the arrays action, encoded/log_var, encoded/mean, length"),
]


@pytest.mark.parametrize(("name", "change", "message"), CHANGES)
def test_inconsistent_contents_are_refused(tmp_path, name, change, message):
    path = tmp_path / "latents.safetensors"
    observations.save(path, example())
    arrays, about = load_weights(path)
    group = arrays["encoded"] if name in arrays["encoded"] else arrays
    changed = change(group.pop(name))
    if changed is not None:
        group[name] = changed
    save_weights(path, arrays, about)
    with pytest.raises(UserError, match=message):
        observations.load(path, STATS)


@pytest.mark.parametrize(("name", "change", "message"), CHANGES)
def test_inconsistent_contents_of_format_1_are_refused(tmp_path, name, change, message):
    path = tmp_path / "latents.safetensors"
    arrays = written_in_format_1(path)
    changed = change(arrays.pop(name))
    save_weights(path, arrays if changed is None else arrays | {name: changed}, {"content": "latents"})
    with pytest.raises(UserError, match=message):
        observations.load(path, STATS)


def test_what_another_world_model_made_is_refused(tmp_path):
    path = tmp_path / "latents.safetensors"
    observations.save(path, recorded(several))
    with pytest.raises(UserError, match=r"expected the arrays .*encoded/log_var, encoded/mean.*found .*encoded/codes"):
        observations.load(path, STATS)
    observations.save(path, recorded(one_array))
    with pytest.raises(UserError, match=r"encoded as int32 \[N, 16\], found float16 \[11, 4\]"):
        observations.load(path, frame_of(tokens))


def test_parts_are_joined_and_taken_apart():
    first, second = example(), example((2, 7), seed=1)
    both = observations.concatenate([first, second])
    np.testing.assert_array_equal(both.start, [0, 4, 5, 11, 13])
    assert_equal(observations.select(both, np.arange(3)), first)
    assert_equal(observations.select(both, np.array([3, 4])), second)
    assert_equal(observations.concatenate([first]), first)
    turned = observations.select(both, np.array([4, 0]))
    np.testing.assert_array_equal(
        turned.encoded.mean, np.concatenate([second.encoded.mean[2:], first.encoded.mean[:4]])
    )
    np.testing.assert_array_equal(turned.start, [0, 7])


@pytest.mark.parametrize("encode", ENCODERS)
def test_parts_of_any_encoding_are_joined_and_taken_apart(encode):
    first, second = recorded(encode), recorded(encode, (2, 7), seed=1)
    both = observations.concatenate([first, second])
    assert_equal(observations.select(both, np.arange(3)), first)
    assert_equal(observations.select(both, np.array([3, 4])), second)
