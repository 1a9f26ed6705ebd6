"""C needs what M remembers: one picture shows no velocity."""

import json
import sys
from pathlib import Path

import pytest

from wm_jax import cli

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "swing_up_controllers.py"


@pytest.mark.slow
def test_on_the_shipped_world_model_c_fails_on_z_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swing-up, the same search for both, scored in the actual environment. On z alone the pole spins, at best."""

    def score(*features: str) -> dict:
        folder = tmp_path / "-".join(features)
        arguments = ["wm-jax", "run", str(EXPERIMENT), "--run-dir", str(folder), "--actor.features", *features]
        monkeypatch.setattr(sys, "argv", arguments)
        cli.main()
        return json.loads((folder / "evaluation.json").read_text())["controller"]

    momentary, remembering = score("z"), score("z", "h")
    assert momentary["n"] == remembering["n"] == 100
    assert momentary["mean"] < 500 and momentary["measures"]["upright"] < 0.15
    assert remembering["mean"] > 650 and remembering["measures"]["upright"] > 0.3
