"""The stage that records episodes: with a scripted policy first, with the current C in later rounds."""

from pathlib import Path
from typing import Any

import numpy as np

from wm_jax.data.records import Episode, episode_path, read_header, write_episode, write_index
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.evolving import load_agent, load_controller
from wm_jax.pipeline.progress import Stopped
from wm_jax.rollouts.acting import Lanes, Tick
from wm_jax.rollouts.agent import AgentDriver
from wm_jax.rollouts.collect import Progress, collect, episode_seed
from wm_jax.run import StageDir


def record(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Record the round's episodes; those already on disk stay."""
    return _scripted(context, stage) if round_number == 0 else _with_controller(context, round_number, stage)


def _scripted(context: Context, stage: StageDir) -> dict[str, Any]:
    config, total = context.experiment.collect, context.experiment.collect.episodes
    with context.screen.bar("collect, round 0", "frames", 0) as bar:

        def show(progress: Progress) -> None:
            expected = round(progress.frames / max(progress.episodes, 1) * total)
            bar.begin(progress.frames, expected)
            bar.update(progress.frames, f"episode {progress.episodes}/{total}, return {progress.mean_return:.1f}")
            if context.interrupt.requested and progress.episodes < total:
                raise Stopped(f"stopped in {stage.name} after {progress.episodes} of {total} episodes; "
                              "the same command goes on from there")  # fmt: skip

        seed = context.seed("collect", 0)
        headers = collect(context.experiment.task, config, seed, stage.path / "episodes", show, context.screen.warn)
    return _summary([header.length for header in headers], [header.episode_return for header in headers])


def _with_controller(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """C of the round before drives, with noise on its actions and random stretches; blocks of one episode a lane."""
    rounds, folder = context.experiment.rounds, stage.path / "episodes"
    folder.mkdir(parents=True, exist_ok=True)
    agent, params = load_agent(context, round_number - 1)
    weights, _ = load_controller(context, round_number - 1)
    driver = AgentDriver(
        agent, params, weights[None], rounds.action_noise, rounds.random_stretches, rounds.stretch_length
    )
    count = min(context.experiment.evaluate.environments, rounds.episodes)
    title = f"collect, round {round_number}"
    with (
        context.screen.bar(title, "episodes", rounds.episodes) as bar,
        Lanes(context.experiment.task, count, context.screen.warn) as lanes,
    ):
        for first in range(0, rounds.episodes, count):
            numbers = range(first, min(first + count, rounds.episodes))

            def tick(finished: int, first: int = first) -> None:
                bar.update(first + finished)
                if context.interrupt.requested:
                    raise Stopped(f"stopped in {stage.name} after {first} of {rounds.episodes} episodes; "
                                  "the same command goes on from there")  # fmt: skip

            if not all(episode_path(folder, number).is_file() for number in numbers):
                _record_block(context, round_number, lanes, driver, numbers, folder, tick)
            tick(len(numbers))
    headers = [read_header(episode_path(folder, number)) for number in range(rounds.episodes)]
    write_index(folder, headers)
    return _summary([header.length for header in headers], [header.episode_return for header in headers])


def _record_block(
    context: Context, round_number: int, lanes: Lanes, driver: AgentDriver, numbers: range, folder: Path, tick: Tick
) -> None:
    seed = context.seed("collect", round_number)
    seeds = [episode_seed(seed, number, 0) for number in numbers]
    played = lanes.play(driver, [(seed, 0) for seed in seeds], record=True, tick=tick)
    for number, episode in zip(numbers, played, strict=True):
        write_episode(
            folder,
            number,
            Episode(
                frames=np.stack(episode.frames),
                actions=np.stack(episode.actions),
                rewards=np.asarray(episode.rewards, np.float32),
                terminated=episode.terminated,
                seed=episode.seed,
                policy=f"controller of round {round_number - 1}",
                task=context.models.task.name,
            ),
        )


def _summary(lengths: list[int], returns: list[float]) -> dict[str, Any]:
    return {"episodes": len(lengths), "frames": sum(lengths), "mean_return": float(np.mean(returns)),
            "best_return": max(returns)}  # fmt: skip
