"""The RSSM against its equations: sizes, the GRU, what follows on what, the loss and its gradient."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rssm_data import CONFIG, MODEL, A, Z, recordings

from wm_jax.actors import protocol as actors
from wm_jax.rssm import RSSM, RSSMState, config
from wm_jax.rssm.latent import Normals
from wm_jax.rssm.layers import GRU, Layers
from wm_jax.rssm.loss import follow, gather, loss
from wm_jax.rssm.model import Frames, joined
from wm_jax.rssm.two_hot import cross_entropy
from wm_jax.tasks import load_task
from wm_jax.weights import draw
from wm_jax.worlds.protocol import feature_sizes, shapes
from wm_jax.worlds.rssm import RSSMWorldConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

RECORDED = recordings()
POSITIONS = jnp.asarray([np.arange(15, 25), np.arange(24, 34), np.arange(30, 40)], jnp.int32)
"""Across the ends of episodes of 20, 9 and 14 frames."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def params() -> Any:
    """Larger than fresh ones are, and none of them 0."""
    fresh = jax.jit(MODEL.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape, jnp.float32) for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


@partial(jax.jit, static_argnames="model")
def losses(model: RSSM, params: Any, recorded: Any, key: Any) -> Any:
    return loss(model, params, gather(recorded, POSITIONS), key)


@partial(jax.jit, static_argnames="model")
def followed(model: RSSM, params: Any, recorded: Any, key: Any) -> Any:
    return follow(model, params, gather(recorded, POSITIONS), key)


def dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


@pytest.mark.parametrize(
    ("preset", "count", "features"),
    [
        (config.PLANET, 5_128_620, (200, 30)),
        (config.DREAMER_V1, 5_295_220, (200, 30)),
        (config.DREAMER_V2, 13_654_572, (200, 1024)),
        (config.SIZE1M, 574_922, (512, 128)),
        (config.SIZE12M, 8_943_650, (2048, 512)),
    ],
)
def test_the_presets_have_their_sizes(preset: config.RSSMConfig, count: int, features: tuple[int, int]) -> None:
    """With V's encoder and decoder, and without actor and critic."""
    model = RSSMWorldConfig(rssm=preset).build(load_task("swing_up_dm"))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(model)[0])) == count
    assert tuple(feature_sizes(model).values()) == features


def test_PlaNets_parameters_are_counted_by_hand() -> None:
    model = RSSM(config.PLANET, Frames(32), 1)
    found = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in actors.shapes(model).items()}
    convolutions = [(3, 32), (32, 64), (64, 128), (128, 256)]
    back = [(5, 1024, 128), (5, 128, 64), (6, 64, 32), (6, 32, 3)]
    assert found == {
        "encoder": sum(16 * i * o + o for i, o in convolutions),
        "decoder": dense(230, 1024) + sum(k * k * i * o + o for k, i, o in back),
        "input": dense(30 + 1, 200),
        "gru": dense(200 + 200, 3 * 200),
        "prior": dense(200, 200) + dense(200, 60),
        "posterior": dense(200 + 1024, 200) + dense(200, 60),
        "reward": dense(230, 200) + dense(200, 200) + dense(200, 1),
    }


def test_the_dynamics_of_size1m_are_counted_by_hand() -> None:
    found = actors.shapes(RSSM(config.SIZE1M, Frames(4), 1))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(found[name])) for name in ("input", "gru", "prior")}
    # Normalised layers have a scale for each unit.
    assert sizes == {
        "input": sum(dense(i, 64) + 64 for i in (512, 32 * 4, 1)),
        "gru": 8 * (dense(3 * 64 + 64, 64) + 64 + dense(64, 3 * 64)),
        "prior": dense(512, 64) + 64 + dense(64, 64) + 64 + dense(64, 32 * 4),
    }


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_GRU_is_its_equation(blocks: int) -> None:
    """In NumPy, block after block."""
    gru = GRU(Layers("silu", True), 3, 4, blocks)
    params = jax.tree.map(lambda leaf: leaf + 0.1, draw(jax.random.key(0), gru.fresh()))
    rng = np.random.default_rng(0)
    x, h = rng.normal(size=3).astype(np.float32), rng.normal(size=4).astype(np.float32)
    weights: Any = jax.tree.map(np.asarray, params)
    if blocks == 1:
        gates = [np.concatenate([x, h]) @ weights["gates"]["kernel"] + weights["gates"]["bias"]]
    else:
        hidden = weights["hidden"]
        sums = [
            np.concatenate([x, part]) @ hidden["kernel"][i] + hidden["bias"][i]
            for i, part in enumerate(h.reshape(2, 2))
        ]
        sums = np.concatenate(sums)
        sums = sums / np.sqrt((sums**2).mean() + 1e-4) * hidden["scale"]
        active = (sums * sigmoid(sums)).reshape(2, 2)
        gates = [active[i] @ weights["gates"]["kernel"][i] + weights["gates"]["bias"][i] for i in range(2)]
    reset, candidate, update = (np.concatenate(part) for part in zip(*(np.split(g, 3) for g in gates), strict=True))
    share = sigmoid(update - 1)
    expected = share * np.tanh(sigmoid(reset) * candidate) + (1 - share) * h
    np.testing.assert_allclose(gru(params, jnp.asarray(x), jnp.asarray(h)), expected, rtol=1e-5)


def test_a_batch_is_followed_as_single_frames_are(params: Any) -> None:
    """From nothing at a sequence's beginning and on an episode's first frame."""
    key = jax.random.key(3)
    found, batch = followed(MODEL, params, RECORDED, key), gather(RECORDED, POSITIONS)
    noise = MODEL.latent.noise(jax.random.key(3), (10, 3))
    first = {0: 5, 1: 5, 2: None}
    for lane in range(3):
        state: RSSMState | None = None
        for t in range(10):
            at = jax.tree.map(lambda leaf, t=t, lane=lane: leaf[t, lane], batch.obs)
            fresh = t == 0 or bool(batch.steps.restart[t, lane])
            assert fresh == (t == 0 or t == first[lane]) or lane == 1
            if fresh or state is None:
                h = MODEL.begin(params)
            else:
                h = MODEL.follow(params, state, batch.steps.action[t - 1, lane])
            posterior = MODEL.posterior(params, h, MODEL.embed(params, at))
            state = RSSMState(h, MODEL.latent.draw(posterior, noise[t, lane]))
            np.testing.assert_allclose(found.state.deterministic[t, lane], h, atol=1e-5)
            np.testing.assert_allclose(found.state.stochastic[t, lane], state.stochastic, atol=1e-5)


def test_a_reset_in_the_middle_of_a_sequence_forgets(params: Any) -> None:
    """The first sequence has the first frame of another episode at step 5: nothing after it depends on what was before."""
    other = recordings(seed=1)
    changed = jax.tree.map(lambda a, b: jnp.concatenate([b[:20], a[20:]]), RECORDED.encoded, other.encoded)
    mixed = replace(RECORDED, encoded=changed, action=jnp.concatenate([other.action[:20], RECORDED.action[20:]]))
    before, after = (followed(MODEL, params, each, jax.random.key(3)).state for each in (RECORDED, mixed))
    assert (np.abs(joined(before)[:5, 0] - joined(after)[:5, 0]).max(axis=-1) > 1e-3).all()
    np.testing.assert_array_equal(joined(before)[5:, 0], joined(after)[5:, 0])


def test_the_parts_of_the_loss_are_those_of_the_equations(params: Any) -> None:
    """Step after step in NumPy; what came of an episode's last action is told from the prior."""
    key = jax.random.key(3)
    total, parts = losses(MODEL, params, RECORDED, key)
    follow_key, prior_key = jax.random.split(jax.random.key(3))
    found, batch = followed(MODEL, params, RECORDED, follow_key), gather(RECORDED, POSITIONS)
    noise = MODEL.latent.noise(prior_key, (10, 3))
    posterior: Normals = found.posterior
    prior: Normals = MODEL.prior(params, found.state.deterministic)
    kl = MODEL.latent.divergence(posterior, prior)
    image, reward, end = np.zeros((10, 3)), np.zeros((10, 3)), []
    for t, lane in np.ndindex(10, 3):
        state = jax.tree.map(lambda leaf, t=t, lane=lane: leaf[t, lane], found.state)
        at = jax.tree.map(lambda leaf, t=t, lane=lane: np.asarray(leaf[t, lane], np.float64), batch.obs)
        image[t, lane] = 0.5 * ((MODEL.expect(params, state) - at.mean) ** 2 / np.exp(at.log_var)).sum()
        h = found.next_deterministic[t, lane]
        if t < 9 and batch.steps.has_next[t, lane]:
            s = found.state.stochastic[t + 1, lane]
        else:
            s = MODEL.latent.draw(MODEL.prior(params, h), noise[t, lane])
        after = RSSMState(h, s)
        clipped = np.clip(batch.steps.reward[t, lane], -1, 1)
        logits = MODEL.reward_outputs(params, after)
        reward[t, lane] = cross_entropy(logits, jnp.float32(clipped))
        if batch.steps.done_known[t, lane]:
            logit = float(MODEL.end_logit(params, after))
            end.append(np.logaddexp(0, logit) - float(batch.steps.done[t, lane]) * logit)
    expected = {"image": image.mean(), "reward": reward.mean(), "kl": np.mean(kl), "end": np.mean(end)}
    np.testing.assert_allclose([parts[name] for name in expected], list(expected.values()), rtol=2e-3)
    floored = np.maximum(kl, 1.0).mean()
    np.testing.assert_allclose(
        total, expected["image"] + expected["reward"] + expected["end"] + 1.1 * floored, rtol=2e-3
    )


def test_with_both_weights_1_the_gradient_is_that_of_the_divergence(params: Any) -> None:
    """By finite differences along random directions: of everything that is reparameterised."""
    model = replace(MODEL, config=replace(CONFIG, free_nats=0.0, posterior_weight=1.0, reward_loss="squared"))
    params = jax.tree.map(lambda leaf: leaf, {**params, "reward": model.init(jax.random.key(0))["reward"]})

    def value(params: Any) -> float:
        parts = losses(model, params, RECORDED, jax.random.key(4))[1]
        return float(parts["image"] + parts["reward"] + parts["end"] + parts["kl"])

    gradient = jax.jit(jax.grad(lambda p: loss(model, p, gather(RECORDED, POSITIONS), jax.random.key(4))[0]))(params)
    for seed in range(4):
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        way = [jax.random.normal(key, leaf.shape, jnp.float32) for key, leaf in zip(keys, leaves, strict=True)]
        size = 3e-3
        above, below = (
            value(jax.tree.unflatten(tree, [leaf + sign * size * step for leaf, step in zip(leaves, way, strict=True)]))
            for sign in (1, -1)
        )
        slope = sum(float((g * w).sum()) for g, w in zip(jax.tree.leaves(gradient), way, strict=True))
        np.testing.assert_allclose((above - below) / (2 * size), slope, rtol=0.02, atol=0.05)


def test_prior_and_posterior_learn_from_each_other_alone_with_their_weights(params: Any) -> None:
    """With the rest at 0, the prior's weights move by the one weight and the posterior's by the other."""
    nothing = {name: 0.0 for name in ("image_weight", "reward_weight", "end_weight", "free_nats")}
    for weight, moved, still in (("prior_weight", "prior", "posterior"), ("posterior_weight", "posterior", "prior")):
        only = {"prior_weight": 0.0, "posterior_weight": 0.0, weight: 1.0}
        model = replace(MODEL, config=replace(CONFIG, **nothing, **only))
        gradient = jax.grad(lambda p, model=model: losses(model, p, RECORDED, jax.random.key(4))[0])(params)
        # The posterior is what is followed, so that its weights reach the prior's input, h.
        assert np.abs(actors.flat(gradient[moved])).max() > 1e-4
        if still == "prior":
            assert np.abs(actors.flat(gradient[still])).max() == 0


def test_below_the_free_nats_nothing_pulls_the_two_together(params: Any) -> None:
    nothing = {name: 0.0 for name in ("image_weight", "reward_weight", "end_weight")}
    model = replace(MODEL, config=replace(CONFIG, free_nats=1e4, **nothing))
    gradient = jax.grad(lambda p: losses(model, p, RECORDED, jax.random.key(4))[0])(params)
    assert np.abs(actors.flat(gradient)).max() == 0


def test_a_part_of_what_is_seen_stands_for_all_of_it(params: Any) -> None:
    def image(reconstructed: int) -> np.ndarray:
        model = replace(MODEL, config=replace(CONFIG, batch_size=3, sequence_length=10, reconstructed=reconstructed))
        each = jax.vmap(lambda key: losses(model, params, RECORDED, key)[1]["image"])
        return np.asarray(each(jax.random.split(jax.random.key(5), 400)))

    whole, part = image(0), image(7)
    np.testing.assert_allclose(image(30), whole, rtol=1e-5)
    difference = part - whole
    assert difference.std() > 0
    assert abs(difference.mean()) < 4 * difference.std() / 20


def test_frames_are_embedded_and_expected_as_V_does() -> None:
    model = RSSM(replace(CONFIG, width=1), Frames(1), A)
    params = jax.jit(model.init)(jax.random.key(0))
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    embedded = model.embed(params, jnp.asarray(frames))
    assert embedded.shape == (2, 32) and (embedded >= 0).all()
    state = model.initial((2,))
    drawn = model.expect(params, state)
    assert drawn.shape == frames.shape and 0 <= drawn.min() <= drawn.max() <= 1
    expected = ((np.asarray(drawn) - frames / 255) ** 2).sum(axis=(1, 2, 3))
    before = jnp.asarray(frames[::-1])
    np.testing.assert_allclose(model.sight.error(drawn, jnp.asarray(frames), before), expected, rtol=1e-4)
    change = np.abs(frames.astype(float) - frames[::-1]).max(axis=-1, keepdims=True) / 255
    weighed = ((np.asarray(drawn) - frames / 255) ** 2 * (1 + 3 * change)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(Frames(1, 3.0).error(drawn, jnp.asarray(frames), before), weighed, rtol=1e-4)
    assert MODEL.sight.size == Z
