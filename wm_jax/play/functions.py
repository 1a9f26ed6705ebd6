"""The functions of a dream that a page calls, written as graphs that share their weights."""

from typing import Any

import jax
import jax.numpy as jnp

from wm_jax.dream import Dream
from wm_jax.dream.environment import DreamState
from wm_jax.play.graph import Function, Graph
from wm_jax.play.rules import add
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import Action, Array, Params
from wm_jax.vision import Vision
from wm_jax.worlds.protocol import Actor, World, shapes


def functions(graph: Graph, dream: Dream, actor: Actor, params: Params, weights: Params) -> dict[str, Function]:
    """Write the functions that a page needs of a dream and its controller into `graph`. `params` and `weights` are the
    world model's and C's.

    Arguments and results are the leaves of these pytrees, in order; a key is uint32 [2], a state a `DreamState`:

    - draw: key → the key of the next step, the key of C's action, this step's noise
    - act: state, C's carry, key → action [A], carry
    - step: state, action [A], noise, temperature [] → state, reward [], terminated [], truncated [], the probability that
      the dream ends [], and, if the world model gives it, the entropy of its prediction []
    - frame: state → float32 [64, 64, 3] in [0, 1]
    - with a V: see: frame uint8 [64, 64, 3] → the mean of its z [Z]; imagined: z [Z] → frame, as above

    Raises `UserError` if one of them uses a primitive that a page cannot evaluate.
    """
    model, world = dream.model, World(dream.model, params)
    state = shapes(model)[2]
    begun = jax.eval_shape(lambda world: DreamState(world, jnp.int32(0), jnp.float32(0)), state)
    action, key, scalar = _shape((model.action_size,)), _shape((2,), jnp.uint32), _shape(())

    def draw(key: Array) -> Any:
        following, acting, chance = jax.random.split(jax.random.wrap_key_data(key), 3)
        return *(jax.random.key_data(each) for each in (following, acting)), dream.noise(chance)

    def act(state: DreamState, carry: Any, key: Array) -> Any:
        return actor.act(weights, world, state.world, carry, jax.random.wrap_key_data(key))

    def step(state: DreamState, action: Action, noise: Any, temperature: Array) -> Any:
        told = (model.imagine(params, state.world, action, noise.world, temperature)[1].entropy,)
        ending = dream.prospect(params, state, action, noise.world, temperature)[2]
        return dream.step(params, state, action, noise, temperature), ending, told

    noise = jax.eval_shape(draw, key)[2]
    found = {
        "draw": add(graph, draw, key),
        "act": add(graph, act, begun, actor.begin(), key),
        "step": add(graph, step, begun, action, noise, scalar),
        "frame": add(graph, lambda state: world.frame(state.world), begun),
    }
    vision = getattr(model.learners.get("vision"), "model", None)
    if isinstance(vision, Vision):
        mine = params["vision"]
        found["see"] = add(graph, lambda frame: vision.encode(mine, frame).mean, _shape(FRAME_SHAPE, jnp.uint8))
        found["imagined"] = add(graph, lambda z: vision.decode(mine, z), _shape((vision.config.latent_size,)))
    return found


def _shape(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
