"""What wm_jax is compared with computes the same function."""

import sys
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_weights import convolutions

from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLPConfig
from wm_jax.dream import Dream, DreamConfig, DreamNoise, DreamState
from wm_jax.memory import Memory, MemoryConfig, MemoryState, MixtureNoise
from wm_jax.memory.loss import Sequences, loss
from wm_jax.vision import Vision, VisionConfig
from wm_jax.worlds import World
from wm_jax.worlds.vision_memory import VisionMemory, VisionMemoryState

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DREAMS, Z, H = 7, 6, 8
MEMORY = Memory(MemoryConfig(H, 3, predict_done=True, restart_input=True), Z, 1)
PARAMS = MEMORY.init(jax.random.key(0))
MODEL = VisionMemory(Vision(VisionConfig(latent_size=Z)), MEMORY)
DREAM = Dream(MODEL, DreamConfig(temperature=1.3))
ACTOR = MLPConfig(features=("z", "c", "h"), bias=False).build(DREAM)
NO_TORCH = "needs the extra `bench`"


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module(name)


def draws(*shape):
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def ours(restart):
    """Actions, next states and done [B] of a step of some dreams in the middle or, with `restart`, at the start."""
    memory = MemoryState(h=jnp.asarray(draws(1, DREAMS, H)[0]), c=jnp.asarray(draws(2, DREAMS, H)[0]))
    z, weights = jnp.asarray(draws(DREAMS, Z)), jnp.asarray(draws(DREAMS, actors.size(ACTOR)))
    uniform, normal = np.random.default_rng(0).random((DREAMS, Z), np.float32), draws(3, DREAMS, Z)[0]
    noise = MixtureNoise(jnp.asarray(uniform), jnp.asarray(normal))
    before = VisionMemoryState(z, memory, jnp.full(DREAMS, restart, jnp.float32))
    params, population = {"memory": PARAMS}, actors.unflat(actors.shapes(ACTOR), weights)
    act = jax.vmap(ACTOR.act, (0, None, 0, None, None))
    action, _ = act(population, World(MODEL, params), before, None, jax.random.key(0))
    state = DreamState(before, jnp.zeros(DREAMS, jnp.int32), jnp.zeros(DREAMS, jnp.float32))
    after, _, done, _ = jax.vmap(DREAM.step, (None, 0, 0, 0))(
        params, state, action, DreamNoise(noise, jnp.zeros(DREAMS, jnp.float32))
    )
    return jax.tree.map(np.asarray, (before, weights, noise, action, after.world, done))


@pytest.mark.parametrize("restart", [0.0, 1.0])
def test_numpy_dreams_the_same(restart, monkeypatch):
    before, weights, noise, action, after, done = ours(restart)
    loop = load("numpy_dream", monkeypatch).Loop(jax.tree.map(np.asarray, PARAMS), weights, before.z, 1.3)
    for b in range(DREAMS):
        state = (before.memory.h[b], before.memory.c[b])
        acted = loop.act(weights[b], before.z[b], state)
        np.testing.assert_allclose(acted, action[b], atol=1e-5)
        (h, c), z, over = loop.step(state, before.z[b], acted, restart, noise.uniform[b], noise.normal[b])
        np.testing.assert_allclose(h, after.memory.h[b], atol=1e-5)
        np.testing.assert_allclose(c, after.memory.c[b], atol=1e-5)
        np.testing.assert_allclose(z, after.z[b], atol=1e-4)
        assert over == done[b]
    assert 0 < done.sum() < DREAMS, "some dreams must end for this test to say something"


@pytest.mark.parametrize("restart", [0.0, 1.0])
def test_torch_dreams_the_same(restart, monkeypatch):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    before, weights, noise, action, after, done = ours(restart)
    loop = load("torch_dream", monkeypatch).Loop(jax.tree.map(np.asarray, PARAMS), weights, before.z, 1.3)
    z, h, c, uniform, normal = map(
        torch.tensor, (before.z, before.memory.h, before.memory.c, noise.uniform, noise.normal)
    )
    acted = loop.act(z, (h, c))
    np.testing.assert_allclose(acted, action, atol=1e-5)
    (h, c), z, over = loop.step((h, c), z, acted, torch.full((DREAMS, 1), restart), uniform, normal)
    np.testing.assert_allclose(h, after.memory.h, atol=1e-5)
    np.testing.assert_allclose(c, after.memory.c, atol=1e-5)
    np.testing.assert_allclose(z, after.z, atol=1e-4)
    np.testing.assert_array_equal(over, done)


def test_torch_memory_has_the_same_loss(monkeypatch):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    steps = 5
    z, action = draws(steps + 1, DREAMS, Z), draws(steps, DREAMS, 1)
    done = np.random.default_rng(0).random((steps, DREAMS)) < 0.3
    yes = jnp.ones((steps, DREAMS), bool)
    restart = jnp.zeros((steps, DREAMS), bool).at[0].set(True)
    sequences = Sequences(
        jnp.asarray(z[:-1]), jnp.asarray(action), restart, jnp.asarray(z[1:]),
        jnp.asarray(action), yes, jnp.zeros((steps, DREAMS), jnp.float32),
        jnp.asarray(done), yes,
    )  # fmt: skip
    expected, _ = loss(MEMORY, PARAMS, MEMORY.initial_state((DREAMS,)), sequences)
    network = load("torch_memory", monkeypatch).Network(Z, 1, MEMORY.config)
    gates, head = (jax.tree.map(np.asarray, PARAMS[name]) for name in ("gates", "head"))
    weights = {
        "lstm.weight_ih_l0": gates["kernel"][:-H].T, "lstm.weight_hh_l0": gates["kernel"][-H:].T,
        "lstm.bias_ih_l0": gates["bias"], "head.weight": head["kernel"].T, "head.bias": head["bias"],
    }  # fmt: skip
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, strict=False)
    found = network.loss(*map(torch.tensor, (z[:-1], action, z[1:], done.astype(np.float32))))
    np.testing.assert_allclose(found.item(), expected, rtol=1e-5)


@pytest.mark.parametrize("latent_size, parameters", [(32, 4_348_547), (64, 4_446_915)])
def test_torch_vision_has_the_papers_size(latent_size, parameters, monkeypatch):
    pytest.importorskip("torch", reason=NO_TORCH)
    network = load("torch_vision", monkeypatch).Network(latent_size)
    assert sum(weights.numel() for weights in network.parameters()) == parameters


def test_torch_vision_encodes_and_decodes_the_same(monkeypatch):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    model = Vision(VisionConfig(latent_size=4))
    # Biases that are not all 0, so that they count.
    params = jax.tree.map(
        lambda array: np.asarray(array) if array.ndim > 1 else draws(*array.shape) / 10, model.init(jax.random.key(0))
    )
    network = load("torch_vision", monkeypatch).Network(4)
    weights = convolutions(params["encoder"], params["decoder"])
    for name in ("mean", "log_var"):
        dense = params["encoder"][name]
        # Rows, columns, channels here; channels first there.
        kernel = dense["kernel"].reshape(2, 2, 256, -1).transpose(3, 2, 0, 1).reshape(-1, 1024)
        weights |= {f"{name}.weight": kernel, f"{name}.bias": dense["bias"]}
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    z = draws(2, 4)
    with torch.inference_mode():
        mean, log_var = network.encode(torch.tensor(frames).permute(0, 3, 1, 2) / 255)
        decoded = network.decode(torch.tensor(z)).permute(0, 2, 3, 1)
    stats = model.encode(params, jnp.asarray(frames))
    np.testing.assert_allclose(mean, stats.mean, atol=1e-4)
    np.testing.assert_allclose(log_var, stats.log_var, atol=1e-4)
    np.testing.assert_allclose(decoded, model.decode(params, jnp.asarray(z)), atol=1e-4)
