"""The measured scores as JSON: every one, with all that is needed to take it for what it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_run import COMMAND, CONTROLLER, DREAMS, EXPERIMENT, MADE_WITH, RANDOM, make_run

from wm_jax.pipeline.reporting import read
from wm_jax.report import measured
from wm_jax.rollouts.evaluate import score, summary

EVERY = {"what", "mean", "sd", "se", "n", "seeds", "command", "device", "versions"}
"""What every entry has."""


def test_every_score_is_told_with_how_it_was_measured(tmp_path: Path) -> None:
    random, controller = measured.entries([read(make_run(tmp_path / "mine"), "mine")])
    assert set(random) == EVERY
    assert random["what"] == "mine: random policy"
    assert (random["mean"], random["n"]) == (np.mean(RANDOM), 4)
    assert random["se"] == pytest.approx(np.std(RANDOM, ddof=1) / 2)
    assert (random["seeds"], random["command"]) == ([1_000_000, 1_000_003], COMMAND)
    assert {name: random[name] for name in MADE_WITH} == MADE_WITH
    assert set(controller) == EVERY | {"temperature", "evolution_seed", "generation", "selected_by", "dream"}
    assert controller["what"] == "mine: C, found in the dream"
    assert controller["sd"] == pytest.approx(np.std(CONTROLLER, ddof=1))
    assert controller["dream"] == summary(DREAMS[4])
    about = [controller[name] for name in ("temperature", "evolution_seed", "generation", "selected_by")]
    assert about == [1.15, 0, 4, "actual"]


def test_evolutions_are_told_one_by_one_and_an_unfinished_run_has_no_score(tmp_path: Path) -> None:
    evolutions = [
        {"temperature": 0.1, "seed": seed, "generation": 4, "dream": summary([2000.0, 2100.0]),
         "actual": score([200.0 + seed, 210.0], [7, 8], **MADE_WITH)}
        for seed in range(2)
    ]  # fmt: skip
    settings = replace(EXPERIMENT.evolve, temperatures=(0.1, 1.15), seeds=2)
    many = make_run(tmp_path / "many", evolutions=evolutions, evolve=settings)
    half = make_run(tmp_path / "half", finished=6)
    found = measured.entries([read(many, "many"), read(half, "half")])
    assert [entry["what"] for entry in found] == [
        "many: random policy",
        "many: C, found in the dream",
        "many: C, found in the dream at τ 0.1, seed 0",
        "many: C, found in the dream at τ 0.1, seed 1",
        "many: C, found in the dream, over training seeds",
    ]
    last = found[-2]
    assert (last["mean"], last["seeds"], last["dream"]["mean"]) == (205.5, [7, 8], 2050.0)
    assert (last["temperature"], last["evolution_seed"], last["selected_by"]) == (0.1, 1, "actual")
    actual = replace(EXPERIMENT.evolve, fitness="actual", select="actual", seeds=2)
    played = [{**each, "dream": None} for each in evolutions]
    *_, last, together = measured.entries(
        [read(make_run(tmp_path / "actual", evolutions=played, evolve=actual), "actual")]
    )
    assert last["what"] == "actual: C, found in the actual environment, seed 1"
    assert "temperature" not in last and last["evolution_seed"] == 1
    assert (together["seeds_of_training"], together["mean"], together["n"]) == (2, 205.25, 4)
    assert together["over"] == pytest.approx(0.125**0.5) and "temperature" not in together
