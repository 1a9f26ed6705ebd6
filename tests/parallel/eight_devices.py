"""Run in a process of its own, with eight forced devices: V and M train laid over them as they do on one."""

import sys
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.actors.mlp import MLPConfig
from wm_jax.checkpoints import Checkpoints
from wm_jax.data import observations
from wm_jax.data.training import TrainingData
from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.memory import train as memory
from wm_jax.memory.learner import MemoryLearner
from wm_jax.optimizers import OptimizerConfig
from wm_jax.pipeline import side_by_side
from wm_jax.search import Dreams
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.vision import LatentStats, Vision, VisionConfig
from wm_jax.vision import train as vision
from wm_jax.vision.learner import VisionLearner
from wm_jax.worlds.vision_memory import VisionMemory

STEPS = 3
ADAM = OptimizerConfig(learning_rate=1e-3)
ONE, EIGHT = parallel.mesh(1), parallel.mesh()


def new_key():
    return jax.random.key(5)


def close(found, expected, tolerance: float = 1e-5) -> None:
    """Sums over a batch that is cut in eight differ in their last bits."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected)


def the_mesh_is_all_devices_or_the_first_ones() -> None:
    assert EIGHT.size == 8 and EIGHT.axis_names == (parallel.AXIS,)
    assert parallel.mesh(3).devices.tolist() == jax.devices()[:3]
    for count in (9, -1):
        with pytest.raises(UserError, match=f"8.*{count}"):
            parallel.mesh(count)


def replicated_is_whole_on_each_device() -> None:
    tree = {"key": new_key(), "host": np.arange(6.0, dtype=np.float32), "device": jnp.ones((2, 3), jnp.float32)}
    whole = parallel.replicate(EIGHT, tree)
    assert all(len(leaf.sharding.device_set) == 8 and leaf.is_fully_replicated for leaf in jax.tree.leaves(whole))
    local = parallel.local(whole)
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(local))
    assert jax.random.key_data(local["key"]).tolist() == jax.random.key_data(new_key()).tolist()
    close({name: local[name] for name in ("host", "device")}, {name: tree[name] for name in ("host", "device")}, 0)
    rows = parallel.rows(EIGHT, np.arange(16).reshape(16, 1))
    assert [shard.data.shape for shard in rows.addressable_shards] == [(2, 1)] * 8
    np.testing.assert_array_equal(parallel.local(rows)[:, 0], np.arange(16))


def compiled(step: Any) -> int:
    """How often a jitted function was compiled."""
    return step._cache_size()


def train_vision(mesh):
    model = Vision(VisionConfig(latent_size=4, width=4, batch_size=16, steps=STEPS, optimizer=ADAM))
    state = VisionLearner(model).start(model.init(new_key()), mesh)
    batches = np.random.default_rng(0).integers(0, 256, (STEPS, 16, 64, 64, 3), np.uint8)
    before, metrics = compiled(vision.train_step), {}
    for batch in batches:
        state, metrics = vision.train_step(model, state, parallel.rows(mesh, batch), new_key())
    assert compiled(vision.train_step) == before + 1
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
    return state, metrics


def train_memory(mesh):
    config = MemoryConfig(hidden_size=16, mixtures=2, predict_done=True, restart_input=True, predict_reward=True,
                          batch_size=8, sequence_length=10, steps=STEPS, optimizer=ADAM)  # fmt: skip
    model, random = Memory(config, 3, 2, (-1.0, 1.0)), np.random.default_rng(0)
    recorded = observations.build(
        encoded=LatentStats(jnp.asarray(random.normal(size=(340, 3))), jnp.asarray(random.normal(size=(340, 3)) - 2)),
        action=random.uniform(-1, 1, size=(340, 2)),
        reward=random.normal(size=340),
        length=np.array([70, 90, 120, 60]),
        terminated=np.full(4, True),
    )
    learner, data = MemoryLearner(model), TrainingData(cast(Any, None), np.arange(4), np.arange(0), recorded)
    state, step = learner.start(model.init(new_key()), mesh), learner.advance(data, 0, 0, new_key(), mesh)
    before, metrics = compiled(memory.train_step), {}
    for _ in range(STEPS):
        state, metrics = step(state)
    assert compiled(memory.train_step) == before + 1
    assert [len(shard.data) for shard in state.memory_state.h.addressable_shards] == [8 // mesh.size] * mesh.size
    return state, metrics


def a_checkpoint_goes_back_where_it_was(state) -> None:
    checkpoints = Checkpoints(Path(sys.argv[1]) / "checkpoints")
    checkpoints.save(STEPS, state)
    loaded = checkpoints.load(STEPS, jax.tree.map(jnp.zeros_like, state))
    close(loaded, state, 0)
    assert loaded.memory_state.h.sharding == state.memory_state.h.sharding


def searches_are_dealt_out_and_find_the_same() -> None:
    """Ten on eight devices: two covariances on each of them, six copies among these."""
    network = MemoryConfig(hidden_size=4, mixtures=2, predict_done=True, restart_input=True)
    model = VisionMemory(Vision(VisionConfig(latent_size=3, width=4)), Memory(network, 3, 1))
    dream = Dream(model, DreamConfig(horizon=12))
    actor = MLPConfig(features=("z", "h")).build(dream)
    search, size = CMAESConfig(population=8, rollouts=2), actors.size(actor)
    params, keys = model.init(new_key()), jax.random.split(new_key(), 10)
    states = jax.vmap(model.begin, (None, None, 0))(params, LatentStats(jnp.zeros(3), jnp.zeros(3)), keys)
    temperatures, found = jnp.linspace(0.5, 1.5, 10, dtype=jnp.float32), []
    for mesh in (ONE, EIGHT):
        built = search.build(actor, dream, 6, mesh)
        dreams = parallel.replicate(mesh, Dreams(params, states, jnp.float32(1.0)))
        arguments = parallel.replicate(mesh, (jax.vmap(built.init)(jax.random.clone(keys)), temperatures, keys))
        begun, tau, own = arguments
        again = (built, begun, dreams, tau, 0, own)
        text = side_by_side.iterate.lower(*again, count=3, mesh=mesh).compile().as_text() or ""
        assert f"f32[{10 if mesh is ONE else 2},{size},{size}]" in text.split("syevd")[0].splitlines()[-1], "eigh"
        found.append(side_by_side.iterate(*again, count=3, mesh=mesh))
    (one, metrics_one), (eight, metrics_eight) = found
    close(metrics_eight, metrics_one, 1e-4)
    close(eight.mean, one.mean, 1e-4)
    assert eight.mean.is_fully_replicated and len(eight.mean) == 10


the_mesh_is_all_devices_or_the_first_ones()
replicated_is_whole_on_each_device()
searches_are_dealt_out_and_find_the_same()
for train in (train_vision, train_memory):
    (one, metrics_one), (eight, metrics_eight) = train(ONE), train(EIGHT)
    close(eight, one)
    close(metrics_eight, metrics_one)
    a_checkpoint_goes_back_where_it_was(eight) if train is train_memory else None
