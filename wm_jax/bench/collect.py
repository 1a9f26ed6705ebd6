"""The actual environment: tics per second to disk, and with V, M and C at the wheel, against the bare game in as many
processes as there are workers, where nothing is seen or recorded.

All sides start their processes and play the same episodes.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from wm_jax.bench import bare_game
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Work, interleaved
from wm_jax.controller import Controller, PolicyConfig
from wm_jax.errors import UserError
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.pipeline.progress import Screen
from wm_jax.rollouts.acting import Lanes
from wm_jax.rollouts.agent import Agent, AgentDriver, AgentParams
from wm_jax.rollouts.collect import CollectConfig, collect, episode_seed
from wm_jax.rollouts.limits import Limits
from wm_jax.rollouts.workers import run_jobs, usable_cores
from wm_jax.tasks import Task, load_task
from wm_jax.vision import Vision, VisionConfig

STEPS = 300
"""Longer episodes are cut off."""
SHARE = 0.25
"""Of a comparison's seconds: how long the bare game is to take for one run."""
LANES = 4
"""Environments for each worker where V, M and C drive: while some of them wait for their actions, others step."""


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: the first task that starts here."""
    workers = config.workers or usable_cores()
    rows, sizes = [], []
    for name in config.tasks:
        task = load_task(name)
        steps = min(STEPS, task.max_steps)
        try:
            rate = _rate(name, steps)
        except UserError as error:
            screen.warn(f"collect: {task.name} is left out: {error}")
            continue
        episodes = workers * max(1, round(config.seconds * SHARE * rate / steps))
        settings = CollectConfig(episodes=episodes, policy=bare_game.POLICY, max_steps=steps, workers=workers)
        rows += _rows(name, task, settings, "" if rows else "collect", config, screen)
        sizes.append(f"{task.name}: {episodes} episodes of at most {steps} tics")
    if not rows:
        raise UserError("collect: none of the games starts here; see the warnings above, or name others by --tasks")
    return Result(f"{workers} processes; {'; '.join(sizes)}", tuple(rows))


def _rows(
    name: str, task: Task, settings: CollectConfig, headline: str, config: BenchConfig, screen: Screen
) -> list[Row]:
    works: dict[str, Work] = {
        "collect": partial(_record, name, settings, screen),
        "drive": partial(_drive, name, settings, _driver(task, config), screen),
        "bare": partial(_play_bare, name, settings, screen),
    }
    speeds = interleaved(f"collect, {task.name}", works, config.seconds, screen)
    bare, limit = speeds["bare"].rate, f"the bare game, {task.name}"
    return [
        Row(headline or f"collect: {task.name}", speeds["collect"].rate, "tics/s", bare, limit),
        Row(f"V, M, C drive: {task.name}", speeds["drive"].rate, "tics/s", bare, limit),
    ]


def _rate(name: str, steps: int) -> float:
    """Tics per second of one bare game, roughly."""
    play = bare_game.prepare({"task": name, "max_steps": steps, "seed": 0})
    play(0)
    begin = time.perf_counter()
    return play(1) / (time.perf_counter() - begin)


def _record(name: str, settings: CollectConfig, screen: Screen) -> float:
    with tempfile.TemporaryDirectory() as folder:
        headers = collect(name, settings, 0, Path(folder), warn=screen.warn)
    return float(sum(header.length for header in headers))


def _driver(task: Task, config: BenchConfig) -> AgentDriver:
    """An untrained agent of these sizes."""
    vision = Vision(VisionConfig(latent_size=config.latent_size))
    memory = Memory(
        MemoryConfig(hidden_size=config.hidden_size, mixtures=config.mixtures), config.latent_size, task.action_size
    )
    controller = Controller(PolicyConfig(), config.latent_size, config.hidden_size, task.action_size)
    params = AgentParams(vision.init(jax.random.key(0)), memory.init(jax.random.key(1)))
    weights = 0.1 * jax.random.normal(jax.random.key(2), (1, controller.size))
    return AgentDriver(Agent(vision, memory, controller), params, np.asarray(weights))


def _drive(name: str, settings: CollectConfig, driver: AgentDriver, screen: Screen) -> float:
    episodes = [(episode_seed(0, number, 0), 0) for number in range(settings.episodes)]
    with Lanes(name, LANES * settings.workers, screen.warn, Limits(settings.max_steps)) as lanes:
        return float(sum(len(episode.rewards) for episode in lanes.play(driver, episodes)))


def _play_bare(name: str, settings: CollectConfig, screen: Screen) -> float:
    sent = {"task": name, "max_steps": settings.max_steps, "seed": 0}
    jobs = range(settings.episodes)
    done = run_jobs("wm_jax.bench.bare_game:work", sent, jobs, settings.workers, lambda: None, screen.warn)
    return float(sum(tics for _, tics in done))
