"""Planners and policies in every command after their run: report, film, bundle, score, page."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import wm_jax
from wm_jax import cli
from wm_jax.actors import protocol as actors

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "smoke_swing_up.py"
COMMON = (
    "--rounds.count 1 --explorer.kind noise --no-mirror --evaluate.episodes 2 --evaluate.baselines random "
    "--evaluate.rounds --evolve.evaluation-rollouts 2 --evolve.actual-episodes 1"
)
WITHOUT_SEARCH = "--search.kind none --evolve.generations 1 --evolve.evaluate-every 1"
SEARCHED = "--evolve.generations 2 --evolve.evaluate-every 2"
WAYS = {
    "icem": f"--actor.kind icem --actor.horizon 2 --actor.hold 25 --actor.candidates 6 --actor.elites 2 {WITHOUT_SEARCH}",
    "mcts": "--actor.kind mcts --actor.simulations 4 --actor.hold 25 --actor.hidden-sizes 6 "
    f"--search.kind ppo --search.dreams 16 --search.decisions 4 {SEARCHED}",
    "policy": f"--actor.kind policy --actor.hidden-sizes 6 --search.kind backprop --search.dreams 16 {SEARCHED}",
}
PAGE = {
    "icem": "plans, which is too slow for a page; it rests here",
    "mcts": "without planning (the whole agent:",
    "policy": "C: ",
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_reported_filmed_exported_scored_and_put_on_a_page(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["wm-jax", *map(str, arguments)])
        cli.main()

    run, bundle = tmp_path / "run", tmp_path / "bundle.safetensors"
    command("run", EXPERIMENT, *COMMON.split(), *WAYS[way].split(), "--run-dir", run)
    assert (run / "figures" / "film.gif").stat().st_size > 1000
    page = (run / "report" / "report.md").read_text()
    assert f"| actor.kind | {way} |" in page and ("which needs no search" in page) == (way == "icem")

    command("export", run, bundle)
    returns = []
    for path in (run, bundle):
        command("evaluate", path, "--episodes", 2, "--seed", 7, "--json", tmp_path / "scores.json")
        returns.append(json.loads((tmp_path / "scores.json").read_text())["returns"])
    assert returns[0] == returns[1] and len(returns[0]) == 2
    agent = wm_jax.load(bundle)
    assert np.isfinite(agent.dream_returns(rollouts=2)).all()
    weights = agent.weights
    assert bool(actors.size(agent.actor)) == bool(weights) == (way != "icem")

    command("export", bundle, "--web", tmp_path / "web")
    assert PAGE[way] in (tmp_path / "web" / "index.html").read_text()
