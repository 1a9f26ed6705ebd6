"""Our weights as PyTorch has them: other names, and channels first."""

from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def linear(name: str, layer: dict[str, Any]) -> Weights:
    """A dense layer."""
    return {f"{name}.weight": layer["kernel"].T, f"{name}.bias": layer["bias"]}


def convolutions(encoder: dict[str, Any], decoder: dict[str, Any]) -> Weights:
    """V's convolutions, down and up, and the decoder's dense layer."""
    found = linear("dense", decoder["dense"])
    for i in range(4):
        for name, layer in (("down", encoder[f"conv{i + 1}"]), ("up", decoder[f"deconv{i + 1}"])):
            found |= {f"{name}.{i}.weight": layer["kernel"].transpose(3, 2, 0, 1), f"{name}.{i}.bias": layer["bias"]}
    return found
