"""Encoded recorded frames on disk: one safetensors file.

It holds the arrays of `Observations`: encoded/…, action, reward, start, length and terminated.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.data.weights import SEPARATOR, flatten, load_weights, save_weights, structured
from wm_jax.errors import UserError
from wm_jax.types import Observations

ENCODED = "encoded"
REMEDY = "delete this file and run the same command again: the episodes are encoded again"
_RECORDED = {
    "action": (np.float32, ("N", "A")),
    "reward": (np.float32, ("N",)),
    "start": (np.int32, ("E",)),
    "length": (np.int32, ("E",)),
    "terminated": (np.bool_, ("E",)),
}
"""Type and shape of each array besides the encoded frames; equal letters stand for equal sizes."""


def build(
    encoded: Any, action: np.ndarray, reward: np.ndarray, length: np.ndarray, terminated: np.ndarray
) -> Observations:
    """Observations from the encoding of all frames (a pytree [N, ...]) and the episodes' records, in the same order.

    Raises `UserError` if an encoded number does not fit float16.
    """
    encoded = jax.tree_util.tree_map_with_path(_half, encoded)
    length = np.asarray(length, np.int32)
    return Observations(
        encoded=encoded,
        action=jax.device_put(np.asarray(action, np.float32)),
        reward=jax.device_put(np.asarray(reward, np.float32)),
        start=jax.device_put(np.cumsum(length, dtype=np.int32) - length),
        length=jax.device_put(length),
        terminated=jax.device_put(np.asarray(terminated, bool)),
    )


def save(path: Path, observations: Observations) -> None:
    """Write the file completely or not at all. Raises `UserError` if writing fails."""
    names = (ENCODED, *_RECORDED)
    save_weights(path, {name: getattr(observations, name) for name in names}, {"content": "latents"})


def load(path: Path, like: Any) -> Observations:
    """Load the observations that `save` wrote. `like` is one encoded frame (arrays or `jax.ShapeDtypeStruct`).

    Raises `UserError` if the file is missing, truncated, altered, inconsistent, or from another world model.
    """
    remedy = REMEDY if path.is_file() else "run the same command again: the recorded episodes are encoded"
    arrays = flatten(load_weights(path, remedy)[0])
    if not any(name.split(SEPARATOR)[0] == ENCODED for name in arrays):
        # Format 1 stores the encoded arrays without a prefix.
        arrays = {name if name in _RECORDED else f"{ENCODED}{SEPARATOR}{name}": array for name, array in arrays.items()}
    wrapped = {ENCODED: like}
    _check(path, arrays, {name: _stored(leaf) for name, leaf in flatten(wrapped).items()})
    found = jax.device_put(arrays)
    return Observations(**structured(found, wrapped), **{name: found[name] for name in _RECORDED})


def concatenate(parts: Sequence[Observations]) -> Observations:
    """All episodes of `parts`, in order. All parts were encoded by the same model."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0, *(part.action.shape[0] for part in parts[:-1])])
    joined = jax.tree.map(lambda *arrays: jax.device_put(np.concatenate(arrays)), *parts)
    start = [np.asarray(part.start) + np.int32(shift) for part, shift in zip(parts, shifts, strict=True)]
    return replace(joined, start=jax.device_put(np.concatenate(start)))


def extents(observations: Observations, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first frame and the length of the chosen episodes (indices [e]); on the host."""
    start, length = jax.device_get((observations.start, observations.length))
    return start[episodes], length[episodes]


def select(observations: Observations, episodes: np.ndarray) -> Observations:
    """The chosen episodes (indices [e]) with their frames, in the given order."""
    start, length = extents(observations, episodes)
    new_start = np.cumsum(length, dtype=np.int32) - length
    frames = np.repeat(start - new_start, length) + np.arange(length.sum(), dtype=np.int32)
    encoded, action, reward = jax.tree.map(
        lambda array: jax.device_put(np.asarray(array)[frames]),
        (observations.encoded, observations.action, observations.reward),
    )
    return Observations(
        encoded=encoded,
        action=action,
        reward=reward,
        start=jax.device_put(new_start),
        length=jax.device_put(length),
        terminated=jax.device_put(np.asarray(observations.terminated)[episodes]),
    )


def padded(observations: Observations) -> Observations:
    """The same, padded to the next powers of two in frames and episodes, so that compiled programs serve until the data
    doubles. Padding frames belong to no episode."""
    frames, episodes = len(observations.action), len(observations.start)
    more_frames, more_episodes = (padded_size(count) - count for count in (frames, episodes))

    def pad(array: Any, more: int, value: Any = 0) -> Any:
        # By NumPy: JAX would compile it for every shape.
        wider = ((0, more), *((0, 0),) * (array.ndim - 1))
        return jax.device_put(np.pad(np.asarray(array), wider, constant_values=value))

    encoded, action, reward = jax.tree.map(
        lambda array: pad(array, more_frames), (observations.encoded, observations.action, observations.reward)
    )
    # Padding episodes start after every real position.
    start = pad(observations.start, more_episodes, np.iinfo(np.int32).max)
    length, terminated = pad(observations.length, more_episodes), pad(observations.terminated, more_episodes, False)
    return Observations(encoded, action, reward, start, length, terminated)


def padded_size(count: int) -> int:
    """The smallest power of two that is at least `count`: frames or episodes after `padded`."""
    return 1 << (count - 1).bit_length()


def bytes_of_a_frame(like: Any, action_size: int) -> int:
    """Bytes of one frame, on disk and on a device. `like` is one encoded frame."""
    encoded = sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in map(_stored, jax.tree.leaves(like)))
    return encoded + np.dtype(np.float32).itemsize * (action_size + 1)


def shapes(frames: int, episodes: int, like: Any, action_size: int) -> Observations:
    """The shapes for this many frames and episodes, as `jax.ShapeDtypeStruct`. `like` is one encoded frame."""
    sizes = {"N": frames, "E": episodes, "A": action_size}
    encoded = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((frames, *leaf.shape), _stored(leaf).dtype), like)
    recorded: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(tuple(sizes[letter] for letter in letters), dtype)
        for name, (dtype, letters) in _RECORDED.items()
    }
    return Observations(encoded=encoded, **recorded)


def _stored(leaf: Any) -> jax.ShapeDtypeStruct:
    """The type and shape in which an encoded number is stored."""
    return jax.ShapeDtypeStruct(leaf.shape, np.float16 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)


def _half(path: Any, values: np.ndarray) -> jax.Array:
    """Floating point values as float16. Raises `UserError` if one is not finite or exceeds float16's maximum, 65504."""
    values = np.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return jax.device_put(values)
    values, limit = values.astype(np.float32), np.finfo(np.float16).max
    wrong = ~(np.abs(values) <= limit)
    if wrong.any():
        frame, *place = np.argwhere(wrong)[0].tolist()
        name = jax.tree_util.keystr(path, simple=True, separator=SEPARATOR) or "encoding"
        raise UserError(
            f"the world model's encoding of frame {frame} does not fit float16 (at most {limit:.0f}): its {name} {place} "
            f"is {values[(frame, *place)]}; its training diverged: train it again with a lower learning rate"
        )
    return jax.device_put(values.astype(np.float16))


def _check(path: Path, arrays: dict[str, np.ndarray], encoded: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Raise `UserError` unless the arrays match `_RECORDED` and `encoded`, and the episodes cover all frames exactly
    once."""
    expected = {*_RECORDED, *encoded}
    if arrays.keys() != expected:
        _refuse(path, f"the arrays {', '.join(sorted(expected))}", ", ".join(sorted(arrays)) or "none")
    sizes: dict[Any, int] = {}
    fields = {name: (leaf.dtype, ("N", *leaf.shape)) for name, leaf in encoded.items()} | _RECORDED
    for name, (dtype, letters) in fields.items():
        array = arrays[name]
        known = tuple(sizes.get(letter, letter) for letter in letters)
        if array.ndim == len(letters):
            for letter, size in zip(letters, array.shape, strict=True):
                sizes.setdefault(letter, letter if isinstance(letter, int) else size)
        shape = tuple(sizes.get(letter) for letter in letters)
        if array.dtype != dtype or array.shape != shape:
            wanted = f"{np.dtype(dtype)} [{', '.join(map(str, known))}]"
            _refuse(path, f"{name} as {wanted}", f"{array.dtype} {list(array.shape)}")
    length = arrays["length"].astype(np.int64)
    tiled = np.array_equal(arrays["start"], np.cumsum(length) - length) and length.sum() == sizes["N"]
    if not tiled or not length.size or length.min() < 1:
        found = (f"lengths of at least {length.min(initial=0)} that sum to {length.sum()}, or starts that do not match the "
                 "lengths")  # fmt: skip
        _refuse(path, f"episodes of at least one frame that fill the {sizes['N']} frames one after the other", found)


def _refuse(path: Path, expected: str, found: str) -> NoReturn:
    raise UserError(f"{path} is damaged: expected {expected}, found {found}; {REMEDY}")
