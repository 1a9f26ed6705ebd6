"""The RSSM and Dreamer's actor-critic on the environment whose best controller is known."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "probe_dreamer.py"


@pytest.mark.slow
def test_the_probe_is_solved(tmp_path: Path, environment: dict[str, str]) -> None:
    """About four minutes of a core. The best controller has above 75 of 80, random actions about 11."""
    command = [sys.executable, "-m", "wm_jax", "run", str(EXPERIMENT), "--run-dir", str(tmp_path / "run")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert scores["random"]["mean"] < 25
    assert scores["controller"]["mean"] > 60 and scores["controller"]["sd"] < 10
