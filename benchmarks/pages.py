"""How fast a page of `wm-jax export --web` dreams in Chromium, beside JAX on the same machine.

    python benchmarks/pages.py [BUNDLE…]        (apt-get install chromium; pip install playwright)

A frame takes the noise, C's action, a step of the dream, and its picture. JAX does the same for one dream, compiled, as one
call a frame.
"""

import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from playwright.sync_api import Browser, sync_playwright
from tyro.conf import Positional

import wm_jax
from wm_jax.dream.environment import DreamState
from wm_jax.dream.gymnasium_face import DreamSource
from wm_jax.pipeline import bundle
from wm_jax.play import page
from wm_jax.pretrained import bundles

BUNDLES = tuple(bundles().values())
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FRAMES = 200
IN_PAGE = """frames => {
  const click = name => document.getElementById(name).click();
  const play = count => { for (let i = 0; i < count; i++) {
    click("single");
    if (document.getElementById("end").textContent !== "not yet") click("restart");
  } };
  play(20);
  const begun = performance.now();
  play(frames);
  return 1000 * frames / (performance.now() - begun);
}"""


def in_page(browser: Browser, path: Path, folder: Path) -> float:
    """Frames a second of the bundle's page."""
    file = page.write(bundle.load(path), folder, half=False, say=print)
    shown = browser.new_context(reduced_motion="reduce").new_page()
    shown.goto(file.resolve().as_uri())
    shown.wait_for_selector("#starts button")
    return shown.evaluate(IN_PAGE, FRAMES)


def in_jax(path: Path) -> float:
    """Frames a second of the same dream by JAX."""
    agent = wm_jax.load(path)
    dream, world, source = agent.dream, agent.world, DreamSource(
        agent.dream, agent.world.params, agent.recorded, frames_per_second=1
    )  # fmt: skip

    @jax.jit
    def frame(state, carry, key):
        key, acting, chance = jax.random.split(key, 3)
        action, carry = agent.actor.act(agent.weights, world, state.world, carry, acting)
        state, *_ = dream.step(world.params, state, action, dream.noise(chance))
        return state, carry, key, world.frame(state.world)

    start = DreamState(jax.tree.map(lambda array: array[0], source.starts), jnp.int32(0), jnp.float32(0))
    now = (start, agent.actor.begin(), jax.random.key(0))

    def play(frames: int) -> None:
        nonlocal now
        for _ in range(frames):
            *now, picture = frame(*now)
            picture.block_until_ready()

    play(20)
    begun = time.perf_counter()
    play(FRAMES)
    return FRAMES / (time.perf_counter() - begun)


def main(paths: Positional[tuple[Path, ...]] = BUNDLES) -> None:
    """Print a line a bundle."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for path in paths:
            ours, theirs = in_page(browser, path, Path(folder) / path.stem), in_jax(path)
            print(f"{path.stem}: {ours:.0f} frames/s in Chromium, {ours / theirs:.2f} of JAX's {theirs:.0f}")


if __name__ == "__main__":
    tyro.cli(main)
