"""Collection: many processes play episodes with a scripted policy and write them to disk (paper, steps 1 of 3.3, 4.4).

An episode depends on the seed, its number and nothing else: not on the number of workers, nor on what was stopped.
"""

import atexit
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wm_jax.data.records import Episode, Header, episode_path, read_header, write_episode, write_index
from wm_jax.errors import DamagedError, UserError, require_range
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.rollouts.limits import Limits
from wm_jax.rollouts.workers import POLL_SECONDS, Team, serve, usable_cores
from wm_jax.tasks import FRAME_SHAPE, PolicySettings, ScriptedPolicy, Task, load_task

ATTEMPTS_ALLOWED = 1000
"""Episodes too short in a row before it is said that the settings cannot be met."""
FIRST_SEED = 2**30
"""Environment seeds of recorded episodes stand from here on; those below are left for evolution, validation and scores."""


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
    """Which of the task's backends, in later rounds too; the reference unless given."""
    workers: int = 0
    """Processes that play; 0 for one for each core that may be used. The data do not depend on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("collect.episodes", self.episodes, 1)
        require_range("collect.min_length", self.min_length, 1)
        require_range("collect.workers", self.workers, 0, 1024)
        if self.max_steps is not None:
            require_range("collect.max_steps", self.max_steps, self.min_length)


@dataclass(frozen=True)
class Progress:
    """How far a collection is, episodes of earlier runs included."""

    episodes: int
    frames: int
    mean_return: float
    """Of the episodes so far; 0 while there is none."""
    running: int = 0
    """Frames of the episodes that are being played, not counted in `frames`."""

    @classmethod
    def of(cls, headers: Collection[Header], running: int = 0) -> "Progress":
        """How far a collection with these episodes is."""
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
    """One episode from environment seed `seed`. The policy draws from its own generator, which follows from `seed`.

    `room`, uint8 [max_steps, 64, 64, 3], takes the episode's frames where given: valid until it is used again. `tell` is
    told after every step how many they are.
    """
    act = policy(np.random.default_rng([seed, 1]))
    longest = environment.watch.max_steps
    frames = np.empty((longest, *FRAME_SHAPE), np.uint8) if room is None else room
    # Copied at once: a policy may use the array again, and a task write to it.
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
    """The environment seed of an attempt at an episode, in [2³⁰, 2³¹): every environment takes 31 bits.

    Seeds below 2³⁰ are left for evolution, for validation and for scores, which must never meet an episode that was
    trained on.
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
    """Record episodes 0 to `config.episodes` - 1 in `folder`, as `record` does, and write its index: their headers."""
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
    """Record the episodes `numbers` in `folder`: their headers, in that order. Those already there stay.

    `on_progress` is called several times a second; what it raises stops the collection, and what is done stays. `warn`
    is told of damaged files, which are recorded anew, and of workers that died. Raises `UserError` where the task,
    policy, disk or environment does not allow it, and `ForeignError` where the task's own code fails.
    """
    task = load_task(task_name)
    _check(task, config)
    folder = Path(folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
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
    """Says that no episode of a policy is long enough."""
    return UserError(
        f"collect.min_length {min_length} was not reached by {ATTEMPTS_ALLOWED} episodes of policy {policy} in a row; "
        "lower it"
    )


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed run has left half written; for one process to do, while none is recording."""
    for unfinished in folder.glob(".*.unfinished"):
        unfinished.unlink()


def _check(task: Task, config: CollectConfig) -> None:
    task.policy(config.policy, config)
    if config.max_steps is not None:
        require_range("collect.max_steps", config.max_steps, 1, task.max_steps)
    require_range("collect.min_length", config.min_length, 1, config.max_steps or task.max_steps)


def _recorded(folder: Path, numbers: Sequence[int], warn: Callable[[str], None]) -> dict[int, Header]:
    """Headers of the intact files of an earlier run."""
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
    # Fresh memory for every episode costs more than half of what a frame's resize does.
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
