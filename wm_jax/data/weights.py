"""Weights on disk: a nested dict of arrays in one safetensors file, with a checksum and a JSON header. No pickle."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wm_jax.data.files import require_readable, system_errors, write_atomically
from wm_jax.errors import DamagedError, UserError

SEPARATOR = "/"
HEADER = "wm_jax"
"""The only entry of the file's metadata: safetensors writes several entries in an order that varies between runs."""
REMEDY = "copy it again from its source, or run the stage that writes it again with --stages NAME --redo"


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by path: "encoder/conv1/kernel", "0/bias", …"""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=SEPARATOR): leaf for path, leaf in leaves}


def structured(leaves: dict[str, Any], like: Any) -> Any:
    """A pytree with the structure of `like` from leaves by path (see `flatten`)."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in flatten(like)])


def _nest(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *groups, last = name.split(SEPARATOR)
        inner: Any = tree
        for group in groups:
            inner = inner.setdefault(group, {}) if isinstance(inner, dict) else inner
        if not isinstance(inner, dict) or last in inner:
            raise DamagedError(f"{path} is damaged: expected {name} to be an array or a group of arrays, found both")
        inner[last] = array
    return tree


def _checksum(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    """SHA-256 of the file's contents: `about`, and each array's name, type, shape and values."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].dtype}:{arrays[name].shape}".encode())
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def save_weights(path: Path, tree: Any, about: dict[str, Any]) -> None:
    """Write the pytree `tree` of arrays and the JSON value `about` to `path`, completely or not at all.

    The same contents give the same bytes. Raises `UserError` if the disk is full or the folder is not writable.
    """
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flatten(tree).items()}
    header = json.dumps({"about": about, "sha256": _checksum(arrays, about)})
    write_atomically(path, save(arrays, metadata={HEADER: header}))


def load_weights(path: Path, remedy: str = REMEDY) -> tuple[dict[str, Any], dict[str, Any]]:
    """(nested dict of arrays, about) as written by `save_weights`.

    Raises `UserError` if the file is missing, of another kind, altered or unreadable, or if it holds values that are
    not finite. The message ends with what to do (`remedy`).
    """
    # The library reports an unreadable file as a missing one.
    require_readable(path, remedy)
    try:
        with system_errors("read", path), safe_open(path, framework="numpy") as file:
            metadata, names = file.metadata() or {}, file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise DamagedError(f"{path} is damaged: expected safetensors, found {error}; {remedy}") from None
    try:
        header = json.loads(metadata[HEADER])
        about, recorded = dict(header["about"]), str(header["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{path} is damaged or was not written by wm-jax: expected a header {HEADER} of JSON with `about` and "
            f"`sha256`, found {type(error).__name__}: {error}; {remedy}"
        ) from None
    found = _checksum(arrays, about)
    if found != recorded:
        raise DamagedError(f"{path} was altered: expected SHA-256 {recorded[:12]}…, found {found[:12]}…; {remedy}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path} is unusable: {name} holds values that are not finite; {remedy}")
    return _nest(path, arrays), about


def halved(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """`tree`, to be written to `path`, with floating point numbers as float16. Raises `UserError`, which names the
    first array with a value that is not finite in float16."""
    halves = jax.tree.map(_half, tree)
    for name, half in flatten(halves).items():
        if not np.isfinite(half).all():
            raise UserError(
                f"{path} cannot use float16: {name} holds values beyond ±{np.finfo(np.float16).max:.0f} or not "
                "finite; leave --half out"
            )
    return halves


def _half(array: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.asarray(array)
        return array.astype(np.float16) if np.issubdtype(array.dtype, np.floating) else array


def check_like(path: Path, tree: dict[str, Any], like: Any) -> Any:
    """The arrays of `tree` in the structure of `like` (arrays or `jax.ShapeDtypeStruct`). Raises `UserError`, which
    names the first array whose shape or type differs."""
    found = flatten(tree)
    different = misfit(flatten(like), found)
    if different:
        raise UserError(
            f"weights file {path} does not fit the experiment's settings: {different}; use the settings it was made with"
        )
    return structured(found, like)


def misfit(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    """A description of the first array, by name, whose shape or type differs; None if all agree."""
    for name in sorted(expected.keys() | found.keys()):
        wanted, present = (
            f"{leaves[name].dtype}{list(leaves[name].shape)}" if name in leaves else "nothing"
            for leaves in (expected, found)
        )
        if wanted != present:
            return f"{name} expected {wanted}, found {present}"
    return None
