"""The actual environment: tics per second recorded to disk, and with V, M and C acting. The limit is the bare game in
as many processes as there are workers, without frames and without recording.

All sides play the same episodes. A collection starts its processes, and so does its bare game; an evolution keeps its
processes, and so does its bare game.
"""

import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax

from wm_jax.actors.mlp import MLPConfig
from wm_jax.bench import bare_game
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.dream import candidates
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import Work, interleaved
from wm_jax.dream import Dream, DreamConfig
from wm_jax.errors import UserError
from wm_jax.memory import MemoryConfig
from wm_jax.pipeline.progress import Screen
from wm_jax.rollouts.acting import Driver, Lanes, scripted_driver
from wm_jax.rollouts.agent import Agent, AgentDriver
from wm_jax.rollouts.collect import CollectConfig, collect, episode_seed
from wm_jax.rollouts.limits import Limits
from wm_jax.rollouts.workers import Team, usable_cores
from wm_jax.tasks import PolicySettings, Task, load_task
from wm_jax.vision import VisionConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

BARE = "wm_jax.bench.bare_game:work"
"""The main function of a process that plays the bare game."""
STEPS = 100
"""Longer episodes are cut off."""
SHARE = 0.25
"""Share of a comparison's seconds for one run of the bare game."""
LANES = 16
"""Environments for each worker when V, M and C act: 32 on two cores, as in `experiments/car_racing_cpu.py`. V encodes
half of them at a time; larger batches cost less for each frame. The number of episodes is a multiple of the lanes, as
in most evolutions: an empty lane would leave a core idle."""
DEVICE_LANES, DEVICE_STEPS = 512, 50
"""Episodes of a JAX environment side by side, and the step at which they are cut off: few end earlier."""


def measure(config: BenchConfig, screen: Screen) -> Result:
    """Headline: the first task that can start on this machine."""
    workers = config.workers or usable_cores()
    rows, sizes = [], []
    for name in config.tasks:
        task = load_task(name)
        if task.environment() is not None:
            rows += _rows_on_device(name, task, config, screen)
            sizes.append(f"{task.name}: {DEVICE_LANES:,} episodes of {DEVICE_STEPS} steps on the device")
            continue
        steps = min(STEPS, task.max_steps)
        try:
            rate = _rate(name, steps)
        except UserError as error:
            screen.warn(f"collect: {task.name} is left out: {error}")
            continue
        lanes = LANES * workers
        episodes = lanes * max(1, round(config.seconds * SHARE * rate * workers / (lanes * steps)))
        settings = CollectConfig(episodes=episodes, policy=bare_game.POLICY, max_steps=steps, workers=workers)
        rows += _rows(name, task, settings, "" if rows else "collect", config, screen)
        sizes.append(f"{task.name}: {episodes} episodes of at most {steps} tics")
    if not rows:
        raise UserError("collect: no game can start here; see the warnings above, or name others with --tasks")
    return Result(f"{workers} processes; {'; '.join(sizes)}", tuple(rows))


def _rows(
    name: str, task: Task, settings: CollectConfig, headline: str, config: BenchConfig, screen: Screen
) -> list[Row]:
    with ExitStack() as stack:
        lanes = stack.enter_context(Lanes(name, LANES * settings.workers, screen.warn, Limits(settings.max_steps)))
        team = stack.enter_context(Team(BARE, _sent(name, settings)))
        works: dict[str, Work] = {
            "collect": partial(_record, name, settings, screen),
            "beside it": partial(_play_bare, name, settings, screen),
            "drive": partial(_drive, lanes, settings, _driver(task, config)),
            "beside that": partial(_play_on, team, settings, screen),
        }
        rates = interleaved(f"collect, {task.name}", works, config.seconds, screen)
    limit = f"the bare game, {task.name}"
    return [
        Row(headline or f"collect: {task.name}", rates["collect"], "tics/s", rates["beside it"], limit),
        Row(f"V, M, C drive: {task.name}", rates["drive"], "tics/s", rates["beside that"], limit),
    ]


def _rows_on_device(name: str, task: Task, config: BenchConfig, screen: Screen) -> list[Row]:
    """Rows for a JAX environment: steps alone, with pictures copied to the host, recorded to disk, and with V, M and
    C."""
    script = scripted_driver(task, bare_game.POLICY, PolicySettings())
    settings = CollectConfig(episodes=DEVICE_LANES, policy=bare_game.POLICY, max_steps=DEVICE_STEPS)
    with Lanes(name, DEVICE_LANES, screen.warn, Limits(DEVICE_STEPS)) as lanes:
        works: dict[str, Work] = {
            "bare": partial(_drive, lanes, settings, script),
            "pictures": partial(_drive, lanes, settings, script, record=True),
            "drive": partial(_drive, lanes, settings, _driver(task, config)),
        }
        rates = interleaved(f"collect, {task.name}", works, config.seconds, screen)
    bare = f"{task.name} without pictures"
    return [
        Row(f"{task.name}, without pictures", rates["bare"], "steps/s"),
        Row(f"{task.name}, pictures on the host", rates["pictures"], "frames/s", rates["bare"], bare),
        Row(f"V, M, C drive: {task.name}", rates["drive"], "steps/s", rates["bare"], bare),
    ]


def _rate(name: str, steps: int) -> float:
    """Approximate tics per second of one bare game."""
    play = bare_game.prepare({"task": name, "max_steps": steps, "seed": 0})
    play(0)
    begin = time.perf_counter()
    return play(1) / (time.perf_counter() - begin)


def _record(name: str, settings: CollectConfig, screen: Screen) -> float:
    with tempfile.TemporaryDirectory() as folder:
        headers = collect(name, settings, 0, Path(folder), warn=screen.warn)
    return float(sum(header.length for header in headers))


def _driver(task: Task, config: BenchConfig) -> AgentDriver:
    """An untrained agent with these sizes."""
    model = VisionMemoryConfig(
        vision=VisionConfig(latent_size=config.latent_size),
        memory=MemoryConfig(hidden_size=config.hidden_size, mixtures=config.mixtures),
    ).build(task)
    actor = MLPConfig().build(Dream(model, DreamConfig()))
    return AgentDriver(Agent(model, actor), model.init(jax.random.key(0)), candidates(actor, 1))


def _drive(lanes: Lanes, settings: CollectConfig, driver: Driver, record: bool = False) -> float:
    episodes = [(episode_seed(0, number, 0), 0) for number in range(settings.episodes)]
    return float(sum(len(episode.rewards) for episode in lanes.play(driver, episodes, record)))


def _sent(name: str, settings: CollectConfig) -> dict[str, Any]:
    """The settings sent to a process of the bare game."""
    return {"task": name, "max_steps": settings.max_steps, "seed": 0}


def _play_bare(name: str, settings: CollectConfig, screen: Screen) -> float:
    """Play the bare game's episodes with a team started for them alone."""
    with Team(BARE, _sent(name, settings)) as team:
        return _play_on(team, settings, screen)


def _play_on(team: Team, settings: CollectConfig, screen: Screen) -> float:
    """Tics of the bare game's episodes, played by a team whose processes start on the first call."""
    done = team.do(range(settings.episodes), settings.workers, lambda told: None, screen.warn)
    return float(sum(tics for _, tics in done))
