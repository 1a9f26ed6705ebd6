"""Collection: the same data whatever the number of workers, and whatever dies on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wm_jax.data.episodes import EpisodeStore
from wm_jax.data.records import episode_path, read_episode
from wm_jax.errors import ForeignError, UserError
from wm_jax.rollouts.collect import CollectConfig, Progress, collect, episode_seed
from wm_jax.rollouts.config import VALIDATION_SEED, VALIDATION_SEEDS

ROOT = Path(__file__).parents[2]
PROBE = str(ROOT / "tests" / "probe_task.py")

SLOW_TASK = """
import os, runpy, time
from dataclasses import replace
from pathlib import Path

PROBE = runpy.run_path({probe!r})

class Slow(PROBE["Probe"]):
    def reset(self, **arguments):
        {on_reset}
        return super().reset(**arguments)

    def step(self, action):
        time.sleep({seconds})
        return super().step(action)

TASK = replace(PROBE["TASK"], name="slow", backends={{"slow": Slow}})
"""


def slow_task(folder: Path, on_reset: str = "pass", seconds: float = 0.002) -> str:
    path = folder / "slow_task.py"
    path.write_text(SLOW_TASK.format(probe=PROBE, on_reset=on_reset, seconds=seconds))
    return str(path)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def children(pid: int) -> list[int]:
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True) as listing:
        found = [line.split() for line in listing.communicate()[0].splitlines()]
    return [int(child) for child, parent in found if int(parent) == pid and int(child) != listing.pid]


def alive(pid: int) -> bool:
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE, text=True).stdout.strip()
    return bool(status) and not status.startswith("Z")


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that collects 12 slow episodes into tmp_path/data with two workers."""
    code = (
        "from wm_jax.rollouts.collect import CollectConfig, collect\n"
        f"collect({slow_task(tmp_path)!r}, CollectConfig(episodes=12, workers=2), 3, {str(tmp_path / 'data')!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_data_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    config = {"episodes": 7, "policy": "held", "min_length": 20}
    for workers in (1, 3):
        collect(PROBE, CollectConfig(workers=workers, **config), 11, tmp_path / str(workers))
    assert files(tmp_path / "1") == files(tmp_path / "3")
    assert len(files(tmp_path / "1")) == 8
    store = EpisodeStore([tmp_path / "1"])
    assert store.lengths.min() >= 20
    for number, header in enumerate(store.headers):
        assert header.seed == episode_seed(11, number, header.attempt)
    assert max(header.attempt for header in store.headers) > 0
    collect(PROBE, CollectConfig(**config), 12, tmp_path / "other seed")
    assert files(tmp_path / "other seed")["000000.array_record"] != files(tmp_path / "1")["000000.array_record"]


def test_what_is_there_is_not_played_again(tmp_path: Path) -> None:
    seen: list[Progress] = []
    warnings: list[str] = []
    first = collect(PROBE, CollectConfig(episodes=4), 0, tmp_path, seen.append)
    assert seen[-1].episodes == 4 and seen[-1].frames == sum(header.length for header in first)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.array_record")}
    content = files(tmp_path)
    data = bytearray(episode_path(tmp_path, 2).read_bytes())
    episode_path(tmp_path, 2).write_bytes(data[:-1000])
    (tmp_path / ".000009.array_record.unfinished").write_text("left by a killed run")
    again = collect(PROBE, CollectConfig(episodes=4), 0, tmp_path, warn=warnings.append)
    assert again == first and files(tmp_path) == content
    assert len(warnings) == 1 and "000002.array_record is damaged" in warnings[0]
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.array_record")}
    assert [name for name in before if before[name] != after[name]] == ["000002.array_record"]


def test_a_worker_that_dies_is_named_and_replaced(tmp_path: Path) -> None:
    collect(PROBE, CollectConfig(episodes=5, workers=2), 1, tmp_path / "calm")
    once = tmp_path / "died"
    task = slow_task(
        tmp_path, f"Path({str(once)!r}).exists() or (Path({str(once)!r}).touch(), os.kill(os.getpid(), 9))"
    )
    warnings: list[str] = []
    collect(task, CollectConfig(episodes=5, workers=1), 1, tmp_path / "killed", warn=warnings.append)
    assert len(warnings) == 1
    assert "died with exit code -9 in job 0" in warnings[0] and warnings[0].startswith("worker process (pid ")
    for number in range(5):
        calm, killed = (read_episode(episode_path(tmp_path / name, number)) for name in ("calm", "killed"))
        assert calm.frames.tobytes() == killed.frames.tobytes()
        assert calm.actions.tobytes() == killed.actions.tobytes()


def test_an_episode_that_kills_every_worker_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    task = slow_task(tmp_path, "os.write(2, b'no more memory\\nfor tracks\\n'); os._exit(3)")
    warnings: list[str] = []
    with pytest.raises(UserError, match=r"died with exit code 3 in job 0; .* after 3 attempts") as given_up:
        collect(task, CollectConfig(episodes=2, workers=1), 1, tmp_path / "data", warn=warnings.append)
    assert str(given_up.value).endswith("its last output:\nno more memory\nfor tracks")
    assert len(warnings) == 2


def test_a_tasks_own_error_is_told_at_once_with_its_traceback(tmp_path: Path) -> None:
    """Also one of the kind that a full disk raises."""
    task = slow_task(tmp_path, "(Path(__file__).parent / 'tried').open('a').write('once '); open('/nowhere/track')")
    warnings: list[str] = []
    with pytest.raises(ForeignError, match=r"^the task slow: reset raised FileNotFoundError: .*/nowhere/track") as told:
        collect(task, CollectConfig(episodes=2, workers=1), 1, tmp_path / "data", warn=warnings.append)
    assert warnings == [] and (tmp_path / "tried").read_text() == "once "
    assert "Traceback" in told.value.trace and "slow_task.py" in told.value.trace and "in reset" in told.value.trace


def test_killed_and_begun_again_it_ends_with_the_same_files(tmp_path: Path, parent: subprocess.Popen) -> None:
    data = tmp_path / "data"
    wait_until(lambda: len(list(data.glob("*.array_record"))) >= 3)
    workers = children(parent.pid)
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in workers), 5)
    done = {path: path.stat().st_mtime_ns for path in data.glob("*.array_record")}
    assert 3 <= len(done) < 12 and not (data / "index.jsonl").exists()
    task = str(tmp_path / "slow_task.py")
    collect(task, CollectConfig(episodes=12, workers=2), 3, data)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    collect(task, CollectConfig(episodes=12, workers=4), 3, tmp_path / "undisturbed")
    assert files(data) == files(tmp_path / "undisturbed")


def test_ctrl_c_ends_workers_and_keeps_what_is_done(tmp_path: Path, parent: subprocess.Popen) -> None:
    data = tmp_path / "data"
    wait_until(lambda: len(list(data.glob("*.array_record"))) >= 1)
    workers = children(parent.pid)
    start = time.monotonic()
    parent.send_signal(signal.SIGINT)
    _, error = parent.communicate(timeout=10)
    assert time.monotonic() - start < 3
    assert not any(alive(pid) for pid in workers)
    assert error.decode().count("Traceback") == 1 and error.decode().strip().endswith("KeyboardInterrupt")
    assert list(data.glob("*.array_record"))


def test_what_the_progress_callback_raises_stops_the_work(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.episodes >= 2:
            raise Enough

    before = children(os.getpid())
    with pytest.raises(Enough):
        collect(slow_task(tmp_path), CollectConfig(episodes=200, workers=2), 3, tmp_path / "data", stop)
    assert 2 <= len(list((tmp_path / "data").glob("*.array_record"))) < 200
    assert children(os.getpid()) == before


def test_workers_do_not_load_jax(tmp_path: Path) -> None:
    task = slow_task(tmp_path, f"import sys; Path({str(tmp_path / 'modules')!r}).write_text(' '.join(sys.modules))")
    collect(task, CollectConfig(episodes=1, max_steps=1), 0, tmp_path / "data")
    loaded = (tmp_path / "modules").read_text().split()
    assert "wm_jax.rollouts.collect" in loaded
    assert not {"jax", "flax", "grain", "matplotlib"} & set(loaded)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_workers_are_as_many_as_the_cores_that_may_be_used(tmp_path: Path) -> None:
    workers: set[int] = set()
    before = set(children(os.getpid()))
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(allowed)])
    try:
        task = slow_task(tmp_path)
        collect(task, CollectConfig(episodes=2), 0, tmp_path / "data", lambda _: workers.update(children(os.getpid())))
    finally:
        os.sched_setaffinity(0, allowed)
    assert len(workers - before) == 1


def test_games_end_with_their_worker(tmp_path: Path) -> None:
    """ViZDoom plays in a process of its own, which must not outlive the parent."""
    code = (
        "from wm_jax.rollouts.collect import CollectConfig, collect\n"
        f"collect('take_cover', CollectConfig(episodes=500, workers=1), 3, {str(tmp_path / 'data')!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_until(lambda: any((tmp_path / "data").glob("*.array_record")))
    (worker,) = children(parent.pid)
    (game,) = children(worker)
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(worker) and not alive(game), 5)
    assert not [name for name in os.listdir(ROOT) if "vizdoom" in name]


def test_take_cover_is_recorded_as_it_was_played(tmp_path: Path) -> None:
    config = CollectConfig(episodes=3, policy="held", max_holds=(10, 30), min_length=101, max_steps=150, workers=2)
    headers = collect("take_cover", config, 0, tmp_path)
    store = EpisodeStore([tmp_path])
    for number, header in enumerate(headers):
        episode = store.episode(number)
        assert 101 <= header.length <= 150 and header.episode_return == header.length
        assert header.terminated == (header.length < 150)
        assert episode.frames.reshape(header.length, -1).mean(1).min() > 20
    bytes_a_frame = sum(path.stat().st_size for path in store.paths) / store.number_of_frames
    assert bytes_a_frame < 5.2 * 1024


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (PROBE, {"policy": "hold"}, "policy of probe must be one of random, held, right, centre, found 'hold'"),
        (PROBE, {"max_steps": 81}, "collect.max_steps must be between 1 and 80, found 81"),
        (PROBE, {"min_length": 81}, "collect.min_length must be between 1 and 80, found 81"),
        (PROBE, {"backend": "prob"}, "backend must be one of probe, found 'prob'; did you mean 'probe'"),
        ("car_racng", {}, "did you mean 'car_racing'"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, task: str, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        collect(task, CollectConfig(episodes=1, workers=1, **settings), 0, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [{"episodes": 0}, {"workers": -1}, {"min_length": 0}, {"max_steps": 0}, {"max_holds": (0,)}, {"max_holds": ()}],
)
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=f"collect.{next(iter(settings))} must"):
        CollectConfig(**settings)


def test_a_length_that_is_never_reached_is_said(tmp_path: Path) -> None:
    config = CollectConfig(episodes=1, policy="right", min_length=80, workers=1)
    with pytest.raises(UserError, match=r"collect.min_length 80 was not reached by \d+ episodes of policy right"):
        collect(PROBE, config, 0, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create the folder"):
        collect(PROBE, CollectConfig(episodes=1), 0, tmp_path / "file" / "data")


def test_seeds_are_all_different_and_none_is_scored_or_validated_on() -> None:
    seeds = {episode_seed(seed, number, attempt) for seed in range(3) for number in range(300) for attempt in range(3)}
    assert len(seeds) == 2700
    assert min(seeds) >= 2**30 > VALIDATION_SEED + VALIDATION_SEEDS and max(seeds) < 2**31


def test_frames_are_counted_while_the_first_episode_is_played(tmp_path: Path) -> None:
    seen: list[Progress] = []
    task = slow_task(tmp_path, seconds=0.02)
    collect(
        task, CollectConfig(episodes=1, workers=1, policy="centre", max_steps=60), 0, tmp_path / "data", seen.append
    )
    running = [progress.running for progress in seen if progress.episodes == 0]
    assert len(set(running)) > 2 and running == sorted(running) and running[-1] > 30
    assert (seen[-1].episodes, seen[-1].frames, seen[-1].running) == (1, 60, 0)
