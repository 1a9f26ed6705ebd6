"""What rounding in M's products does to the ranking of candidates, with an M that was trained: the shipped Car Racing one.

TensorFloat-32 exists on accelerators only: here the operands are rounded to its ten bits of mantissa.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

from wm_jax.actors import protocol as actors
from wm_jax.dream import population_returns, start_states
from wm_jax.memory import model
from wm_jax.pipeline.bundle import load

pytestmark = pytest.mark.whole

BUNDLE = Path(__file__).parents[2] / "wm_jax" / "pretrained" / "car_racing.safetensors"


def test_ten_bits_leave_the_ranking_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more than another draw of the dreams' chance does; bfloat16's seven bits lie between."""
    bundle = load(BUNDLE)
    dream = replace(bundle.models.dream, config=replace(bundle.models.dream.config, horizon=200))
    actor, best = bundle.models.actor, actors.flat(bundle.weights)
    starts = start_states(dream, bundle.params, bundle.recorded, jax.random.key(0))
    spread = 0.5 * best.std() * jax.random.normal(jax.random.key(1), (48, best.size), best.dtype)
    population = actors.unflat(actors.shapes(actor), best[None] + spread)

    def means(precision: str, noise: int = 3) -> np.ndarray:
        rounded = replace(dream, config=replace(dream.config, precision=precision))
        key = jax.random.key(noise)
        return population_returns(rounded, actor, bundle.params, starts, population, key, rollouts=4).returns.mean(1)

    exact, half, other = means("float32"), means("bfloat16"), means("float32", noise=4)

    def ten_bits(layer, inputs, plain=model.dense):
        low = [jax.lax.reduce_precision(array, 8, 10) for array in (layer["kernel"], inputs)]
        return plain({**layer, "kernel": low[0]}, low[1])

    monkeypatch.setattr(model, "dense", ten_bits)
    rounded = means("tensorfloat32")
    assert not np.array_equal(exact, rounded), "the rounding must reach the products"
    tf32, bf16, chance = (float(cast(Any, spearmanr(exact, found))[0]) for found in (rounded, half, other))
    assert tf32 > 0.97 and tf32 > bf16 > 0.88 > chance, (tf32, bf16, chance)
