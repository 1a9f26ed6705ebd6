"""Both tasks in their actual environments: frames, actions, limits, and episodes that follow from the seed alone."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wm_jax.errors import ForeignError, UserError
from wm_jax.rollouts.collect import play
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.rollouts.limits import Limits
from wm_jax.tasks import FRAME_SHAPE, PolicySettings, Task, load_task
from wm_jax.tasks.take_cover import LEFT, RIGHT, STAY, STRAY_CHANCE, make
from wm_jax.tasks.task import resize

PROBE = str(Path(__file__).parents[1] / "probe_task.py")
TASKS = {name: load_task(name) for name in ("car_racing", "take_cover", PROBE)}


def area_average(image: np.ndarray) -> np.ndarray:
    """The exact mean over the area of each of 64×64 pixels, float64 [64, 64, 3]."""

    def overlaps(size: int) -> np.ndarray:
        edges = np.arange(65) * size / 64
        pixels = np.arange(size)
        shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.clip(shared, 0, None) * 64 / size

    rows, columns = overlaps(image.shape[0]), overlaps(image.shape[1])
    return np.einsum("yi,ijc,xj->yxc", rows, image[..., :3].astype(float), columns)


@pytest.mark.parametrize("shape", [(84, 96, 3), (100, 160, 4), (100, 160, 3), (64, 64, 3), (64, 128, 3), (240, 320, 3)])
def test_resize_is_the_mean_over_the_area(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    small = resize(image)
    assert small.shape == FRAME_SHAPE and small.dtype == np.uint8
    error = small - area_average(image)
    assert np.abs(error).max() <= 2 and abs(error.mean()) < 0.8


def test_resize_keeps_black_and_white_apart() -> None:
    assert resize(np.full((84, 96, 3), 255, np.uint8)).min() >= 254
    assert resize(np.zeros((84, 96, 3), np.uint8)).max() <= 2


@pytest.mark.parametrize("name", TASKS)
def test_an_episode_follows_from_its_seed_whatever_was_played_before(name: str) -> None:
    task, policy = TASKS[name], TASKS[name].policy("random")
    used, fresh = task.make(), task.make()
    for seed in (5, 6):
        play(TaskEnv(task, used, Limits(40)), policy, seed)
    again, first = (play(TaskEnv(task, environment, Limits(60)), policy, 7) for environment in (used, fresh))
    other = play(TaskEnv(task, used, Limits(60)), policy, 8)
    used.close()
    fresh.close()
    np.testing.assert_array_equal(again.frames, first.frames)
    np.testing.assert_array_equal(again.actions, first.actions)
    np.testing.assert_array_equal(again.rewards, first.rewards)
    assert again.frames.shape[1:] == FRAME_SHAPE and again.frames.dtype == np.uint8
    assert not np.array_equal(other.actions[:10], again.actions[:10])


@pytest.mark.parametrize("name", TASKS)
def test_every_policy_acts_within_bounds(name: str) -> None:
    task = TASKS[name]
    frame = np.full(FRAME_SHAPE, 200, np.uint8)
    for policy in task.policies:
        act = task.policy(policy, PolicySettings(max_holds=(3, 200), sweep_steps=7))(np.random.default_rng(0))
        actions = np.stack([act(step, frame) for step in range(300)])
        assert actions.shape == (300, task.action_size) and actions.dtype == np.float32
        assert np.abs(actions).max() <= 1
    with pytest.raises(UserError, match="did you mean 'random'"):
        task.policy("randon")


def test_the_policy_does_not_draw_what_the_environment_draws() -> None:
    task = TASKS[PROBE]
    environment = task.make()
    episode = play(TaskEnv(task, environment, Limits(1)), task.policy("random"), 3)
    environment.reset(seed=3)
    assert episode.actions[0, 0] != pytest.approx(environment.np_random.uniform(-1, 1))


def test_held_actions_stay_for_one_to_n_tics() -> None:
    def runs(longest: int) -> np.ndarray:
        act = TASKS["take_cover"].policy("held", PolicySettings(max_holds=(longest,)))(np.random.default_rng(1))
        actions = np.array([act(step, np.zeros(FRAME_SHAPE, np.uint8))[0] for step in range(20_000)])
        return np.diff(np.flatnonzero(np.diff(actions)))

    lengths = runs(10)
    assert lengths.min() == 1 and lengths.max() == 10
    assert abs(lengths.mean() - 5.5) < 4 * np.sqrt(99 / 12 / len(lengths))


def test_wander_turns_after_one_to_n_tics_and_seldom_does_anything_else() -> None:
    act = TASKS["take_cover"].policy("wander", PolicySettings(max_holds=(20,)))(np.random.default_rng(1))
    actions = np.array([act(step, np.zeros(FRAME_SHAPE, np.uint8))[0] for step in range(50_000)])
    runs = np.split(actions, np.flatnonzero(np.diff(actions)) + 1)
    sides = np.array([run[0] for run in runs])
    strays = np.abs(sides) < 1
    assert max(map(len, runs)) == 20
    assert abs(strays.mean() - STRAY_CHANCE) < 4 * np.sqrt(STRAY_CHANCE * (1 - STRAY_CHANCE) / len(runs))
    assert (sides[:-1] * sides[1:])[~(strays[:-1] | strays[1:])].max() == -1


def test_sweep_goes_right_and_left_in_turn() -> None:
    act = TASKS["take_cover"].policy("sweep", PolicySettings(sweep_steps=3))(np.random.default_rng(0))
    assert [float(act(step, np.empty(0))[0]) for step in range(9)] == [1, 1, 1, -1, -1, -1, 1, 1, 1]


def test_car_racing_actions_as_in_the_released_code() -> None:
    mapped = TASKS["car_racing"].environment_action(np.array([-0.5, -1.0, -0.3], np.float32))
    np.testing.assert_allclose(mapped, [-0.5, 0.0, 0.0])
    np.testing.assert_allclose(TASKS["car_racing"].environment_action(np.ones(3)), [1, 1, 1])
    np.testing.assert_allclose(TASKS["car_racing"].environment_action(np.zeros(3)), [0, 0.5, 0])


def test_in_the_mirror_left_is_right() -> None:
    car_racing, take_cover = TASKS["car_racing"], TASKS["take_cover"]
    image = np.array([0.5, 1.0, -3.0]) * car_racing.mirror
    np.testing.assert_allclose(car_racing.environment_action(image), [-0.5, 1.0, 0.0])
    actions = np.array([[-1.0], [0.0], [1.0]]) * take_cover.mirror
    assert [take_cover.environment_action(action) for action in actions] == [RIGHT, STAY, LEFT]


def test_a_mirror_has_a_factor_for_each_number_of_an_action() -> None:
    with pytest.raises(UserError, match="actions of 3 numbers but its mirror has 1"):
        replace(TASKS["car_racing"], mirror=(-1.0,))


@pytest.mark.parametrize("name", ["car_racing", "take_cover"])
def test_what_is_seen_is_as_wide_to_the_left_as_to_the_right(name: str) -> None:
    task = TASKS[name]
    with_left, with_right = (_mean_frame(task, side) for side in (-0.5, 0.5))
    away = np.abs(with_left - with_right).mean()
    assert np.abs(with_left - with_right[:, ::-1]).mean() < away


def _mean_frame(task: Task, side: float) -> np.ndarray:
    """What an agent that tends to one side sees on average [64, 64, 3]."""
    environment = TaskEnv(task, task.make(), Limits(max_steps=60))
    action = np.array([side, *[0.0] * (task.action_size - 1)], np.float32)
    played = [play(environment, lambda generator: lambda step, frame: action, seed) for seed in range(6)]
    environment.close()
    return np.concatenate([episode.frames[30:] for episode in played]).mean(axis=0)


def test_the_random_driver_draws_from_the_whole_action_space() -> None:
    task = TASKS["car_racing"]
    act = task.policy("random")(np.random.default_rng(0))
    drawn = np.stack([task.environment_action(act(step, np.empty(0))) for step in range(4000)])
    np.testing.assert_allclose(drawn.mean(0), [0, 0.5, 0.5], atol=0.05)
    np.testing.assert_allclose(drawn.std(0), [2 / 12**0.5, 1 / 12**0.5, 1 / 12**0.5], atol=0.02)


def test_car_racing_frame_has_no_dashboard() -> None:
    observation = np.zeros((96, 96, 3), np.uint8)
    observation[84:] = 255
    assert TASKS["car_racing"].frame(observation).max() <= 2


def test_take_cover_goes_left_right_or_stays_at_a_third() -> None:
    mapped = [TASKS["take_cover"].environment_action(np.array([a])) for a in (-1, -0.34, -0.33, 0, 0.33, 0.34, 1)]
    assert mapped == [LEFT, LEFT, STAY, STAY, STAY, RIGHT, RIGHT]
    environment = make()
    buttons = environment.get_wrapper_attr("button_map")
    available = [str(button) for button in environment.get_wrapper_attr("game").get_available_buttons()]
    environment.close()
    pressed = [[name for name, on in zip(available, buttons[action], strict=True) if on] for action in (LEFT, RIGHT)]
    assert not buttons[STAY].any()
    assert [["MOVE_LEFT" in name for name in names] for names in pressed] == [[True], [False]]
    assert "MOVE_RIGHT" in pressed[1][0]


def test_take_cover_frame_is_what_is_seen_above_the_status_bar() -> None:
    screens = []
    for bar in (False, True):
        environment = make()
        environment.get_wrapper_attr("game").set_render_hud(bar)
        screens.append(environment.reset(seed=3)[0])
        environment.close()
    np.testing.assert_array_equal(screens[0][10:110], screens[1][:100])
    np.testing.assert_array_equal(
        TASKS["take_cover"].frame(screens[0]), resize(np.ascontiguousarray(screens[1][:100, :, :3]))
    )


def test_take_cover_timeout_is_truncation_and_its_empty_screen_is_never_kept() -> None:
    task = TASKS["take_cover"]
    environment = make(timeout=30)
    cut_off = play(TaskEnv(task, environment), task.policy("stay"), 0)
    environment.close()
    assert len(cut_off.frames) < 31 and not cut_off.terminated
    environment = make()
    died = play(TaskEnv(task, environment), task.policy("stay"), 0)
    cut_by_us = play(TaskEnv(task, environment, Limits(20)), task.policy("stay"), 0)
    environment.close()
    assert died.terminated and died.rewards.sum() == len(died.frames)
    assert not cut_by_us.terminated and len(cut_by_us.frames) == 20
    for episode in (cut_off, died):
        assert episode.frames.reshape(len(episode.frames), -1).mean(1).min() > 20
        assert len(episode.frames) == len(episode.actions) == len(episode.rewards)


def test_take_cover_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = make()
    environment.reset(seed=0)
    environment.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("backend", "package", "name", "extra"),
    [
        ("vizdoom", "vizdoom", "take_cover", "doom"),
        ("envpool", "envpool", "car_racing", "envpool"),
        ("gymnasium", "Box2D", "car_racing", "car"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    backend: str, package: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'{package} is needed here .*pip install "wm-jax\[{extra}\]"'):
        TASKS[name].make(backend)


def test_tasks_are_found_by_name_or_path(tmp_path: Path) -> None:
    assert isinstance(TASKS[PROBE], Task)
    with pytest.raises(UserError, match="did you mean 'car_racing'"):
        load_task("car_racin")
    with pytest.raises(UserError, match="does not exist"):
        load_task(str(tmp_path / "missing.py"))
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="must define TASK"):
        load_task(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("TASK = 1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_an_error_in_a_task_file_is_named_with_its_file(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(ForeignError, match=rf"task file .*wrong\.py raised {error} \(wrong\.py, line 1\)") as told:
        load_task(str(path))
    assert told.value.trace.startswith("Traceback") and text in told.value.trace


@pytest.mark.parametrize("text", [b"TASK = (", b"TASK = '\xff'", b"TASK = 0\0"])
def test_a_task_file_that_is_no_python_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "wrong.py"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"task file .*wrong\.py cannot be run: (Syntax|Value)Error"):
        load_task(str(path))


def test_what_a_task_file_says_itself_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("from wm_jax.errors import ForeignError, UserError\nraise UserError('pip install the game')")
    with pytest.raises(UserError, match=r"^pip install the game$"):
        load_task(str(path))


def test_the_limit_is_truncation_and_the_last_frame_is_that_before_the_last_action() -> None:
    task = TASKS[PROBE]
    environment, bare = TaskEnv(task, task.make(), Limits(3)), task.make()
    first = environment.reset(5)
    np.testing.assert_array_equal(first, bare.reset(seed=5)[0])
    for step in range(3):
        before = environment.frame
        frame, reward, terminated, truncated = environment.step(np.zeros(1, np.float32))
        seen, expected, *_ = bare.step(np.zeros(1, np.float32))
        assert reward == expected and not terminated and truncated == (step == 2)
        np.testing.assert_array_equal(frame, before if truncated else seen)
    assert TaskEnv(task, bare, Limits(1000)).watch.max_steps == task.max_steps


def survival(episodes: int) -> np.ndarray:
    task = TASKS["take_cover"]
    environment = TaskEnv(task, task.make())
    lengths = [len(play(environment, task.policy("random"), seed).frames) for seed in range(episodes)]
    environment.close()
    return np.array(lengths)


def test_the_random_policy_survives_as_long_as_in_the_paper() -> None:
    """Paper: 210 ± 108. The bound is 3.5 standard errors; skill 5 (70) and held actions (312) fall outside."""
    lengths = survival(24)
    assert abs(lengths.mean() - 210) < 3.5 * 108 / np.sqrt(len(lengths))


@pytest.mark.slow
def test_the_random_policy_survives_as_long_as_in_the_paper_at_length() -> None:
    lengths = survival(300)
    assert abs(lengths.mean() - 222) < 3.5 * 98 * np.sqrt(1 / 300 + 1 / 323)
    assert 75 < lengths.std(ddof=1) < 130
