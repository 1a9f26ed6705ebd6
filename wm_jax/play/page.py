"""`wm-jax export --web`: one self-contained HTML file in which a world model dreams.

A page opened from disk cannot fetch files, so the engine, the weights and the pictures are inside it. The engine is the
page's own (`engine.js`), not a library: JAX functions become graphs of about sixty operations, for any world model,
which take 12 kB of JavaScript. onnxruntime-web would add 11 MB of WebAssembly, and a converter that must match the
versions of both it and JAX.
"""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from wm_jax.actors.planning import Planner
from wm_jax.data.files import require_own, write_atomically
from wm_jax.data.training import spread
from wm_jax.data.weights import halved
from wm_jax.dream.environment import DreamState
from wm_jax.dream.gymnasium_face import DreamSource
from wm_jax.errors import UserError
from wm_jax.pipeline.bundle import Bundle
from wm_jax.play.functions import functions
from wm_jax.play.graph import Graph
from wm_jax.play.program import program
from wm_jax.rollouts.acting import Lanes
from wm_jax.rollouts.agent import driver_of
from wm_jax.rollouts.limits import Limits
from wm_jax.types import Action, Key, Params, State
from wm_jax.worlds import Actor, World

FILE = "index.html"
LARGEST = 24 * 10**6
"""Maximum size of a page, in bytes."""
MARK = '<meta name="generator" content="wm-jax export --web">'
STARTS, SAMPLES, PLAYED, TELLING = 12, 8, 300, 8
"""Maximum numbers of start frames, of sample pictures, of steps played to get the samples, and of latents with a
slider."""


def write(found: Bundle, folder: Path, half: bool, say: Callable[[str], None]) -> Path:
    """Write the page of an agent's dream; with `half`, the world model is rounded to float16. Returns the page's path.

    Raises `UserError` if the file exists and is something else, if a page cannot evaluate the world model or the
    controller, or if the page would be larger than 24 MB.
    """
    path = folder / FILE
    require_own(path, MARK, "page of wm-jax")
    page = build(found, _rounded(path, found.params) if half else found.params, say)
    if len(page) > LARGEST:
        raise UserError(f"{path} would have {len(page) / 10**6:.1f} MB, more than a page's {LARGEST / 10**6:.0f}"
                        + ("" if half else "; --half rounds the world model to half the size"))  # fmt: skip
    write_atomically(path, page)
    return path


def build(found: Bundle, params: Params, say: Callable[[str], None], served: bool = False) -> bytes:
    """The page of an agent's dream with these weights of its world model. If `served` by `wm-jax play`, it also has the
    actual environment. Raises `UserError` if a page cannot evaluate the world model or the controller."""
    graph, driver = Graph(), _driver(found)
    written = program(graph, functions(graph, found.models.dream, driver.actor, params, driver.weights))
    about = {**_about(found, driver, params, _samples(found, params, say)), "served": served}
    data = json.dumps({"about": about, "program": written.about}, separators=(",", ":"))
    task = found.models.task.name
    return _template().render(
        served=served, title=task.replace("_", " "), mark=MARK,
        style=_text("page.css"), engine=_text("engine.js"), page=_text("page.js"),
        # Inside a script element, only an end tag would be read as markup.
        data=data.replace("</", "<\\/"), numbers=b64encode(written.numbers).decode(),
    ).encode()  # fmt: skip


@dataclass(frozen=True)
class Resting(Actor):
    """Always takes the resting action."""

    action: tuple[float, ...]

    def init(self, key: Key) -> Params:
        """No weights."""
        return {}

    def act(self, params: Params, world: World, state: State, carry: None, key: Key) -> tuple[Action, None]:
        """The same action at every step."""
        return jnp.asarray(self.action, jnp.float32), None


@dataclass(frozen=True)
class _Driver:
    """What acts in a page's dreams."""

    actor: Actor
    weights: Params
    told: str


def _driver(found: Bundle) -> _Driver:
    """C. If C plans, which is too slow for a page: the policy that it has learned, or the resting action."""
    actor, task = found.models.actor, found.models.task
    if not isinstance(actor, Planner):
        return _Driver(actor, found.weights, f"C: {actor.words}")
    if actor.guide is None:
        told = f"C ({actor.words}) plans, which is too slow for a page; it rests here: hold the keys to drive"
        return _Driver(Resting(tuple(task.all_controls["rest"])), {}, told)
    told = f"C: {actor.guide.words}, without planning (the whole agent: {actor.words})"
    return _Driver(actor.guide, actor.parts(found.weights)[0], told)


def _rounded(path: Path, params: Params) -> Params:
    return jax.tree.map(lambda half, whole: jnp.asarray(half, whole.dtype), halved(path, params), params)


def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text()


@cache
def _template() -> Any:
    return Environment(
        loader=PackageLoader("wm_jax.play", ""), autoescape=True, undefined=StrictUndefined
    ).get_template("page.html.jinja")


def _about(found: Bundle, driver: _Driver, params: Params, frames: np.ndarray) -> dict[str, Any]:
    """The page's data besides its functions."""
    models, dream = found.models, found.models.dream
    source = DreamSource(dream, params, found.recorded, frames_per_second=models.task.frames_per_second)
    rows = spread(len(jax.tree.leaves(source.starts)[0]), STARTS)
    states = [
        DreamState(jax.tree.map(lambda array, r=row: array[r], source.starts), jnp.int32(0), jnp.float32(0))
        for row in rows
    ]
    return {
        "task": models.task.name, "frames_per_second": models.task.frames_per_second,
        "temperature": found.about.get("temperature", dream.config.temperature), "controls": models.task.all_controls,
        "starts": [_leaves(state) for state in states], "carry": _leaves(driver.actor.begin()),
        "samples": [b64encode(frame.tobytes()).decode() for frame in frames[spread(len(frames), SAMPLES)]],
        "latents": _latents(found, params, frames), "told": f"{models.task.name}; {driver.told}.",
    }  # fmt: skip


def _leaves(tree: Any) -> list[list[float]]:
    """The leaves of a pytree, flattened; they are few."""
    return [np.asarray(leaf, np.float64).reshape(-1).tolist() for leaf in jax.tree.leaves(tree)]


def _samples(found: Bundle, params: Params, say: Callable[[str], None]) -> np.ndarray:
    """Frames [n, 64, 64, 3] of an episode that C plays in the actual environment; none if the game is not installed."""
    driver = driver_of(found.agent, params, found.weights)
    try:
        with Lanes(found.experiment.task, 1, say, Limits(PLAYED)) as lanes:
            return np.stack(lanes.play(driver, [(found.experiment.evaluate.seed, 0)], record=True)[0].frames)
    except UserError as error:
        say(f"no sample pictures: {error}")
        return np.zeros((0, 64, 64, 3), np.uint8)


def _latents(found: Bundle, params: Params, frames: np.ndarray) -> dict[str, Any]:
    """The size of V's latent vector; and, for the latents that vary most between frames, the mean and the spread."""
    if "vision" not in found.models.world.learners:
        return {"size": 0, "telling": []}
    encoded = found.models.world.encode(params, jnp.asarray(frames)) if len(frames) else found.recorded.encoded
    means = encoded.mean
    # Skip the start of the episode, which may look different from all later frames.
    means = means[len(means) // 5 :]
    center, spreads = np.asarray(means, np.float64).mean(0), np.asarray(means, np.float64).std(0)
    telling = [
        {"dimension": int(z), "mean": float(center[z]), "sd": float(spreads[z])} for z in np.argsort(-spreads)[:TELLING]
    ]
    return {"size": len(center), "telling": telling}
