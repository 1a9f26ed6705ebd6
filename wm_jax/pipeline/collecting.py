"""The stage that records episodes: first with a scripted policy, in later rounds with the controllers of the round
before."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax import parallel
from wm_jax.data.records import INDEX, Episode, Header, episode_path, read_header, write_episode, write_index
from wm_jax.data.training import spread
from wm_jax.lanes import alone, rows
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Barrier, Stopped, expected_steps
from wm_jax.pipeline.searching import Evolve, Explore
from wm_jax.pipeline.stages import Stage
from wm_jax.pipeline.weights import load_candidates, load_deployed, load_world
from wm_jax.rollouts.acting import Count, Driver, Lanes, Tick, scripted_driver
from wm_jax.rollouts.agent import Agent, AgentDriver
from wm_jax.rollouts.collect import ATTEMPTS_ALLOWED, Progress, clear_leftovers, episode_seed, too_short
from wm_jax.rollouts.collect import record as record_scripted
from wm_jax.rollouts.limits import Limits
from wm_jax.run import StageDir
from wm_jax.types import Params


@dataclass(frozen=True)
class Collect(Stage):
    """Records a round's episodes."""

    name = "collect"
    folder = "rollouts"

    def depends(self, later: bool) -> tuple[str, ...]:
        """The task and the script; in later rounds, how C acts. The number of lanes is included: it changes C's last
        bits."""
        if later:
            return ("rounds.episodes", "rounds.drivers", "rounds.patience", "collect.backend", "explorer.",
                    "evaluate.environments")  # fmt: skip
        return "task", "seed", "collect."

    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The index, and one file for each episode."""
        episodes = Path("episodes")
        numbers = range(context.episodes_in(round_number))
        return [str(episodes / INDEX), *(str(episode_path(episodes, number)) for number in numbers)]

    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Record the round's episodes, split over the processes. Episodes already on disk are kept."""
        folder = stage.path / "episodes"
        parallel.on_main(lambda: clear_leftovers(folder))
        scripted = round_number == 0 or context.experiment.rounds.drivers == "scripted"
        if scripted and context.models.task.environment(context.experiment.collect.backend) is None:
            headers = _scripted(context, round_number, stage, folder)
        else:
            chosen = _script_on_device if scripted else _controllers
            headers = _on_lanes(context, round_number, chosen(context, round_number), stage, folder)
        every = [Header(**header) for header in parallel.join([asdict(header) for header in headers])]
        parallel.on_main(lambda: str(write_index(folder, every)))
        returns = [header.episode_return for header in every]
        return {"episodes": len(every), "frames": sum(header.length for header in every),
                "mean_return": float(np.mean(returns)), "best_return": max(returns)}  # fmt: skip


def _scripted(context: Context, round_number: int, stage: StageDir, folder: Path) -> list[Header]:
    """The headers of this process's share of the episodes."""
    config, total = context.experiment.collect, context.episodes_in(round_number)
    typical = min(context.models.task.typical_length, config.max_steps or context.models.task.max_steps)
    with context.screen.bar(f"collect, round {round_number}", "frames", 0) as bar:

        def show(counts: list[float], stop: bool) -> None:
            episodes, frames, running, returns = counts
            bar.begin(int(frames + running), expected_steps(total, typical, episodes, frames, running))
            bar.update(int(frames + running), f"episode {episodes}/{total}, return {returns / max(episodes, 1):.1f}")
            if stop and episodes < total:
                raise Stopped(f"stopped in {stage.name} after {episodes} of {total} episodes; "
                              "the same command continues from there")  # fmt: skip

        def counts(progress: Progress) -> tuple[float, ...]:
            returns = progress.episodes * progress.mean_return
            return progress.episodes, progress.frames, progress.running, returns

        barrier, numbers = Barrier(context.interrupt, show), parallel.share(range(total))
        seed, warn = context.seed("collect", round_number), context.screen.warn
        headers = record_scripted(context.experiment.task, config, seed, folder, numbers,
                                  lambda progress: barrier.tell(*counts(progress)), warn)  # fmt: skip
        barrier.finish(*counts(Progress.of(headers)))
    return headers


@dataclass(frozen=True)
class _Recording:
    """Episodes to record on lanes."""

    driver: Driver
    episodes: int
    limits: Limits
    row: Callable[[int], int]
    """Episode number → row of its controller."""
    policy: Callable[[int], str]
    """Row of a controller → its name in records."""
    min_length: int = 1
    """Shorter episodes are replaced by episodes with other seeds."""


def _script_on_device(context: Context, round_number: int) -> _Recording:
    """Recording with a script of a JAX environment."""
    config = context.experiment.collect
    driver = scripted_driver(context.models.task, config.policy, config, config.backend)
    return _Recording(driver, context.episodes_in(round_number), Limits(config.max_steps), lambda number: 0,
                      lambda row: config.policy, config.min_length)  # fmt: skip


def _controllers(context: Context, round_number: int) -> _Recording:
    """Recording with C of the previous round, or with every candidate evaluated in it, in turn. If the explorer has its
    own controller, that one collects likewise, after C's episodes."""
    rounds, models, before = context.experiment.rounds, context.models, round_number - 1
    deployed, goal = rounds.drivers == "deployed", context.experiment.explorer.goal

    def found(context: Context, folder: str) -> Params:
        chosen = context.stage(folder, before)
        return alone(load_deployed(context, chosen)[0]) if deployed else load_candidates(context, before, folder)

    explored = round(goal.share * rounds.episodes) if goal else 0
    collectors = [("", found(context, Evolve.folder), rounds.episodes - explored)]
    if explored:
        collectors.append(("explorer, ", found(context.exploring, Explore.folder), explored))
    drivers, names = list[int](), list[str]()
    for collector, controllers, episodes in collectors:
        count = rows(controllers)
        chosen = (len(names) + spread(count, episodes)).tolist()
        drivers += [chosen[number % len(chosen)] for number in range(episodes)]
        names += [
            f"{collector}{'controller' if deployed else f'candidate {row}'} of round {before}" for row in range(count)
        ]
    table = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(controllers for _, controllers, _ in collectors))
    driver = AgentDriver(Agent(models.world, models.actor, models.explorer), load_world(context, before), table)
    limits = Limits(patience=rounds.patience)
    return _Recording(driver, rounds.episodes, limits, lambda number: drivers[number], lambda row: names[row])


def _on_lanes(
    context: Context, round_number: int, recording: _Recording, stage: StageDir, folder: Path
) -> list[Header]:
    """The headers of this process's share of the episodes, which is recorded in blocks of one episode for each lane."""
    folder.mkdir(parents=True, exist_ok=True)
    mine = parallel.share(range(recording.episodes))
    count = context.experiment.evaluate.lanes(recording.episodes)
    backend = context.experiment.collect.backend
    opened = Lanes(context.experiment.task, count, context.screen.warn, recording.limits, backend)
    with context.screen.bar(f"collect, round {round_number}", "frames", 0) as bar, opened as lanes:

        def show(counts: list[float], stop: bool) -> None:
            episodes, frames = int(counts[0]), int(counts[1] + counts[2])
            bar.begin(frames, expected_steps(recording.episodes, lanes.typical_length, *counts))
            bar.update(frames, f"episode {episodes}/{recording.episodes}")
            if stop and episodes < recording.episodes:
                raise Stopped(f"stopped in {stage.name} after {episodes} of {recording.episodes} episodes; "
                              "the same command continues from the last block")  # fmt: skip

        barrier = Barrier(context.interrupt, show)
        blocks = [mine[first : first + count] for first in range(0, len(mine), count)]
        missing = [block for block in blocks if not all(episode_path(folder, number).is_file() for number in block)]
        headers = [header for block in blocks if block not in missing for header in _headers(folder, block)]
        barrier.count(_counted(headers))
        seed = context.seed("collect", round_number)
        for block in missing:
            before = _counted(headers)
            _record_block(seed, recording, lanes, block, folder,
                          lambda now, before=before: barrier.count(before + now))  # fmt: skip
            headers += _headers(folder, block)
        barrier.finish_count(_counted(headers))
    return sorted(headers, key=lambda header: header.number)


def _headers(folder: Path, numbers: list[int]) -> list[Header]:
    return [read_header(episode_path(folder, number)) for number in numbers]


def _counted(headers: list[Header]) -> Count:
    return Count(len(headers), sum(header.length for header in headers))


def _record_block(seed: int, recording: _Recording, lanes: Lanes, numbers: list[int], folder: Path, tick: Tick) -> None:
    """Record the episodes `numbers`; repeat those that are too short, with other seeds."""
    for attempt in range(ATTEMPTS_ALLOWED):
        episodes = [(episode_seed(seed, number, attempt), recording.row(number)) for number in numbers]
        played = lanes.play(recording.driver, episodes, record=True, tick=tick)
        for number, episode in zip(numbers, played, strict=True):
            if len(episode.rewards) >= recording.min_length:
                write_episode(
                    folder,
                    number,
                    Episode(
                        frames=np.stack(episode.frames),
                        actions=np.stack(episode.actions),
                        rewards=np.asarray(episode.rewards, np.float32),
                        terminated=episode.terminated,
                        seed=episode.seed,
                        policy=recording.policy(episode.row),
                        task=lanes.task.name,
                        attempt=attempt,
                    ),
                )
        numbers = [number for number in numbers if not episode_path(folder, number).is_file()]
        if not numbers:
            return
    raise too_short(recording.min_length, recording.policy(recording.row(numbers[0])))
