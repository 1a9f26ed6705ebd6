"""The page's engine gives the numbers that JAX gives."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluated import evaluated

import wm_jax
from wm_jax.actors.distributions import Beta, Categorical, SquashedNormal
from wm_jax.dream.environment import DreamState
from wm_jax.dream.gymnasium_face import DreamSource
from wm_jax.errors import UserError
from wm_jax.play.functions import functions
from wm_jax.play.graph import Graph
from wm_jax.play.rules import add

pytestmark = pytest.mark.usefixtures("quick_compilation")

BUNDLES = Path(__file__).parents[2] / "wm_jax" / "pretrained"
STEPS = 50

normal = np.random.default_rng(0).standard_normal


def f(*shape: int) -> jax.Array:
    return jnp.asarray(normal(shape), jnp.float32)


X, Y, W, POSITIVE = f(3, 4), f(3, 4), f(4, 5), jnp.abs(f(3, 4)) + 0.1
WHOLE, BITS = jnp.arange(-6, 6, dtype=jnp.int32), jnp.array([1, 7, 2**31, 2**32 - 1], jnp.uint32)
HALVES = jnp.arange(-4, 5, dtype=jnp.float32) / 2
IMAGE, KERNEL = f(2, 6, 7, 3), f(3, 4, 3, 5)
KEY = jnp.array([3, 2**32 - 5], jnp.uint32)


def convolution(dimensions: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"), **settings):
    settings = {"window_strides": (1, 1), "padding": "VALID", **settings}
    return lambda x, w: jax.lax.conv_general_dilated(x, w, dimension_numbers=dimensions, **settings)


CASES = {
    "arithmetic": (lambda x, y: (x + y, x - y, x * y, x / y, -x, abs(x), x**2, x**3, jnp.sign(x)), (X, Y)),
    "a scalar stands for all": (lambda x: (2 * x, x - 1, 1 / x, jnp.maximum(x, 0)), (X,)),
    "functions": (
        lambda x: (jnp.exp(x), jnp.log(x), jnp.log1p(x), jnp.expm1(x), jnp.sqrt(x), jax.lax.rsqrt(x), jnp.sin(x),
                   jnp.cos(x), jnp.tanh(x), jax.nn.sigmoid(x), jnp.floor(x), jnp.ceil(x), x**1.5), (POSITIVE,),
    ),
    "activations": (lambda x: (jax.nn.relu(x), jax.nn.softplus(x), jax.nn.silu(x), jax.nn.elu(x), jax.nn.gelu(x)), (X,)),
    "softmax": (lambda x: (jax.nn.softmax(x), jax.nn.log_softmax(x, 0), jax.nn.logsumexp(x, -1)), (X,)),
    "comparisons": (
        lambda x, y: (x < y, x <= y, x > y, x >= y, x == x, x != y, ~(x < y), (x < 0) & (y < 0), (x < 0) | (y < 0)), (X, Y),
    ),
    "choices": (lambda x, y: (jnp.where(x < y, x, y), jnp.where(x[0, 0] < 9, x, y), jnp.clip(x, -0.5, 0.5)), (X, Y)),
    "what is not finite": (
        lambda x: (jnp.log(x), jnp.isfinite(jnp.log(x)), jnp.nan_to_num(x / 0)), (jnp.array([-1.0, 0, 1], jnp.float32),),
    ),
    "whole numbers": (lambda n: (n + 7, n * n, n // 2, n % 3, n.astype(jnp.float32), jnp.maximum(n, 0)), (WHOLE,)),
    "bits": (lambda n: (n + BITS, n * BITS, n ^ BITS, n & BITS, n | BITS, n >> 3, n << 5, ~n), (BITS,)),
    "a float's bits": (lambda x: (jax.lax.bitcast_convert_type(x, jnp.uint32) >> 9), (POSITIVE,)),
    "types": (lambda x: (x.astype(jnp.int32), x.astype(jnp.uint8), x.astype(bool)), (POSITIVE * 10,)),
    "views": (
        lambda x: (x.T, x[::-1], x[1:, ::2], x[:, None] * x[None], x.reshape(2, 6), jnp.broadcast_to(x[:1], (3, 4))), (X,),
    ),
    "parts": (
        lambda x, y: (jnp.concatenate([x, y], 1), jnp.stack([x, y], 1), jnp.split(x, 2, 1), jnp.pad(x, ((1, 0), (2, 3)))),
        (X, Y),
    ),
    "spread with zeros": (lambda x: jax.lax.pad(x, jnp.float32(9), ((1, 2, 1), (0, 1, 2))), (X,)),
    "sums": (
        lambda x: (x.sum(), x.sum(0), x.max(1), x.min(0), x.mean(), (x > 0).all(1), (x > 0).any(0)), (X,),
    ),
    "policies": (
        lambda x, y: (SquashedNormal(x, POSITIVE).mode(), Beta(1 + abs(x), 2 + abs(y)).mode(), Categorical(x, y.T).mode()),
        (X, Y),
    ),
    "places": (lambda x: (x.argmax(1), x.argmin(0)), (X,),
    ),
    "products": (
        lambda x, y, w: (x @ w, x[0] @ w, x @ y.T, jnp.einsum("ab,ab->a", x, y), jnp.einsum("ab,bc->ca", x, w)), (X, Y, W),
    ),
    "products in batches": (lambda x, y: jnp.einsum("bij,bkj->bik", x, y), (f(2, 3, 4), f(2, 5, 4))),
    "convolution": (convolution(), (IMAGE, KERNEL)),
    "convolution with strides": (convolution(window_strides=(2, 3), padding=((1, 2), (0, 3))), (IMAGE, KERNEL)),
    "convolution, transposed": (convolution(lhs_dilation=(2, 2), padding=((2, 2), (3, 3))), (IMAGE, KERNEL)),
    "convolution, dilated": (convolution(rhs_dilation=(2, 1)), (IMAGE, KERNEL)),
    "convolution, other axes": (convolution(("NCHW", "OIHW", "NCHW")), (f(2, 3, 6, 7), f(5, 3, 3, 4))),
    "inner functions": (jax.jit(lambda x: jax.checkpoint(jax.nn.relu)(x) + jax.jit(jnp.tanh)(x)), (X,)),
    "a branch": (lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x * 2, lambda: x - 1), (X,)),
    "a loop": (
        lambda x, w: jax.lax.scan(lambda carry, row: (jnp.tanh(carry @ w[:, :4]) + row, carry.sum()), x[0], x), (X, W),
    ),
    "a loop from the end": (
        lambda x: jax.lax.scan(lambda carry, row: (carry + row, carry * row), x[0], x, reverse=True), (X,),
    ),
    "rounding": (lambda x: (jnp.round(x), jax.lax.round(x, jax.lax.RoundingMethod.AWAY_FROM_ZERO)), (HALVES,)),
    "random numbers": (
        lambda key: (
            jax.random.uniform(jax.random.wrap_key_data(key), (5,), jnp.float32),
            jax.random.normal(jax.random.wrap_key_data(key), (300,), jnp.float32),
            jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key), 3)),
            jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), 7)),
        ), (KEY,),
    ),
}  # fmt: skip


def test_every_operation_is_jaxs(tmp_path: Path) -> None:
    graph = Graph()
    written = {name: add(graph, function, *arguments) for name, (function, arguments) in CASES.items()}
    found = evaluated(graph, written, [(name, arguments) for name, (_, arguments) in CASES.items()], tmp_path)
    # All in one program, which is compiled once.
    expected = jax.jit(lambda given: {name: function(*given[name]) for name, (function, _) in CASES.items()})(
        {name: arguments for name, (_, arguments) in CASES.items()}
    )
    for name, results in zip(CASES, found, strict=True):
        leaves = jax.tree.leaves(expected[name])
        assert len(results) == len(leaves), name
        for ours, theirs in zip(results, leaves, strict=True):
            np.testing.assert_allclose(
                ours, np.asarray(theirs, np.float64).reshape(-1), rtol=2e-5, atol=2e-6, err_msg=name
            )


def test_what_does_not_depend_on_the_arguments_is_computed_once_and_only_if_needed() -> None:
    graph = Graph()
    weights = f(4, 4)
    function = add(graph, lambda x: (x @ weights.T + (jnp.ones(4) * 2).sum(), x @ weights.T)[0], jnp.zeros(4))
    again = add(graph, lambda x: x @ weights.T, jnp.zeros(4))
    constants = [graph.known_array(number) for number in graph.needed([*function.results, *again.results])]
    assert sorted(array.size for array in constants if array is not None) == [1, 16]


def test_a_primitive_without_a_rule_is_named() -> None:
    with pytest.raises(UserError, match="a page cannot evaluate JAX's primitive `sort`"):
        add(Graph(), jnp.sort, jnp.zeros(3))
    with pytest.raises(UserError, match=r"a loop \(jax\.lax\.scan\) of 1000 steps"):
        add(Graph(), lambda x: jax.lax.scan(lambda carry, _: (carry + 1, None), x, None, length=1000), jnp.zeros(3))


@pytest.mark.parametrize("name", ["swing_up", "car_racing", "take_cover"])
def test_a_dream_in_the_page_is_the_dream_in_jax(name: str, tmp_path: Path) -> None:
    """With the same noise, over 50 steps of the shipped bundle's dream with its controller at the wheel."""
    agent = wm_jax.load(BUNDLES / f"{name}.safetensors")
    dream, actor, params = agent.dream, agent.actor, agent.world.params
    graph = Graph()
    written = functions(graph, dream, actor, params, agent.weights)
    source = DreamSource(dream, params, agent.recorded, frames_per_second=25)
    state = DreamState(jax.tree.map(lambda array: array[0], source.starts), jnp.int32(0), jnp.float32(0))
    leaves, carried = len(jax.tree.leaves(state)), len(jax.tree.leaves(actor.begin()))
    calls: list = []
    now: list = [*jax.tree.leaves(state)]
    carry: list = [*jax.tree.leaves(actor.begin())]
    key: object = KEY
    for _ in range(STEPS):
        calls.append(("draw", [key]))
        drawn = len(calls) - 1
        calls.append(("act", [*now, *carry, {"call": drawn, "result": 1}]))
        noise = [{"call": drawn, "result": 2 + part} for part in range(len(written["draw"].results) - 2)]
        calls.append(("step", [*now, {"call": drawn + 1, "result": 0}, *noise, [dream.config.temperature]]))
        now = [{"call": drawn + 2, "result": part} for part in range(leaves)]
        carry = [{"call": drawn + 1, "result": 1 + part} for part in range(carried)]
        key = {"call": drawn, "result": 0}
    calls.append(("frame", now))
    found = evaluated(graph, written, calls, tmp_path)

    @jax.jit
    def follow(state, carry, key):
        following, acting, chance = jax.random.split(key, 3)
        action, carry = actor.act(agent.weights, agent.world, state.world, carry, acting)
        return dream.step(params, state, action, dream.noise(chance)), carry, following

    random, carry_now = jax.random.wrap_key_data(KEY), actor.begin()
    for step in range(STEPS):
        (state, reward, terminated, truncated), carry_now, random = follow(state, carry_now, random)
        expected = [*jax.tree.leaves(state), reward, terminated, truncated]
        for ours, theirs in zip(found[3 * step + 2], expected, strict=False):
            np.testing.assert_allclose(
                ours, np.asarray(theirs, np.float64).reshape(-1), atol=1e-3, err_msg=f"step {step}"
            )
    np.testing.assert_allclose(found[-1][0], np.asarray(agent.world.frame(state.world)).reshape(-1), atol=1e-3)
