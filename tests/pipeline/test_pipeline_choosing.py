"""Which of the evaluated candidates is deployed where some have scores that are not finite."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from untrained import context

from wm_jax.actors import protocol as actors
from wm_jax.data.weights import load_weights
from wm_jax.errors import UserError
from wm_jax.experiment import load
from wm_jax.pipeline import reporting, searching, side_by_side
from wm_jax.pipeline.progress import Interrupt
from wm_jax.pipeline.weights import controller_like
from wm_jax.search.config import EvolveConfig

BROKEN = -np.inf


def deploy(probe_experiment: Path, folder: Path, dream: Any, **settings: Any) -> dict[str, Any]:
    """Of returns in the dream [slots, E, n], each candidate's weights being all the number 10 * slot + e."""
    returns = np.asarray(dream, np.float32)
    slots, several, _ = returns.shape
    found = load(probe_experiment)
    evolve = EvolveConfig(generations=slots, evaluate_every=1, actual_episodes=0, **settings)
    here = context(replace(found, evolve=evolve), folder, Interrupt())
    number = 10 * np.arange(slots, dtype=np.float32)[:, None] + np.arange(several, dtype=np.float32)
    candidates = jax.tree.map(
        lambda leaf: np.broadcast_to(number.reshape(slots, several, *[1] * leaf.ndim), (slots, several, *leaf.shape)),
        actors.shapes(here.models.actor),
    )
    task = searching._SearchJob(here, 0, evolve, side_by_side.variants(here.experiment))
    stage = here.stage("controller", 0)
    about = searching._deploy(task, stage, {"dream": returns, "candidates": candidates})
    path = stage.path / searching.WEIGHTS
    weights = controller_like(path, load_weights(path)[0], "weights", here.models.actor)
    assert set(np.asarray(actors.flat(weights)).tolist()) == {10.0 * (about["generation"] - 1) + about["evolution"]}
    return about


def test_a_score_that_is_not_finite_ranks_last_and_is_recorded_as_none(probe_experiment: Path, tmp_path: Path) -> None:
    dream = [[[1, 2], [BROKEN, 9]], [[BROKEN, BROKEN], [5, 7]], [[3, 3], [np.nan, 8]]]
    about = deploy(probe_experiment, tmp_path, dream, seeds=2)
    assert (about["generation"], about["evolution"], about["dream"]["mean"]) == (2, 1, 6)
    path = tmp_path / "controller" / "round-0" / searching.EVALUATIONS

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    evaluations = json.loads(path.read_text(), parse_constant=refuse)
    none = {"mean": None, "sd": None, "se": None, "n": 2}
    assert [each["dream"] == none for each in evaluations] == [False, True, True, False, False, True]
    for evaluation in evaluations:
        reporting._require_played(path, evaluation)
    with pytest.raises(UserError, match="damaged"):
        reporting._require_played(path, {"dream": {**none, "n": None}})


def test_a_search_that_fails_whole_leaves_the_choice_to_the_others(probe_experiment: Path, tmp_path: Path) -> None:
    dream = [[[BROKEN, BROKEN], [1, 1]], [[BROKEN, 3], [0, 0]]]
    about = deploy(probe_experiment, tmp_path, dream, seeds=2)
    assert (about["generation"], about["evolution"]) == (1, 1)


def test_where_none_is_finite_none_is_deployed(probe_experiment: Path, tmp_path: Path) -> None:
    """Nor where those alone are that dreamt at another temperature."""
    with pytest.raises(
        UserError, match=r"controller/round-0: no evaluated candidate has a finite score.*held-out reports"
    ):
        deploy(probe_experiment, tmp_path / "all", [[[BROKEN, 3]]])
    temperatures = (0.5, load(probe_experiment).dream.temperature)
    with pytest.raises(UserError, match=r"no evaluated candidate has a finite score"):
        deploy(probe_experiment, tmp_path / "other", [[[1, 3], [BROKEN, 3]]], temperatures=temperatures)
