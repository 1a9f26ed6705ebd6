"""Weights of any structure on disk: by their paths there and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from wm_jax.data.weights import check_like, flatten, halved, load_weights, save_weights, structured
from wm_jax.errors import UserError


@struct.dataclass
class Layer:
    kernel: Any
    bias: Any


def weights() -> dict[str, Any]:
    """Layers in a tuple, of more than ten so that their names do not sort as their numbers; nothing where there is none."""
    rng = np.random.default_rng(0)
    layers = tuple(
        Layer(rng.normal(size=(2, n)).astype(np.float32), None if n % 2 else np.ones(n)) for n in range(1, 13)
    )
    return {"layers": layers, "scale": [np.float32(3), np.arange(4)], "none": ()}


def assert_same(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_leaves_are_named_by_their_path() -> None:
    names = flatten({"b": {"kernel": 1}, "a": (Layer(2, None), Layer(3, 4)), "c": [5]})
    assert names == {"a/0/kernel": 2, "a/1/bias": 4, "a/1/kernel": 3, "b/kernel": 1, "c/0": 5}
    assert flatten((Layer(1, 2),)) == {"0/kernel": 1, "0/bias": 2}
    assert flatten(()) == {}


def test_leaves_find_their_place_by_name_alone() -> None:
    tree = weights()
    leaves = flatten(tree)
    assert_same(structured(dict(sorted(leaves.items(), reverse=True)), tree), tree)
    like = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)
    assert_same(structured(leaves, like), tree)


@pytest.mark.parametrize(
    "part", [lambda tree: tree, lambda tree: tree["layers"], lambda tree: tree["layers"][1], lambda tree: ()]
)
def test_any_structure_is_saved_and_loaded_again(part: Callable[[Any], Any], tmp_path: Path) -> None:
    path, tree = tmp_path / "weights.safetensors", part(weights())
    save_weights(path, tree, {"model": "C"})
    loaded, about = load_weights(path)
    assert about == {"model": "C"}
    assert_same(check_like(path, loaded, tree), tree)


def refusal(tree: Any, like: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_like(Path("weights.safetensors"), tree, like)
    return str(caught.value)


def test_the_first_array_that_does_not_fit_is_named() -> None:
    layers = weights()["layers"]
    as_loaded = {str(number): {"kernel": layer.kernel} for number, layer in enumerate(layers[:1])}
    path = "weights file weights.safetensors does not fit the experiment's settings: "
    assert refusal(as_loaded, layers[:2]).startswith(f"{path}1/bias expected float64[2], found nothing")
    assert refusal(as_loaded, ()).startswith(f"{path}0/kernel expected nothing, found float32[2, 1]")
    other = (Layer(jax.ShapeDtypeStruct((2, 1), jnp.float16), None),)
    assert refusal(as_loaded, other).startswith(f"{path}0/kernel expected float16[2, 1], found float32[2, 1]")
    other = (Layer(jax.ShapeDtypeStruct((1, 2), jnp.float32), None),)
    assert refusal(as_loaded, other).endswith(
        "expected float32[1, 2], found float32[2, 1]; use the settings it was made with"
    )


def test_half_precision_keeps_the_structure_and_refuses_what_it_cannot_hold() -> None:
    layers = weights()["layers"]
    halves = halved(Path("bundle"), layers)
    assert jax.tree.structure(halves) == jax.tree.structure(layers)
    assert {leaf.dtype for leaf in jax.tree.leaves(halves)} == {np.dtype(np.float16)}
    layers[1].bias[1] = 1e5
    with pytest.raises(UserError, match=r"^bundle cannot use float16: 1/bias holds values beyond ±65504"):
        halved(Path("bundle"), layers)
