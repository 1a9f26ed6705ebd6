"""A model card says what the run's files say."""

import re
from pathlib import Path

import numpy as np
from report_run import COMMAND, CONTROLLER, DREAMS, RANDOM, make_run

from wm_jax.experiment import Experiment, flatten
from wm_jax.pipeline.reporting import read
from wm_jax.report import card


def told(returns: list[float]) -> str:
    return f"{np.mean(returns):,.1f} ± {np.std(returns, ddof=1):,.1f}"


def test_a_card_says_what_the_run_measured(tmp_path: Path) -> None:
    text = card.text(read(make_run(tmp_path / "mine"), "mine"), "agent.safetensors", 3 * 2**20, half=True)
    error = np.std(CONTROLLER, ddof=1) / 2
    assert f"| **C, found in the dream** | {told(CONTROLLER)} | {error:.1f} | 4 | 1000000 to 1000003 |" in text
    assert f"| random policy | {told(RANDOM)} |" in text
    assert "| sweep, 100 tics each (never looks) | 754.5 ± 452.5 | 14.3 | 1,000 | – |" in text
    assert f"In the dream that it learned in it scores {told(DREAMS[4])} (n = 3)" in text
    assert "C is the candidate of generation 4" in text and "chosen by its validation score" in text
    assert "before the world model was rounded to 16 bits" in text and "world model float16, C float32" in text
    assert "a world model (vision\\_memory) sees and predicts, and a controller (mlp: z h, linear) acts" in text
    assert f"    {COMMAND}\n" in text and "    wm-jax evaluate agent.safetensors --episodes 1000\n" in text
    assert "14 episodes, 8,642 frames" in text and "3 cores of Abacus" in text and "3.0 MiB" in text
    assert "Apache-2.0" in text


def test_the_settings_that_are_not_the_defaults_are_listed(tmp_path: Path) -> None:
    run = read(make_run(tmp_path / "mine", seed=7), "mine")
    text = card.text(run, "agent.safetensors", 1, half=False)
    listed = re.findall(r"\| (\S+) \|", text.split("Settings that differ")[1])
    defaults = flatten(Experiment())
    assert {name.replace("\\", "") for name in listed} >= {"seed", "rounds.count", "search.population"}
    differing = {name for name, value in flatten(run.experiment).items() if value != defaults[name]}
    assert {name.replace("\\", "") for name in listed if "." in name or name in defaults} == differing
    assert "rounded" not in text


def test_a_card_does_not_tell_where_files_lie(tmp_path: Path) -> None:
    """Neither those of the settings nor those of the command, however it was given."""
    task, part = tmp_path / "tasks" / "mine.py", tmp_path / "parts" / "mine_too.py"
    for file, text in ((task, (Path(__file__).parents[1] / "probe_task.py").read_text()), (part, "")):
        file.parent.mkdir()
        file.write_text(text)
    command = (
        f"wm-jax run {tmp_path}/mine.py --run-dir={tmp_path}/run --parts {part} --initial {tmp_path}/b.safetensors"
    )
    initial = str(tmp_path / "b.safetensors")
    run = make_run(tmp_path / "mine", command=command, task=str(task), parts=(str(part),), initial=initial)
    text = card.text(read(run, "mine"), "agent.safetensors", 1, half=False)
    assert str(tmp_path) not in text.replace("\\", "")
    assert "    wm-jax run mine.py --run-dir=run --parts mine_too.py --initial b.safetensors\n" in text
    assert "the world model of b.safetensors" in text.replace("\\", "")
    assert "| task | mine.py |" in text and "| parts | mine\\_too.py |" in text


def test_mirror_images_are_not_counted_as_recordings(tmp_path: Path) -> None:
    run = read(make_run(tmp_path / "mine", mirror=True), "mine")
    text = card.text(run, "agent.safetensors", 1, half=False)
    assert "14 episodes, 8,642 frames, and their mirror images" in text


def test_a_run_without_scores_says_so(tmp_path: Path) -> None:
    text = card.text(read(make_run(tmp_path / "mine", finished=10), "mine"), "agent.safetensors", 1, half=False)
    assert "has not been scored" in text and "Take" not in text
