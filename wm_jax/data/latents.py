"""Latents on disk: one safetensors file holds every recorded frame as V's float16 posterior."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.data.weights import load_weights, save_weights
from wm_jax.errors import UserError
from wm_jax.types import Latents, LatentStats

REMEDY = "delete this file and run the same command again: the episodes are encoded anew"
_FIELDS = {
    "mean": (np.float16, ("N", "Z")),
    "log_var": (np.float16, ("N", "Z")),
    "action": (np.float32, ("N", "A")),
    "reward": (np.float32, ("N",)),
    "start": (np.int32, ("E",)),
    "length": (np.int32, ("E",)),
    "terminated": (np.bool_, ("E",)),
}
"""What each array of the file must be; equal letters stand for equal sizes."""


def build(
    mean: np.ndarray,
    log_var: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    length: np.ndarray,
    terminated: np.ndarray,
) -> Latents:
    """Latents from V's posterior of all frames (mean, log_var [N, Z]) and the episodes' records, in their order.

    Raises `UserError` where the posterior does not fit float16.
    """
    stats = LatentStats(mean=_half("mean", mean), log_var=_half("log-variance", log_var))
    length = np.asarray(length, np.int32)
    return Latents(
        stats=stats,
        action=jnp.asarray(action, jnp.float32),
        reward=jnp.asarray(reward, jnp.float32),
        start=jnp.asarray(np.cumsum(length, dtype=np.int32) - length),
        length=jnp.asarray(length),
        terminated=jnp.asarray(terminated, bool),
    )


def save(path: Path, latents: Latents) -> None:
    """Write the file whole or not at all; `UserError` where the disk does not take it."""
    arrays = {
        "mean": latents.stats.mean,
        "log_var": latents.stats.log_var,
        "action": latents.action,
        "reward": latents.reward,
        "start": latents.start,
        "length": latents.length,
        "terminated": latents.terminated,
    }
    save_weights(path, arrays, {"content": "latents"})


def load(path: Path) -> Latents:
    """The latents that `save` wrote; `UserError` where the file is missing, cut short, altered or inconsistent."""
    remedy = REMEDY if path.is_file() else "run the same command again: the recorded episodes are encoded"
    arrays, _ = load_weights(path, remedy)
    _check(path, arrays)
    stats = LatentStats(mean=jnp.asarray(arrays.pop("mean")), log_var=jnp.asarray(arrays.pop("log_var")))
    return Latents(stats=stats, **{name: jnp.asarray(array) for name, array in arrays.items()})


def concatenate(parts: Sequence[Latents]) -> Latents:
    """All episodes of `parts`, one after the other; every part was encoded by the same V."""
    shifts = np.cumsum([0, *(part.action.shape[0] for part in parts[:-1])])
    joined = jax.tree.map(lambda *arrays: jnp.asarray(np.concatenate(arrays)), *parts)
    start = [np.asarray(part.start) + np.int32(shift) for part, shift in zip(parts, shifts, strict=True)]
    return replace(joined, start=jnp.asarray(np.concatenate(start)))


def select(latents: Latents, episodes: np.ndarray) -> Latents:
    """The chosen episodes (indices [e]) with their frames, in the order given."""
    start, length = np.asarray(latents.start)[episodes], np.asarray(latents.length)[episodes]
    new_start = np.cumsum(length, dtype=np.int32) - length
    frames = np.repeat(start - new_start, length) + np.arange(length.sum(), dtype=np.int32)
    stats, action, reward = jax.tree.map(
        lambda array: jnp.asarray(np.asarray(array)[frames]), (latents.stats, latents.action, latents.reward)
    )
    return Latents(
        stats=stats,
        action=action,
        reward=reward,
        start=jnp.asarray(new_start),
        length=jnp.asarray(length),
        terminated=jnp.asarray(np.asarray(latents.terminated)[episodes]),
    )


def _half(name: str, values: np.ndarray) -> jax.Array:
    """Values as float16; `UserError` where one is not finite or beyond float16's largest, 65504."""
    values = np.asarray(values)
    limit = np.finfo(np.float16).max
    wrong = ~(np.abs(values) <= limit)
    if wrong.any():
        frame, dimension = np.argwhere(wrong)[0]
        raise UserError(
            f"V's {name} of frame {frame}, dimension {dimension}, is {values[frame, dimension]}, beyond float16 (at "
            f"most {limit:.0f}); V's training went astray: train it again with a lower vision.optimizer.learning_rate"
        )
    return jnp.asarray(values.astype(np.float16))


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise `UserError` unless the arrays are those of `_FIELDS` and the episodes tile the frames."""
    if arrays.keys() != _FIELDS.keys():
        _refuse(path, f"the arrays {', '.join(sorted(_FIELDS))}", ", ".join(sorted(arrays)) or "none")
    sizes: dict[str, int] = {}
    for name, (dtype, letters) in _FIELDS.items():
        array = arrays[name]
        known = tuple(sizes.get(letter, letter) for letter in letters)
        if array.ndim == len(letters):
            for letter, size in zip(letters, array.shape, strict=True):
                sizes.setdefault(letter, size)
        shape = tuple(sizes.get(letter) for letter in letters)
        if array.dtype != dtype or array.shape != shape:
            expected = f"{np.dtype(dtype)} [{', '.join(map(str, known))}]"
            _refuse(path, f"{name} as {expected}", f"{array.dtype} {list(array.shape)}")
    length = arrays["length"].astype(np.int64)
    tiled = np.array_equal(arrays["start"], np.cumsum(length) - length) and length.sum() == sizes["N"]
    if not tiled or not length.size or length.min() < 1:
        found = f"lengths from {length.min(initial=0)}, {length.sum()} in all, or starts that do not follow from them"
        _refuse(path, f"episodes of at least one frame that fill the {sizes['N']} frames one after the other", found)


def _refuse(path: Path, expected: str, found: str) -> NoReturn:
    raise UserError(f"{path} is damaged: expected {expected}, found {found}; {REMEDY}")
