"""Collection: worker processes play episodes with a scripted policy and write them to disk (paper, step 1 in sections
3.3 and 4.4).

An episode depends only on the seed and its number: not on the number of workers, nor on interruptions.
"""

import atexit
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wm_jax.data.files import system_errors
from wm_jax.data.records import Episode, Header, episode_path, read_header, write_episode, write_index
from wm_jax.errors import DamagedError, UserError, require_range
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.rollouts.limits import Limits
from wm_jax.rollouts.workers import POLL_SECONDS, Team, serve, usable_cores
from wm_jax.tasks import FRAME_SHAPE, PolicySettings, ScriptedPolicy, Task, load_task

ATTEMPTS_ALLOWED = 1000
"""Consecutive episodes that may be too short before collection fails."""
FIRST_SEED = 2**30
"""Recorded episodes use environment seeds from here on; lower ones are reserved for evolution, validation and
scores."""


@dataclass(frozen=True)
class CollectConfig(PolicySettings):
    """Recording with a scripted policy, before the first controller exists."""

    episodes: int = 10_000
    """Number of episodes to keep."""
    policy: str = "random"
    """The task's scripted policy that plays."""
    min_length: int = 1
    """Shorter episodes are discarded and played again with another seed (Take Cover in the paper: 101)."""
    max_steps: int | None = None
    """Episodes are truncated after this many steps; None: the task's own limit."""
    backend: str | None = None
    """The task's backend, in later rounds too; None: the reference backend."""
    workers: int = 0
    """Worker processes; 0: one per usable core. The data do not depend on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("collect.episodes", self.episodes, 1)
        require_range("collect.min_length", self.min_length, 1)
        require_range("collect.workers", self.workers, 0, 1024)
        if self.max_steps is not None:
            require_range("collect.max_steps", self.max_steps, self.min_length)


@dataclass(frozen=True)
class Progress:
    """Progress of a collection, including episodes of earlier runs."""

    episodes: int
    frames: int
    mean_return: float
    """Mean return of the episodes so far; 0 before the first."""
    running: int = 0
    """Frames of the running episodes; `frames` does not include them."""

    @classmethod
    def of(cls, headers: Collection[Header], running: int = 0) -> "Progress":
        """Progress of a collection with these episodes."""
        returns = [header.episode_return for header in headers]
        frames = sum(header.length for header in headers)
        return cls(len(headers), frames, statistics.fmean(returns) if returns else 0.0, running)


def play(
    environment: TaskEnv,
    policy: ScriptedPolicy,
    seed: int,
    room: np.ndarray | None = None,
    tell: Callable[[int], None] = lambda steps: None,
) -> Episode:
    """Play one episode with environment seed `seed`. The policy draws from its own generator, seeded from `seed`.

    `room`, uint8 [max_steps, 64, 64, 3]: a buffer for the episode's frames, which are valid until it is used again.
    `tell` is called after every step with the number of steps so far.
    """
    act = policy(np.random.default_rng([seed, 1]))
    longest = environment.watch.max_steps
    frames = np.empty((longest, *FRAME_SHAPE), np.uint8) if room is None else room
    # Copied immediately: the policy may reuse the array, and the task may write to it.
    actions, rewards = np.empty((longest, environment.task.action_size), np.float32), []
    frame = environment.reset(seed)
    terminated = truncated = False
    while not (terminated or truncated):
        step = len(rewards)
        frames[step] = frame
        action = act(step, frame)
        actions[step] = action
        frame, reward, terminated, truncated = environment.step(action)
        rewards.append(reward)
        tell(step + 1)
    return Episode(
        frames=frames[: len(rewards)],
        actions=actions[: len(rewards)],
        rewards=np.array(rewards, np.float32),
        terminated=terminated,
        seed=seed,
        task=environment.task.name,
    )


def episode_seed(seed: int, number: int, attempt: int) -> int:
    """The environment seed of an attempt at an episode, in [2³⁰, 2³¹): every environment accepts 31 bits.

    Seeds below 2³⁰ are reserved for evolution, validation and scores, which must not use an episode from training.
    """
    return FIRST_SEED + (int(np.random.SeedSequence([seed, number, attempt]).generate_state(1)[0]) >> 2)


def collect(
    task_name: str,
    config: CollectConfig,
    seed: int,
    folder: str | Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[Header]:
    """Record episodes 0 to `config.episodes` - 1 in `folder` with `record`, and write their headers as the index."""
    clear_leftovers(Path(folder))
    headers = record(task_name, config, seed, folder, range(config.episodes), on_progress, warn)
    write_index(folder, headers)
    return headers


def record(
    task_name: str,
    config: CollectConfig,
    seed: int,
    folder: str | Path,
    numbers: Sequence[int],
    on_progress: Callable[[Progress], None] = lambda progress: None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[Header]:
    """Record the episodes `numbers` in `folder` and return their headers in that order. Existing episodes are kept.

    `on_progress` is called several times a second; an exception from it stops the collection, and finished episodes are
    kept. `warn` is called for damaged files, which are recorded again, and for workers that died. Raises `UserError` if
    the task, policy, disk or environment is at fault, and `ForeignError` if the task's own code fails.
    """
    task = load_task(task_name)
    _check(task, config)
    folder = Path(folder).absolute()
    with system_errors("create the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    headers = _recorded(folder, numbers, warn)
    missing = [number for number in numbers if number not in headers]
    settings = {"task": task_name, "config": asdict(config), "seed": seed, "folder": str(folder)}

    def tick(running: Sequence[int] = ()) -> None:
        on_progress(Progress.of(headers.values(), sum(running)))

    workers = config.workers or usable_cores()
    with Team("wm_jax.rollouts.collect:work", settings) as team:
        for number, header in team.do(missing, workers, tick, warn):
            headers[number] = Header(**header)
    tick()
    return [headers[number] for number in numbers]


def too_short(min_length: int, policy: str) -> UserError:
    """The error for a policy whose episodes are all too short."""
    return UserError(
        f"collect.min_length {min_length} was not reached by {ATTEMPTS_ALLOWED} episodes of policy {policy} in a row; "
        "lower it"
    )


def clear_leftovers(folder: Path) -> None:
    """Delete the unfinished files of a killed run. Call it from one process while none is recording."""
    for unfinished in folder.glob(".*.unfinished"):
        unfinished.unlink()


def _check(task: Task, config: CollectConfig) -> None:
    task.policy(config.policy, config)
    if config.max_steps is not None:
        require_range("collect.max_steps", config.max_steps, 1, task.max_steps)
    require_range("collect.min_length", config.min_length, 1, config.max_steps or task.max_steps)


def _recorded(folder: Path, numbers: Sequence[int], warn: Callable[[str], None]) -> dict[int, Header]:
    """Headers of the intact files from an earlier run."""
    headers = {}
    for number in numbers:
        path = episode_path(folder, number)
        if path.is_file():
            try:
                headers[number] = read_header(path)
            except DamagedError as error:
                warn(f"{error}; doing so now")
                path.unlink()
    return headers


def work() -> None:
    """The main function of a worker process."""
    serve(_prepare)


def _prepare(settings: dict, tell: Callable[[int], None]) -> Callable[[int], dict]:
    task, config = load_task(settings["task"]), CollectConfig(**settings["config"])
    environment = TaskEnv(task, task.make(config.backend), Limits(config.max_steps))
    atexit.register(environment.close)
    policy = task.policy(config.policy, config)
    # Reused: allocating it for every episode costs more than half as much as resizing the frames.
    room = np.empty((environment.watch.max_steps, *FRAME_SHAPE), np.uint8)
    told = 0.0

    def now_and_then(steps: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told > POLL_SECONDS:
            told = now
            tell(steps)

    def record(number: int) -> dict:
        for attempt in range(ATTEMPTS_ALLOWED):
            seed = episode_seed(settings["seed"], number, attempt)
            episode = play(environment, policy, seed, room, now_and_then)
            if len(episode.frames) >= config.min_length:
                episode = replace(episode, policy=config.policy, attempt=attempt)
                return asdict(write_episode(settings["folder"], number, episode))
        raise too_short(config.min_length, config.policy)

    return record
