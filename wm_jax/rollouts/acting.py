"""Play episodes in the actual environment, many lanes side by side, with any driver that maps frames to actions.

Lanes form groups that take turns: while one group's environments step, another group's actions are computed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from wm_jax.errors import require_choice
from wm_jax.rollouts import device
from wm_jax.rollouts.lanes import LaneEnvs
from wm_jax.rollouts.limits import WHOLE, Limits
from wm_jax.rollouts.pools import PoolEnvs
from wm_jax.rollouts.workers import ATTEMPTS, WorkerDied, given_up
from wm_jax.tasks import PolicySettings, ScriptedPolicy, Task, load_task
from wm_jax.tasks.calls import LIMIT, checked_action
from wm_jax.tasks.task import Act

GROUPS = 2
"""Groups that take turns: two keep both environments and device busy when possible."""


@dataclass(frozen=True)
class Count:
    """Progress of a block of episodes."""

    finished: int = 0
    """Finished episodes."""
    steps: int = 0
    """Steps of finished episodes."""
    running: int = 0
    """Steps of running episodes."""

    def __add__(self, other: "Count") -> "Count":
        return Count(self.finished + other.finished, self.steps + other.steps, self.running + other.running)


Tick = Callable[[Count], None]


class BatchPolicy(Protocol):
    """Drives one group of lanes."""

    @property
    def name(self) -> str:
        """Name of the source of the actions, for error messages."""
        ...

    def begin(self, episodes: dict[int, tuple[int, int]]) -> None:
        """Begin lane → (environment seed, row of the controller)."""
        ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Actions [B, A] for frames [B, 64, 64, 3]."""
        ...


@runtime_checkable
class HostDriver(Protocol):
    """Acts on frames from the host: `rollouts.agent.AgentDriver`, or `ScriptedDriver`, which ignores them."""

    def open(self, lanes: int) -> BatchPolicy:
        """A policy for a group of `lanes` lanes."""
        ...


Driver = HostDriver | device.DeviceDriver


class Group(Protocol):
    """Lanes whose environments run in the background: `LaneEnvs`, or `PoolEnvs` if the task's backend has pools."""

    @property
    def num_envs(self) -> int:
        """B: lanes of the group."""
        ...

    def prepare(self, seeds: Sequence[int]) -> None:
        """Prepare episodes with these seeds, which will begin in this order."""
        ...

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Begin episodes, lane → seed, while the other lanes wait; `begun` waits for them."""
        ...

    def begun(self) -> np.ndarray:
        """The frames [B, 64, 64, 3] of all lanes."""
        ...

    def act(self, actions: np.ndarray) -> None:
        """Step all lanes with their actions [B, A]; `acted` waits for them."""
        ...

    def acted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(frames [B, 64, 64, 3], rewards [B], terminated [B], truncated [B]); a lane without an episode counts as
        terminated."""
        ...

    def close(self, *, terminate: bool) -> None:
        """Close the environments; with `terminate`, immediately."""
        ...


class ScriptedDriver:
    """A task's scripted policy, seeded anew for every episode with the episode's seed."""

    def __init__(self, policy: ScriptedPolicy):
        self.policy = policy

    def open(self, lanes: int) -> "ScriptedBatch":
        """A policy for a group of `lanes` lanes."""
        return ScriptedBatch(self.policy, lanes)


def scripted_driver(task: Task, name: str, settings: PolicySettings, backend: str | None = None) -> Driver:
    """A driver with the task's policy of that name; raises `UserError` if there is none."""
    environment = task.environment(backend)
    if environment is None:
        return ScriptedDriver(task.policy(name, settings))
    require_choice(f"policy of {task.name}", name, list(environment.scripts))
    return device.ScriptDriver(environment.scripts[name](settings))


class ScriptedBatch:
    """Drives one group of lanes with a scripted policy."""

    name = "a scripted policy"

    def __init__(self, policy: ScriptedPolicy, lanes: int):
        self.policy = policy
        self.acts: list[Act] = [policy(np.random.default_rng(0)) for _ in range(lanes)]
        self.steps = [0] * lanes

    def begin(self, episodes: dict[int, tuple[int, int]]) -> None:
        """Begin lane → (environment seed, row); the row is ignored."""
        for lane, (seed, _) in episodes.items():
            self.acts[lane], self.steps[lane] = self.policy(np.random.default_rng([seed, 1])), 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Actions [B, A] for frames [B, 64, 64, 3]."""
        actions = [act(step, frame) for act, step, frame in zip(self.acts, self.steps, frames, strict=True)]
        self.steps = [step + 1 for step in self.steps]
        return np.stack(actions)


@dataclass
class Played:
    """One played episode; frames and actions only if recorded."""

    seed: int
    row: int
    rewards: list[float] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    terminated: bool = False
    measures: dict[str, float] = field(default_factory=dict)
    """Mean over the steps of each extra measure of the environment."""


class Lanes:
    """Lanes that open at the first block of episodes and stay open for later ones. If a worker dies, a warning names it
    and all lanes are replaced."""

    def __init__(
        self,
        task_name: str,
        count: int,
        warn: Callable[[str], None],
        limits: Limits = WHOLE,
        backend: str | None = None,
    ):
        """`count` lanes, plus one if needed for groups of equal size; `backend`: the task's reference backend unless
        given."""
        self.task_name, self.warn, self.limits, self.backend = task_name, warn, limits, backend
        self.task = load_task(task_name)
        self.size = -(-count // GROUPS)
        """Lanes per group. A controller's actions depend on the batch size in their last bits."""
        self.count = self.size * min(count, GROUPS)
        self.groups: list[Group] = []
        self.environment = self.task.environment(backend)
        """The JAX environment, whose episodes run on the device; None for other backends."""
        if self.environment is not None:
            device.check_frame(self.environment, self.task.name)

    @property
    def typical_length(self) -> int:
        """Approximate number of steps of an episode."""
        return min(self.task.typical_length, self.limits.max_steps or self.task.max_steps)

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close(broken=kind is not None)

    def play(
        self,
        driver: Driver,
        episodes: Sequence[tuple[int, int]],
        record: bool = False,
        tick: Tick = lambda count: None,
    ) -> list[Played]:
        """Play episodes (environment seed, row of the controller), in order. An episode depends only on the driver, the
        episode and the number of lanes per group; it is the same to the last bit on the same device with the same
        number of cores. `tick` is called with the progress after every turn; an exception from it stops the play.
        Raises `ForeignError` and `UserError` if the task is faulty, and `UserError` if workers die repeatedly."""
        if self.environment is not None:
            return self._play_on_device(driver, episodes, record, tick)
        if not isinstance(driver, HostDriver):
            raise TypeError(f"{type(driver).__name__} cannot drive on the host")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._open()
                return _in_turn(self.groups, driver, episodes, record, tick)
            except WorkerDied as death:
                self._close(broken=True)
                message = f"{death} while playing {self.task_name}"
                if attempt == ATTEMPTS:
                    seeds = f"seeds {episodes[0][0]} to {episodes[-1][0]}"
                    message += f"; gave up on the same episodes ({seeds}) after {ATTEMPTS} attempts"
                    raise given_up(message, death) from None
                self.warn(f"{message}; replaced it and restarted its episodes")
            except BaseException:
                # The lanes are in the middle of episodes that nobody waits for any more.
                self._close(broken=True)
                raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _play_on_device(
        self, driver: Driver, episodes: Sequence[tuple[int, int]], record: bool, tick: Tick
    ) -> list[Played]:
        """`play` on the device, in blocks of `count` lanes."""
        if self.environment is None or not isinstance(driver, device.DeviceDriver):
            raise TypeError(f"{type(driver).__name__} cannot drive on the device")
        longest = min(self.task.max_steps, self.limits.max_steps or self.task.max_steps)
        played, before = list[Played](), Count()
        for first in range(0, len(episodes), self.count):
            block = episodes[first : first + self.count]

            def tell(results: device.PlayResults, before: Count = before) -> None:
                steps, over = results.length, results.over
                tick(before + Count(int(over.sum()), int(steps[over].sum()), int(steps[~over].sum())))

            results = device.play(self.environment, driver, block, longest, self.limits.patience, record, tell)
            before += Count(len(block), int(results.length.sum()))
            rewards = np.concatenate(results.rewards, axis=1)
            frames, actions = (
                np.concatenate(parts, axis=1) if parts else rewards[:, :0]
                for parts in (results.frames, results.actions)
            )
            for lane, (seed, row) in enumerate(block):
                length = results.length[lane]
                seen, done = (list(part[lane, :length]) for part in (frames, actions))
                means = {name: float(sums[lane] / length) for name, sums in results.measures.items()}
                earned, ended = rewards[lane, :length].tolist(), bool(results.terminated[lane])
                played.append(Played(seed, row, earned, seen, done, ended, means))
        return played

    def _open(self) -> None:
        """Open the groups if they are not open."""
        if self.groups:
            return
        while len(self.groups) < self.count // self.size:
            self.groups.append(
                PoolEnvs(self.task, self.backend, self.size, self.limits)
                if self.backend is not None and self.backend in self.task.pools
                else LaneEnvs(self.task_name, self.size, self.limits, self.backend)
            )

    def _close(self, broken: bool) -> None:
        while self.groups:
            self.groups.pop().close(terminate=broken)


def _in_turn(
    groups: Sequence[Group], driver: HostDriver, episodes: Sequence[tuple[int, int]], record: bool, tick: Tick
) -> list[Played]:
    """Distribute all episodes to the groups, which take turns until each has played its share."""
    played = [Played(seed, row) for seed, row in episodes]
    shares = [played[number :: len(groups)] for number in range(len(groups))]
    plays = [_play(group, driver, share, record) for group, share in zip(groups, shares, strict=True)]
    counts = [Count()] * len(groups)
    while sum(counts, Count()).finished < len(played):
        for number, play in enumerate(plays):
            counts[number] = next(play, counts[number])
            tick(sum(counts, Count()))
    return played


def _play(group: Group, driver: HostDriver, episodes: Sequence[Played], record: bool) -> Iterator[Count]:
    """A group's share: each lane takes the next episode in line when its own is over. Yields the progress whenever the
    environments are busy, and at the end."""
    if not episodes:
        # A pool cannot be made without episodes.
        return
    lanes = group.num_envs
    batch = driver.open(lanes)
    group.prepare([episode.seed for episode in episodes])
    waiting = iter(episodes)
    current: list[Played | None] = [None] * lanes
    over = np.ones(lanes, bool)
    finished = steps = running = 0
    frames = np.zeros(0, np.uint8)
    while finished < len(episodes):
        free = np.flatnonzero(over).tolist()
        begun = dict(zip(free, waiting, strict=False))
        for lane in free:
            current[lane] = begun.get(lane)
        if begun:
            group.begin({lane: episode.seed for lane, episode in begun.items()})
            yield Count(finished, steps, running)
            frames = group.begun()
            batch.begin({lane: (episode.seed, episode.row) for lane, episode in begun.items()})
        actions = batch(frames)
        at_work = [(lane, episode) for lane, episode in enumerate(current) if episode is not None]
        _check(batch, actions, at_work)
        group.act(actions)
        yield Count(finished, steps, running)
        following, rewards, terminated, truncated = group.acted()
        over = terminated | truncated
        for lane, episode in at_work:
            episode.rewards.append(float(rewards[lane]))
            episode.terminated = bool(terminated[lane])
            if record:
                episode.frames.append(frames[lane].copy())
                episode.actions.append(actions[lane].copy())
            running += 1
            if over[lane]:
                length = len(episode.rewards)
                finished, steps, running = finished + 1, steps + length, running - length
        frames = following
    yield Count(finished, steps, running)


def _check(batch: BatchPolicy, actions: np.ndarray, at_work: Sequence[tuple[int, Played]]) -> None:
    """Raise `UserError` unless the actions [B, A] of lanes with an episode are in [-1, 1]; the others' are not used."""
    if not (np.abs(actions) <= LIMIT).all():
        for lane, episode in at_work:
            where = f"{batch.name}, in step {len(episode.rewards)} of the episode of seed {episode.seed},"
            checked_action(where, actions[lane], actions.shape[1])
