"""The benchmark of the RSSM, and its reference in PyTorch."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_weights import convolutions, linear

from wm_jax.bench import references, rssm
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.limit import operations
from wm_jax.data.sequences import steps_at
from wm_jax.pipeline.progress import Screen
from wm_jax.rssm.config import SIZE1M
from wm_jax.rssm.loss import Batch, loss
from wm_jax.rssm.model import RSSM, Frames
from wm_jax.worlds.rssm import RSSMWorld

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

SMALL = replace(
    SIZE1M,
    deterministic_size=16,
    variables=3,
    hidden_size=8,
    head_size=8,
    width=1,
    blocks=2,
    batch_size=3,
    sequence_length=5,
)


def test_it_has_rows_for_the_dream_and_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(rssm, "SIZE1M", SMALL)
    config = BenchConfig(population=2, rollouts=2, horizon=4, seconds=0)
    dream, training, compiling = rssm.measure(config, Screen()).rows
    assert dream.unit == "steps/s" and dream.limit and dream.against == "matrix products of the same shapes"
    assert training.unit == "frames/s" and training.limit is None and training.against == ""
    assert min(dream.value, training.value, compiling.value) > 0


def test_the_limit_counts_what_a_dreamt_step_multiplies():
    model = RSSM(SIZE1M, Frames(SIZE1M.width), rssm.ACTION_SIZE)
    world, params = RSSMWorld(model), jax.eval_shape(lambda: {"rssm": model.init(jax.random.key(0))})
    state = jax.eval_shape(lambda: model.initial())
    step = jax.jit(world.imagine).lower(
        params, state, jnp.zeros(1, jnp.float32), jax.eval_shape(world.noise, jax.random.key(0)), 1.0
    )
    counted = (step.cost_analysis() or {})["flops"]
    assert operations([(1, rssm.step_products(model, 1))]) == pytest.approx(counted, rel=0.1)


def test_torch_has_the_same_loss(monkeypatch):
    torch = pytest.importorskip("torch", reason="needs the extra `bench`")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.delitem(sys.modules, "torch_rssm", raising=False)
    model = RSSM(replace(SMALL, free_nats=0.2), Frames(SMALL.width), rssm.ACTION_SIZE)
    fresh = model.init(jax.random.key(0))
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + np.float32(0.1) * draw.standard_normal(leaf.shape, np.float32), fresh)
    length, lanes = SMALL.sequence_length, SMALL.batch_size
    recorded = rssm.recordings(lanes, length)
    positions = jnp.arange(lanes * length, dtype=jnp.int32).reshape(lanes, length)
    batch = Batch(recorded.encoded[positions.T], steps_at(recorded, positions.T))
    key = jax.random.key(2)
    follow_key, prior_key, _ = jax.random.split(jax.random.clone(key), 3)
    noise = np.asarray(model.latent.noise(follow_key, (length, lanes)))
    last = np.asarray(model.latent.noise(prior_key, (length, lanes)))[-1]
    expected, _ = loss(model, params, batch, key)
    network = import_module("torch_rssm").Network(model.config, rssm.ACTION_SIZE)
    network.load_state_dict(
        {name: torch.tensor(np.array(array)) for name, array in as_torch(params).items()}, strict=False
    )
    obs, action, reward = (
        torch.tensor(np.array(array)) for array in (batch.obs, batch.steps.action, batch.steps.reward)
    )
    found = network.loss(obs, action, reward, torch.tensor(noise), torch.tensor(last))
    np.testing.assert_allclose(found.item(), expected, rtol=1e-4)


def as_torch(params):
    """Our weights by the reference's names, in its order of axes."""
    found = convolutions(params["encoder"], params["decoder"])

    def hidden(name, layer):
        found.update(linear(f"{name}.dense", layer))
        found[f"{name}.scale"] = layer["scale"]

    for number, name in enumerate(("deterministic", "stochastic", "action")):
        hidden(f"inputs.{number}", params["input"][name])
    gru = params["gru"]
    found |= {
        "gru.hidden": gru["hidden"]["kernel"],
        "gru.hidden_bias": gru["hidden"]["bias"],
        "gru.scale": gru["hidden"]["scale"],
    }
    found |= {"gru.gates": gru["gates"]["kernel"], "gru.gates_bias": gru["gates"]["bias"]}
    for name in ("prior", "posterior", "reward"):
        head = "reward" if name == "reward" else f"{name}_head"
        layers = len(params[name]) - 1
        for number in range(layers):
            hidden(f"{head}.{number}", params[name][f"hidden_{number}"])
        found |= linear(f"{head}.{layers}", params[name]["output"])
    return found
