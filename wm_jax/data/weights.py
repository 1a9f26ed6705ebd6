"""Weights on disk: a nested dict of arrays as one safetensors file with a checksum and a JSON header. No pickle."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wm_jax.errors import UserError

SEPARATOR = "/"


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        SEPARATOR.join(str(getattr(part, "key", part)) for part in path): np.ascontiguousarray(np.asarray(leaf))
        for path, leaf in leaves
    }


def _nest(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *groups, last = name.split(SEPARATOR)
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = array
    return tree


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].dtype}:{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def save_weights(path: Path, tree: Any, about: dict[str, Any]) -> None:
    """Write the nested dict `tree` of arrays and the JSON-like `about` to `path`, atomically."""
    arrays = _flatten(tree)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    header = {"about": json.dumps(about), "sha256": _checksum(arrays)}
    temporary.write_bytes(save(arrays, metadata=header))
    os.replace(temporary, path)


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(nested dict of arrays, about) as `save_weights` wrote them. Raises `UserError` where the file is missing, no such
    file, altered, or holds values that are not finite."""
    remedy = "copy it again from where it came, or run the stage that writes it again"
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist; {remedy}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights file {path} is damaged: expected safetensors, found {error}; {remedy}") from None
    if "sha256" not in header or "about" not in header:
        raise UserError(f"{path} was not written by wm-jax: expected a header with `about` and `sha256`; {remedy}")
    found = _checksum(arrays)
    if found != header["sha256"]:
        raise UserError(
            f"weights file {path} was altered: expected SHA-256 {header['sha256'][:12]}…, found {found[:12]}…; {remedy}"
        )
    for name, array in arrays.items():
        if not np.isfinite(np.asarray(array, np.float32)).all():
            raise UserError(f"weights file {path}: {name} holds values that are not finite; {remedy}")
    return _nest(arrays), json.loads(header["about"])


def check_like(path: Path, tree: dict[str, Any], like: Any) -> dict[str, Any]:
    """`tree`, if it has the structure, shapes and types of `like` (arrays or `jax.ShapeDtypeStruct`). Raises `UserError`
    that names the first array that differs."""
    expected = {
        SEPARATOR.join(str(getattr(part, "key", part)) for part in key): leaf
        for key, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    found = _flatten(tree)
    for name in sorted(expected.keys() | found.keys()):
        wanted = f"{expected[name].dtype}{list(expected[name].shape)}" if name in expected else "nothing"
        present = f"{found[name].dtype}{list(found[name].shape)}" if name in found else "nothing"
        if wanted != present:
            raise UserError(
                f"weights file {path} does not fit the experiment's settings: {name} expected {wanted}, found {present}; "
                "use the settings it was made with"
            )
    return tree
