"""What a task's own functions raise is told with their names, and what they return is checked before it is recorded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wm_jax.errors import ForeignError, UserError
from wm_jax.rollouts.acting import Lanes, ScriptedDriver
from wm_jax.rollouts.collect import play
from wm_jax.rollouts.lanes import TaskEnv
from wm_jax.rollouts.pools import PoolEnvs
from wm_jax.tasks import Task, load_task

TESTS = Path(__file__).parents[1]
PROBE = load_task(str(TESTS / "probe_task.py"))
POOL = load_task(str(TESTS / "rollouts" / "pool_task.py"))


def spoilt(method: str, spoil: Callable[[Any], Any]) -> Task:
    """The probe, whose environment returns something else."""
    bare = PROBE.backends["probe"]

    def make() -> Any:
        environment = bare()
        whole = getattr(environment, method)
        setattr(environment, method, lambda *arguments, **options: spoil(whole(*arguments, **options)))
        return environment

    return replace(PROBE, backends={"probe": make})


def step_with(place: int, value: Any) -> Task:
    """The probe, one of whose step's five values is another one."""
    return spoilt("step", lambda outcome: (*outcome[:place], value, *outcome[place + 1 :]))


def acting(action: Any) -> Task:
    """The probe, whose random policy always does this."""
    return replace(PROBE, policies={"random": lambda generator, settings: lambda step, frame: action})


def one(task: Task) -> Any:
    return play(TaskEnv(task, task.make()), task.policy("random"), 3)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            replace(PROBE, frame=lambda observation: observation / 255),
            r"frame must return uint8 \[64, 64, 3\], found float64 \[64, 64, 3\]; multiply numbers from 0 to 1 by 255",
        ),
        (replace(PROBE, frame=lambda observation: observation[..., :1]), r"frame must .* found uint8 \[64, 64, 1\]"),
        (replace(PROBE, frame=lambda observation: observation[0, 0]), r"frame must .* found ndarray array\(\[30"),
        (replace(PROBE, frame=lambda observation: None), "frame must .* found NoneType None"),
        (spoilt("reset", lambda begun: begun[0]), r"reset must return \(observation, info\), found uint8 \[64, 64, 3\]"),
        (spoilt("step", lambda outcome: outcome[:4]), r"step must return \(observation, reward, terminated, truncated"),
        *(
            (step_with(1, reward), "step must return a finite number as its reward, found ")
            for reward in (np.nan, float("inf"), 1e39, None, "1.0", np.ones(1), 1j, [1.0])
        ),
        *(
            (step_with(place, flag), f"step must return True or False as `{name}`, found ")
            for place, name in ((2, "terminated"), (3, "truncated"))
            for flag in (None, {}, 2, np.nan, "no", np.zeros(1, bool))
        ),
        *(
            (acting(action), r"policies\['random'\] must return an action of shape \[1\], each number from -1 to 1, found ")
            for action in (1.0, [1.5], [-1.001], [0.0, 0.0], [np.nan], [[0.0]], None, ["0.5"], [None], [1j], [[0], [0, 0]])
        ),
    ],
)  # fmt: skip
def test_what_is_not_as_it_must_be_is_refused_by_its_functions_name(task: Task, says: str) -> None:
    with pytest.raises(UserError, match=f"^the task probe: {says}"):
        one(task)


def test_a_reward_that_is_wrong_late_in_an_episode_is_found() -> None:
    rewards = iter([0.5] * 70 + [np.nan])
    task = spoilt("step", lambda outcome: (outcome[0], next(rewards), False, False, {}))
    with pytest.raises(UserError, match="step must return a finite number as its reward, found float nan"):
        one(task)


@pytest.mark.parametrize(
    "task",
    [
        *(
            acting(action)
            for action in ([1], [1.0], (1.0,), np.ones(1), np.ones(1, np.int64), np.full(1, 1.000001, np.float32))
        ),
        *(step_with(1, reward) for reward in (1, np.float64(1), np.float32(1), np.int64(1), np.array(1.0), True)),
        *(step_with(2, flag) for flag in (np.True_, 1, np.array(True))),
        replace(PROBE, frame=lambda observation: observation.tolist() and np.asarray(observation)[::-1]),
    ],
)
def test_numbers_of_any_type_are_taken(task: Task) -> None:
    episode = one(task)
    assert (episode.frames.dtype, episode.actions.dtype, episode.rewards.dtype) == (np.uint8, np.float32, np.float32)
    assert episode.actions.shape == (len(episode.rewards), 1) and isinstance(episode.terminated, bool)


def test_what_a_task_writes_to_its_action_or_a_policy_to_its_own_is_not_recorded() -> None:
    def double(action: np.ndarray) -> np.ndarray:
        action *= 0.5
        return action

    values = iter(np.linspace(0.1, 0.9, 100))
    room = np.zeros(1, np.float32)

    def act(step: int, frame: np.ndarray) -> np.ndarray:
        room[:] = next(values)
        return room

    task = replace(PROBE, environment_action=double, policies={"random": lambda generator, settings: act})
    recorded = one(task).actions[:, 0]
    np.testing.assert_allclose(recorded, np.linspace(0.1, 0.9, 100)[: len(recorded)], rtol=1e-6)


class Broken(Exception):
    """Cannot be made from its message alone."""

    def __init__(self, what: str, why: str):
        super().__init__(f"{what}: {why}")


def fail(*arguments: Any, **options: Any) -> Any:
    raise Broken("no track", "rain")


@pytest.mark.parametrize(
    ("function", "task"),
    [
        ("frame", replace(PROBE, frame=fail)),
        ("environment_action", replace(PROBE, environment_action=fail)),
        ("reset", spoilt("reset", fail)),
        ("step", spoilt("step", fail)),
        (r"backends\['probe'\]", replace(PROBE, backends={"probe": fail})),
        (r"policies\['random'\]", replace(PROBE, policies={"random": fail})),
        (r"policies\['random'\]", replace(PROBE, policies={"random": lambda generator, settings: fail})),
    ],
)
def test_what_a_function_raises_is_told_by_its_name_with_its_traceback(function: str, task: Task) -> None:
    says = rf"^the task probe: {function} raised Broken: no track: rain \(test_tasks_calls.py, line \d+\)$"
    with pytest.raises(ForeignError, match=says) as told:
        one(task)
    assert told.value.trace.startswith("Traceback") and "in fail" in told.value.trace


def test_what_a_task_tells_its_user_is_passed_on() -> None:
    def missing() -> Any:
        raise UserError("pip install the game")

    with pytest.raises(UserError, match=r"^pip install the game$"):
        replace(PROBE, backends={"probe": missing}).make()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "name must be a word, found ''"),
        ({"action_size": 0}, "action_size must be a whole number, 1 at least, found 0"),
        ({"max_steps": 10.0}, "max_steps must be a whole number, 1 at least, found 10.0"),
        ({"backends": {}}, "backends must be at least one maker"),
        ({"policies": {"held": fail}}, "policies must be policies by name, one of them `random`"),
        ({"pools": {"pol": fail}}, r"pools must be by the names of backends \(probe\), found {'pol'"),
        ({"frame": [0.5]}, r"frame must be a function, found \[0.5\]"),
        ({"environment_action": 0}, "environment_action must be a function, found 0"),
        ({"policies": {"random": 1}}, "policies must be functions by name, found {'random': 1}"),
        ({"reward_range": (1.0, -1.0)}, r"reward_range must be \(lower end, higher end\), found \(1.0, -1.0\)"),
        ({"reward_range": (np.nan, 1.0)}, "reward_range must be"),
        ({"frames_per_second": 0}, "frames_per_second must be a number above 0, found 0"),
        ({"typical_length": 0}, "typical_length must be a number above 0, found 0"),
        ({"mirror": (-1.0, 1.0)}, "actions of 1 numbers but its mirror has 2"),
        (
            {"controls": {"left": (-1.0,)}},
            "controls must be actions of 1 numbers, `rest` and any of left, right, up, down",
        ),
        ({"controls": {"rest": (0.0,), "jump": (1.0,)}}, "controls must be actions of 1 numbers"),
        ({"controls": {"rest": (0.0, 0.0)}}, "controls must be actions of 1 numbers"),
    ],
)
def test_a_task_that_is_none_is_refused_where_it_is_made(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^the task probe?.*{says}" if "name" not in changes else says):
        replace(PROBE, **changes)


def test_a_task_without_controls_is_driven_by_its_first_two_numbers() -> None:
    assert PROBE.all_controls == {"rest": (0.0,), "left": (-1.0,), "right": (1.0,)}
    wide = replace(PROBE, action_size=3, mirror=None).all_controls
    assert wide["right"] == (1.0, 0.0, 0.0) and wide["up"] == (0.0, 1.0, 0.0) and wide["down"] == (0.0, -1.0, 0.0)
    mine = {"rest": (0.0,), "up": (1.0,)}
    assert replace(PROBE, controls=mine).all_controls == mine


class Spoilt:
    """A pool of the probe's episodes, which returns something else."""

    def __init__(self, seeds: Sequence[int], spoils: dict[str, Callable[[Any], Any]]):
        self.pool, self.spoils = POOL.pools["pool"](seeds), spoils

    def reset(self, episodes: np.ndarray) -> Any:
        return self.spoils.get("reset", lambda same: same)(self.pool.reset(episodes))

    def send(self, actions: np.ndarray, episodes: np.ndarray) -> None:
        self.pool.send(actions, episodes)

    def recv(self) -> Any:
        return self.spoils.get("recv", lambda same: same)(self.pool.recv())


def other(place: int, spoil: Callable[[np.ndarray], Any]) -> dict[str, Callable[[Any], Any]]:
    return {"recv": lambda came: (*came[:place], spoil(came[place]), *came[place + 1 :])}


@pytest.mark.parametrize(
    ("spoils", "error", "says"),
    [
        ({"reset": lambda seen: seen[:1]}, UserError, r"reset must return an observation for each of 2 episodes, found"),
        ({"reset": fail}, ForeignError, "reset raised Broken: no track: rain"),
        ({"recv": lambda came: came[:3]}, UserError, r"recv must return \(observations, rewards, terminated, truncated\)"),
        (other(0, lambda seen: seen / 255), UserError, "frame must return uint8"),
        (other(1, lambda rewards: rewards * np.nan), UserError, "recv must return as `rewards` a finite number"),
        (other(1, lambda rewards: rewards[:, None]), UserError, "recv must return as `rewards`"),
        (other(2, lambda flags: flags.astype(float)), UserError, "recv must return as `terminated` True or False for each"),
        (other(3, lambda flags: flags[:1]), UserError, "recv must return as `truncated` True or False for each of 2"),
    ],
)  # fmt: skip
def test_a_pool_is_checked_alike(spoils: dict[str, Callable], error: type[Exception], says: str) -> None:
    task = replace(POOL, pools={"pool": lambda seeds: Spoilt(seeds, spoils)})
    group = PoolEnvs(task, "pool", 2)
    with pytest.raises(error, match=rf"^the task probe: (pools\['pool'\]\.)?{says}"):
        group.prepare([1, 2])
        group.begin({0: 1, 1: 2})
        group.act(np.zeros((2, 1), np.float32))
        group.acted()


class Wild(ScriptedDriver):
    """Lanes' actions, one of which is no action from step 3 on."""

    def __init__(self, action: float):
        super().__init__(PROBE.policy("random"))
        self.action = action

    def open(self, lanes: int) -> Any:
        batch, action = super().open(lanes), self.action

        class Crew:
            name = "act of Wild"
            begin = batch.begin

            def __call__(self, frames: np.ndarray) -> np.ndarray:
                actions = batch(frames)
                actions[-1] = action if batch.steps[-1] > 3 else 0.0
                return actions

        return Crew()


@pytest.mark.parametrize("action", [1.01, np.nan, -np.inf])
def test_a_drivers_actions_are_checked_in_lanes_that_are_at_an_episode(action: float) -> None:
    path = str(TESTS / "rollouts" / "pool_task.py")
    with Lanes(path, 4, print, backend="pool") as lanes:
        says = r"^act of Wild, in step 3 of the episode of seed 6, must return an action of shape \[1\]"
        with pytest.raises(UserError, match=says):
            lanes.play(Wild(action), [(5, 0), (5, 0), (6, 0), (6, 0)])
        assert len(lanes.play(Wild(action), [(5, 0), (6, 0)])) == 2, "the last lane of either group is idle"
