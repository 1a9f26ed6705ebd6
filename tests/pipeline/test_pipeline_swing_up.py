"""A task in JAX through every stage: played on the device, stopped and gone on with, measured, and searched in itself."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from wm_jax.actors.mlp import MLPConfig
from wm_jax.data.records import read_episode
from wm_jax.dream import DreamConfig
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.explore.noise import NoiseConfig
from wm_jax.memory import MemoryConfig
from wm_jax.models import Models
from wm_jax.pipeline.progress import Screen
from wm_jax.pipeline.running import run_experiment
from wm_jax.report import figures
from wm_jax.rollouts import CollectConfig, EvaluateConfig, RoundsConfig, device
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig
from wm_jax.vision import VisionConfig
from wm_jax.worlds.simulator import SimulatorConfig
from wm_jax.worlds.vision_memory import VisionMemoryConfig

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

PIXELS = Experiment(
    name="pixels",
    task="swing_up",
    collect=CollectConfig(episodes=20, policy="random", min_length=30, max_steps=60),
    world=VisionMemoryConfig(
        # As many steps in the second round, so that nothing compiles for it.
        vision=VisionConfig(latent_size=4, width=4, batch_size=8, steps=2, later_steps=2),
        memory=MemoryConfig(
            hidden_size=8, mixtures=2, predict_reward=True, predict_done=True, predict_action=True, batch_size=4,
            sequence_length=20, steps=2, later_steps=2,
        ),
    ),
    dream=DreamConfig(horizon=20, start="anywhere", reward="predicted"),
    actor=MLPConfig(features=("z", "h", "action")),
    search=CMAESConfig(population=4, rollouts=2),
    evolve=EvolveConfig(
        fitness="actual", select="actual", max_steps=20, generations=2, evaluate_every=1, actual_episodes=2
    ),
    explorer=NoiseConfig(action_noise=0.3),
    rounds=RoundsConfig(count=2, episodes=18, drivers="evaluated"),
    evaluate=EvaluateConfig(episodes=3, environments=16, rounds=(0,)),
)  # fmt: skip


def run(experiment: Experiment, folder: Path) -> dict:
    run_experiment(experiment, folder, (), False, None, Screen())
    return json.loads((folder / "evaluation.json").read_text())


def test_from_pixels_stopped_in_the_middle_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Films and reports of such runs are other tests'.
    monkeypatch.setattr(figures, "can_draw", lambda: False)
    whole = run(PIXELS, tmp_path / "whole")
    played, calls = device.play, 0

    def now_and_then(*arguments):
        nonlocal calls
        calls += 1
        if calls % 6 == 0:
            raise KeyboardInterrupt
        return played(*arguments)

    monkeypatch.setattr(device, "play", now_and_then)
    stops = 0
    while True:
        try:
            stopped = run(PIXELS, tmp_path / "stopped")
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 2
    assert {name: score["returns"] for name, score in whole.items()} == {
        name: score["returns"] for name, score in stopped.items()
    }
    records = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob("**/*.array_record"))
    assert len(records) == 20 + 18
    for record in records:
        assert (tmp_path / "whole" / record).read_bytes() == (tmp_path / "stopped" / record).read_bytes()
    scripted, driven = (read_episode(tmp_path / "whole" / records[number]) for number in (0, 20))
    assert (
        30 <= len(scripted.frames) <= 60 and scripted.policy == "random" and driven.policy == "candidate 0 of round 0"
    )
    assert 0 <= whole["controller"]["measures"]["upright"] <= 1 and "measures" in whole["random"]
    assert list(whole) == ["random", "round-0", "controller"]
    assert whole["round-0"]["returns"] != whole["controller"]["returns"]


def test_the_simulator_dreams_what_happens(tmp_path: Path) -> None:
    """Searched in itself, a C earns in the dream what it earns in the actual environment."""
    experiment = replace(
        PIXELS,
        world=SimulatorConfig(),
        dream=DreamConfig(horizon=250, start="first", reward="predicted"),
        actor=MLPConfig(features=("observation",), hidden_sizes=(10,)),
        search=CMAESConfig(population=16, rollouts=4, sigma=1.0),
        evolve=EvolveConfig(generations=8, evaluate_every=8, evaluation_rollouts=64, actual_episodes=2),
        rounds=RoundsConfig(),
        evaluate=EvaluateConfig(episodes=64, environments=64),
    )
    scores = run(experiment, tmp_path / "run")
    dream, actual = scores["controller"]["dream"], scores["controller"]
    assert abs(dream["mean"] - actual["mean"]) < 4 * np.hypot(dream["se"], actual["se"])
    assert actual["mean"] > scores["random"]["mean"] + 3 * np.hypot(actual["se"], scores["random"]["se"])


def test_the_simulator_follows_the_actual_episode() -> None:
    """An actor that reads the simulator's state acts on the actual one: they begin with the same key."""
    models = Models(replace(PIXELS, world=SimulatorConfig(), actor=MLPConfig(features=("observation",))))
    model, key = models.world, jax.random.fold_in(jax.random.key(7), 0)
    environment = models.task.environment()
    assert environment is not None
    state = model.begin({}, np.zeros(1), key)
    np.testing.assert_array_equal(
        model.features(state)["observation"], environment.reset(jax.random.fold_in(jax.random.clone(key), 2))[1]
    )


def test_a_task_without_an_environment_in_jax_has_no_simulator() -> None:
    with pytest.raises(UserError, match="the task take_cover has no environment in JAX"):
        print(Models(replace(PIXELS, task="take_cover", world=SimulatorConfig())).world)
