"""A small untrained V and M with two controllers, for the probe."""

from typing import Any

import jax
import jax.numpy as jnp

from wm_jax.actors.mlp import MLPConfig
from wm_jax.actors.protocol import shapes, size, unflat
from wm_jax.dream import Dream, DreamConfig
from wm_jax.explore import Explorer
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.rollouts.agent import Agent
from wm_jax.types import Params
from wm_jax.vision import Vision, VisionConfig
from wm_jax.worlds import Actor
from wm_jax.worlds.vision_memory import VisionMemory

WORLD = VisionMemory(
    Vision(VisionConfig(latent_size=4, width=4)),
    Memory(MemoryConfig(hidden_size=8, mixtures=2, predict_done=True, restart_input=True), 4, 1),
)
PARAMS = WORLD.init(jax.random.key(0))
ACTOR = MLPConfig(features=("z", "c", "h")).build(Dream(WORLD, DreamConfig()))


def controllers(actor: Actor = ACTOR, count: int = 2) -> Params:
    """Weights [count, ...] of controllers that do differently."""
    return unflat(shapes(actor), jax.random.normal(jax.random.key(2), (count, size(actor)), jnp.float32))


def row(tree: Any, number: int) -> Any:
    return jax.tree.map(lambda array: array[number], tree)


def rows(tree: Any, numbers: slice) -> Any:
    return jax.tree.map(lambda array: array[numbers], tree)


def small_agent(actor: Actor = ACTOR, explorer: Explorer | None = None) -> Agent:
    return Agent(WORLD, actor, explorer)
