"""Collection: many processes play episodes with a scripted policy and write them to disk (paper, steps 1 of 3.3, 4.4).

An episode depends on the seed, its number and nothing else: not on the number of workers, nor on what was stopped.
"""

import contextlib
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np

from wm_jax.data.records import Episode, Header, episode_path, read_header, write_episode, write_index
from wm_jax.errors import UserError, require_range
from wm_jax.rollouts.workers import run_jobs, serve
from wm_jax.tasks import FRAME_SHAPE, PolicySettings, ScriptedPolicy, Task, load_task

ATTEMPTS_ALLOWED = 1000
"""Episodes too short in a row before it is said that the settings cannot be met."""


@dataclass(frozen=True)
class CollectConfig(PolicySettings):
    """What is recorded before any controller exists."""

    episodes: int = 10_000
    """How many episodes are kept."""
    policy: str = "random"
    """Which of the task's policies plays."""
    min_length: int = 1
    """Shorter episodes are thrown away and played again with another seed (Take Cover in the paper: 101)."""
    max_steps: int | None = None
    """Episodes are cut off after this many steps; the task's own limit unless given."""
    backend: str | None = None
    """Which of the task's backends; the reference unless given."""
    workers: int = 0
    """Processes that play; 0 for one a core. The data do not depend on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("collect.episodes", self.episodes, 1)
        require_range("collect.min_length", self.min_length, 1)
        require_range("collect.workers", self.workers, 0)
        if self.max_steps is not None:
            require_range("collect.max_steps", self.max_steps, self.min_length)


@dataclass(frozen=True)
class Progress:
    """How far a collection is, episodes of earlier runs included."""

    episodes: int
    frames: int
    mean_return: float
    """Of the episodes so far; 0 while there is none."""


def play(
    task: Task,
    environment: gymnasium.Env,
    policy: ScriptedPolicy,
    seed: int,
    max_steps: int,
    room: np.ndarray | None = None,
) -> Episode:
    """One episode from environment seed `seed`. The policy draws from its own generator, which follows from `seed`.

    Reaching `max_steps`, or the environment's own limit, is truncation. What is seen after the last action is not kept.
    `room`, uint8 [max_steps, 64, 64, 3], takes the episode's frames where given: valid until it is used again.
    """
    act = policy(np.random.default_rng([seed, 1]))
    observation, _ = environment.reset(seed=seed)
    frames = np.empty((max_steps, *FRAME_SHAPE), np.uint8) if room is None else room
    actions, rewards = [], []
    terminated = truncated = False
    while not (terminated or truncated):
        step = len(actions)
        frames[step] = task.frame(observation)
        actions.append(act(step, frames[step]))
        observation, reward, terminated, truncated, _ = environment.step(task.environment_action(actions[-1]))
        rewards.append(reward)
        truncated = truncated or len(actions) >= max_steps
    return Episode(
        frames=frames[: len(actions)],
        actions=np.stack(actions).astype(np.float32),
        rewards=np.array(rewards, np.float32),
        terminated=bool(terminated and not truncated),
        seed=seed,
        task=task.name,
    )


def episode_seed(seed: int, number: int, attempt: int) -> int:
    """The environment seed of an attempt at an episode: 31 bits, so that every environment takes it."""
    return int(np.random.SeedSequence([seed, number, attempt]).generate_state(1)[0]) >> 1


def collect(
    task_name: str,
    config: CollectConfig,
    seed: int,
    folder: str | Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[Header]:
    """Record episodes 0 to `config.episodes` - 1 in `folder` and write its index; those already there stay.

    `on_progress` is called several times a second; what it raises stops the collection, and what is done stays. `warn`
    is told of damaged files, which are recorded anew, and of workers that died. Raises `UserError` where the task,
    policy, disk or environment does not allow it.
    """
    task = load_task(task_name)
    _check(task, config)
    folder = Path(folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    headers = _recorded(folder, config.episodes, warn)
    missing = [number for number in range(config.episodes) if number not in headers]
    settings = {"task": task_name, "config": asdict(config), "seed": seed, "folder": str(folder)}

    def tick() -> None:
        returns = [header.episode_return for header in headers.values()]
        frames = sum(header.length for header in headers.values())
        on_progress(Progress(len(headers), frames, statistics.fmean(returns) if returns else 0.0))

    workers = config.workers or os.cpu_count() or 1
    with contextlib.closing(run_jobs("wm_jax.rollouts.collect:work", settings, missing, workers, tick, warn)) as done:
        for number, header in done:
            headers[number] = Header(**header)
    tick()
    write_index(folder, list(headers.values()))
    return [headers[number] for number in range(config.episodes)]


def _check(task: Task, config: CollectConfig) -> None:
    task.policy(config.policy, config)
    if config.max_steps is not None:
        require_range("collect.max_steps", config.max_steps, 1, task.max_steps)
    require_range("collect.min_length", config.min_length, 1, config.max_steps or task.max_steps)


def _recorded(folder: Path, episodes: int, warn: Callable[[str], None]) -> dict[int, Header]:
    """Headers of the intact files of an earlier run; leftovers of a killed one are cleared away."""
    for unfinished in folder.glob(".*.unfinished"):
        unfinished.unlink()
    headers = {}
    for number in range(episodes):
        path = episode_path(folder, number)
        if path.is_file():
            try:
                headers[number] = read_header(path)
            except UserError as error:
                warn(f"{error}; doing so now")
                path.unlink()
    return headers


def work() -> None:
    """The main function of a worker process."""
    serve(_prepare)


def _prepare(settings: dict) -> Callable[[int], dict]:
    task, config = load_task(settings["task"]), CollectConfig(**settings["config"])
    environment = task.make(config.backend)
    policy = task.policy(config.policy, config)
    max_steps = config.max_steps or task.max_steps
    # Fresh memory for every episode costs more than half of what a frame's resize does.
    room = np.empty((max_steps, *FRAME_SHAPE), np.uint8)

    def record(number: int) -> dict:
        for attempt in range(ATTEMPTS_ALLOWED):
            seed = episode_seed(settings["seed"], number, attempt)
            episode = play(task, environment, policy, seed, max_steps, room)
            if len(episode.frames) >= config.min_length:
                episode = replace(episode, policy=config.policy, attempt=attempt)
                return asdict(write_episode(settings["folder"], number, episode))
        raise UserError(
            f"collect.min_length {config.min_length} was not reached by {ATTEMPTS_ALLOWED} episodes of policy "
            f"{config.policy} in a row; lower it"
        )

    return record
