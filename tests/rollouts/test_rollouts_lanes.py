"""Lanes: whatever dies is named and played again, what fails is told, and nothing is left behind or printed."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from wm_jax.errors import ForeignError, UserError
from wm_jax.rollouts.acting import ATTEMPTS, Count, Lanes, Played, ScriptedDriver
from wm_jax.rollouts.lanes import LaneEnvs
from wm_jax.rollouts.limits import Limits
from wm_jax.tasks import load_task

PROBE = str(Path(__file__).parent.parent / "probe_task.py")
EPISODES = [(100 + i, 0) for i in range(5)]

TASK = """
import os, runpy, sys, time
from dataclasses import replace
from pathlib import Path

from wm_jax.errors import UserError

PROBE = runpy.run_path({probe!r})
FOLDER = Path({folder!r})

class Failed(Exception):
    def __init__(self, what, why):
        super().__init__(f"{{what}}: {{why}}")

def first(name):
    try:
        (FOLDER / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

class Changed(PROBE["Probe"]):
    def reset(self, **arguments):
        observation, info = super().reset(**arguments)
        {on_reset}
        return observation, info

    def step(self, action):
        {on_step}
        return super().step(action)

TASK = replace(PROBE["TASK"], name="changed", backends={{"changed": Changed}})
"""


def changed(folder: Path, on_step: str = "pass", on_reset: str = "pass") -> str:
    path = folder / "changed_task.py"
    path.write_text(TASK.format(probe=PROBE, folder=str(folder), on_step=on_step, on_reset=on_reset))
    return str(path)


def play(task: str, lanes: int, warnings: list[str]) -> list[Played]:
    with Lanes(task, lanes, warnings.append) as opened:
        return opened.play(ScriptedDriver(load_task(PROBE).policy("random")), EPISODES)


@pytest.fixture(scope="module")
def calm() -> list[Played]:
    """The episodes, undisturbed; scripted policies play the same on any number of lanes."""
    return play(PROBE, 2, [])


def pids(lanes: Lanes) -> list[int]:
    groups = [group for group in lanes.groups if isinstance(group, LaneEnvs)]
    return [worker.process.pid for group in groups for worker in group.workers.values()]


def session(worker: int) -> list[int]:
    """The processes alive in a worker's session: itself and what it has started."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,stat="], stdout=subprocess.PIPE, text=True).stdout
    found = [line.split() for line in listing.splitlines()]
    return [int(pid) for pid, status in found if not status.startswith("Z") and session_of(int(pid)) == worker]


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_lanes_share_workers(calm: list[Played], monkeypatch: pytest.MonkeyPatch) -> None:
    """Five lanes a group on two cores: one worker has three, the other two."""
    monkeypatch.setattr("wm_jax.rollouts.lanes.usable_cores", lambda: 2)
    with Lanes(PROBE, 9, print) as lanes:
        played = lanes.play(ScriptedDriver(load_task(PROBE).policy("random")), EPISODES * 3)
        assert len(pids(lanes)) == 2 * 2
    assert played == calm * 3


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("moment", ["on_step", "on_reset"])
def test_a_worker_that_is_killed_is_named_and_replaced(
    lanes: int, moment: str, tmp_path: Path, calm: list[Played], capfd: pytest.CaptureFixture
) -> None:
    """In the middle of a step, or while an episode begins."""
    when = {"on_step": "self.steps == 7", "on_reset": "arguments['seed'] == 103"}[moment]
    task = changed(tmp_path, **{moment: f"if {when} and first('died'): os.kill(os.getpid(), 9)"})
    warnings: list[str] = []
    assert play(task, lanes, warnings) == calm
    assert len(warnings) == 1
    assert warnings[0].startswith("worker process (pid ") and "died with exit code -9 while playing" in warnings[0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_worker_killed_between_two_steps_is_named_and_replaced(lanes: int, calm: list[Played]) -> None:
    warnings: list[str] = []
    killed: list[int] = []
    with Lanes(PROBE, lanes, warnings.append) as opened:

        def kill(count: Count) -> None:
            if count.finished == 3 and not killed:
                killed.append(pids(opened)[0])
                os.kill(killed[0], signal.SIGKILL)

        again = opened.play(ScriptedDriver(load_task(PROBE).policy("random")), EPISODES, tick=kill)
    assert again == calm
    assert len(warnings) == 1 and warnings[0].startswith(
        f"worker process (pid {killed[0]}) died with exit code -9 while"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_step": "if self.steps == 7: raise RuntimeError('no track: 7')"}, "step raised RuntimeError: no track: 7"),
        ({"on_step": "raise Failed('no track', 7)"}, "step raised Failed: no track: 7"),
        ({"on_reset": "raise OSError(28, 'no track')"}, r"reset raised OSError: \[Errno 28\] no track"),
    ],
)
def test_what_a_task_raises_is_told_at_once_with_its_traceback(
    changes: dict[str, str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Also an exception that only the task's file knows, and that cannot be made from its message."""
    warnings: list[str] = []
    with pytest.raises(ForeignError, match=rf"^the task changed: {message} \(changed_task.py, line \d+\)$") as told:
        play(changed(tmp_path, **changes), 2, warnings)
    assert warnings == []
    assert told.value.trace.startswith("Traceback") and "changed_task.py" in told.value.trace
    assert capfd.readouterr() == ("", "")


def test_a_frame_of_another_shape_is_told_at_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    with pytest.raises(
        UserError, match=r"^the task changed: frame must return uint8 \[64, 64, 3\], found uint8 \[60, 64"
    ):
        play(changed(tmp_path, on_reset="observation = observation[:60]"), 1, warnings)
    assert warnings == []


def test_what_always_kills_is_given_up(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    warnings: list[str] = []
    task = changed(tmp_path, on_step="print('no memory'); print('left', flush=True); os._exit(3)")
    says = rf"^worker process \(pid \d+\) died with exit code 3 .* after {ATTEMPTS} attempts"
    with pytest.raises(UserError, match=says) as given_up:
        play(task, 1, warnings)
    assert str(given_up.value).endswith("its last output:\nno memory\nleft")
    assert len(warnings) == ATTEMPTS - 1
    assert capfd.readouterr() == ("", "")


def test_a_crash_says_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="died with exit code -11 ") as given_up:
        play(changed(tmp_path, on_step="os.kill(os.getpid(), 11)"), 1, [])
    assert "Fatal Python error: Segmentation fault" in str(given_up.value)
    assert "changed_task.py" in str(given_up.value)


def test_a_death_is_noticed_though_what_the_worker_has_started_lives_on(tmp_path: Path, calm: list[Played]) -> None:
    """A process that was forked holds on to the connection."""
    forked = "os.fork() or time.sleep(60)"
    task = changed(tmp_path, f"if self.steps == 7 and first('died'): {forked}; os.kill(os.getpid(), 9)")
    warnings: list[str] = []
    assert play(task, 2, warnings) == calm
    assert len(warnings) == 1 and "died with exit code -9" in warnings[0]


def test_workers_are_kept_off_the_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that imports JAX finds the CPU, whatever the parent is to use."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    task = changed(tmp_path, on_reset="(FOLDER / 'platforms').write_text(os.environ['JAX_PLATFORMS'])")
    play(task, 1, [])
    assert (tmp_path / "platforms").read_text() == "cpu"


@pytest.mark.parametrize("moment", ["on_step", "on_reset"])
def test_what_the_user_must_mend_is_not_tried_again(moment: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    task = changed(tmp_path, **{moment: "raise UserError('pip install the game')"})
    with pytest.raises(UserError, match=r"^pip install the game$"):
        play(task, 2, warnings)
    assert warnings == []


def test_what_the_parent_raises_is_no_death() -> None:
    warnings: list[str] = []

    def closed_screen(count: Count) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), Lanes(PROBE, 1, warnings.append) as lanes:
        lanes.play(ScriptedDriver(load_task(PROBE).policy("random")), EPISODES, tick=closed_screen)
    assert warnings == []


def test_ctrl_c_in_the_middle_of_a_step_leaves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Neither the workers nor what they have started, though a step would take a minute."""
    task = changed(
        tmp_path, "first('stepping'); time.sleep(60)", "import subprocess; subprocess.Popen(['sleep', '60'])"
    )
    workers: list[int] = []
    sizes: list[int] = []

    def interrupt() -> None:
        while not (tmp_path / "stepping").exists():
            time.sleep(0.01)
        workers.extend(pids(lanes))
        sizes.extend(len(session(worker)) for worker in workers)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt), Lanes(task, 2, print) as lanes:
        thread.start()
        lanes.play(ScriptedDriver(load_task(PROBE).policy("random")), EPISODES)
    thread.join()
    assert max(sizes) == 2
    # On a busy machine what was killed takes a moment to be gone.
    end = time.monotonic() + 10
    while any(map(session, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert [session(worker) for worker in workers] == [[], []]
    assert capfd.readouterr() == ("", "")


def test_a_game_that_crashes_is_played_again() -> None:
    """ViZDoom plays in a process of its own: when that is killed, and when the worker is and leaves it behind."""
    warnings: list[str] = []
    episodes = [(3, 0), (4, 0)]
    with Lanes("take_cover", 1, warnings.append, Limits(40)) as lanes:
        driver = ScriptedDriver(load_task("take_cover").policy("random"))
        whole = lanes.play(driver, episodes)
        for victim in ("game", "worker"):
            killed: list[int] = []

            def kill(count: Count, victim: str = victim, killed: list[int] = killed) -> None:
                if not killed:
                    (worker,) = pids(lanes)
                    game = max(session(worker), key=lambda pid: pid != worker)
                    killed.append(game if victim == "game" else worker)
                    os.kill(killed[0], signal.SIGKILL)

            assert lanes.play(driver, episodes, tick=kill) == whole
    assert len(warnings) == 2
    assert "died with exit code 1 while" in warnings[0]
    assert "died with exit code -9" in warnings[1]
