"""docs/extending/: a world model, an actor, a search, an explorer and a rule of a user's own, in every command."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import wm_jax
from wm_jax.tasks import FRAME_SHAPE, load_task

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]
PAGES = "world_model", "actor", "search", "explorer", "experiment", "task", "environment"
BLOCK = re.compile(r"<!-- (\S+\.py) -->\n```python\n(.*?)```", re.DOTALL)


def command(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "wm_jax", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages' files, and the task, beside each other."""
    folder = tmp_path_factory.mktemp("extending")
    pages = [(ROOT / "docs" / "extending" / f"{page}.md").read_text() for page in PAGES]
    for name, code in BLOCK.findall("\n".join(pages)):
        with (folder / name).open("a") as file:
            file.write(code + "\n\n")
    shutil.copy(ROOT / "tests" / "probe_task.py", folder)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, environment: dict[str, str]) -> Path:
    """The pages' experiment, run to its end."""
    printed = command(environment, folder, "run", "dot.py", "--run-dir", "run")
    assert "Dot, round 0" in printed and "Dot, round 1" in printed
    assert "C, exploring, round 0" in printed and "C, exploring, round 1" not in printed
    return folder / "run"


def test_a_system_of_ones_own_runs_and_learns(run: Path) -> None:
    scores = json.loads((run / "evaluation.json").read_text())
    # 80 is the most there is; random actions reach a wall.
    assert scores["controller"]["mean"] > 60 > 30 > scores["random"]["mean"]
    page = (run / "report" / "report.md").read_text()
    assert "Spring" in page and "16 candidates × 8 rollouts" in page and "world.kind" in page
    assert (run / "dot" / "round-1" / "weights.safetensors").is_file()
    assert {path.name for path in (run / "figures").glob("film*")} == {
        "film.gif",
        "film_strip.png",
        "film_rounds.gif",
        "film_rounds_strip.png",
    }


def test_a_gymnasium_environment_is_a_task(folder: Path) -> None:
    task = load_task(str(folder / "pendulum.py"))
    env, act = task.make(), task.policy("random")(np.random.default_rng(0))
    first = task.frame(env.reset(seed=0)[0])
    observation, reward, *_ = env.step(task.environment_action(act(0, first)))
    frame = task.frame(observation)
    assert frame.shape == FRAME_SHAPE and frame.dtype == np.uint8 and float(reward) < 0
    assert frame.std() > 10 and (frame != first).any()


def test_an_environment_in_jax_is_searched_in_itself(folder: Path, environment: dict[str, str]) -> None:
    command(environment, folder, "run", "ice_state.py", "--run-dir", "ice")
    scores = json.loads((folder / "ice" / "evaluation.json").read_text())
    # 100 is the most there is. A puck that is left alone stays where it begins: 75 on average.
    assert scores["controller"]["mean"] > 85 > scores["stay"]["mean"] > scores["random"]["mean"]
    frame = load_task(str(folder / "ice.py")).make().reset(seed=0)[0]
    assert frame.shape == FRAME_SHAPE and frame.max() > 250 and frame.min() == 0


def test_every_command_knows_it(run: Path, folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    facts = json.loads(command(environment, folder, "info", "dot.py", "--json"))
    assert facts["parameters"] == {"dot": 2, "controller": 1}
    assert facts["shapes"]["x"] == [1] and facts["shapes"]["population"] == [16, 1]
    again = command(environment, folder, "run", "dot.py", "--run-dir", "run")
    assert "dot (round 1): finished before" in again
    command(environment, folder, "report", "run", "--out", str(tmp_path / "report"))
    bundle = tmp_path / "dot.safetensors"
    command(environment, folder, "export", "run", str(bundle))
    exported = bundle.read_bytes() + bundle.with_suffix(".md").read_bytes()
    assert str(folder).encode() not in exported
    scored = command(environment, folder, "evaluate", "run", "--episodes", "8")
    files = ["--task", str(folder / "probe_task.py"), "--parts", str(folder / "dot_parts.py")]
    assert f"dot.safetensors: {scored.split('run: ')[1]}" in command(
        environment, tmp_path, "evaluate", "dot.safetensors", "--episodes", "8", *files
    )
    rows = command(environment, folder, "bench", "dot.py", "--seconds", "0.1", "--json", str(tmp_path / "bench.json"))
    names = [row["name"] for row in json.loads((tmp_path / "bench.json").read_text())["rows"]]
    assert "dream" in names and "dot: training" in names, rows


def test_a_part_of_a_file_that_parts_does_not_name_is_refused(
    folder: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Other commands would not find it: the part is loaded here alone, or defined in the experiment's own file."""
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("run"))
    experiment, code = tmp_path / "copy" / "dot.py", (folder / "dot.py").read_text()
    inline = "@EXPLORERS.register\n@dataclass(frozen=True)\nclass Flap(dot.FlipConfig):\n    kind: str = 'flap'\n\n\n"
    imports = "from dataclasses import dataclass\nfrom wm_jax.explore import EXPLORERS\n"
    for text, name in (
        (code.replace('    parts=("dot_parts.py",),\n', ""), "world.kind is 'dot'"),
        (imports + code.replace("CONFIG = ", inline + "CONFIG = ").replace("dot.FlipConfig()", "Flap()"), "'flap'"),
    ):
        experiment.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "wm_jax", "run", "dot.py", "--run-dir", "elsewhere"],
            cwd=experiment.parent, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert name in done.stderr and "but parts does not name that file" in done.stderr
        assert not (tmp_path / "copy" / "elsewhere").exists()


def test_the_dream_and_the_agent_in_python(run: Path) -> None:
    agent = wm_jax.load(run)
    assert "dot 2" in repr(agent) and "controller 1" in repr(agent)
    assert agent.dream_returns(rollouts=16).mean() > 55
    environment = gymnasium.make("wm_jax/Dream-v0", run=str(run), render_mode="rgb_array")
    observation, _ = environment.reset(seed=0)
    assert observation.shape == (1,) and np.asarray(environment.render()).shape == (64, 64, 3)
    action = agent.player(seed=0)(np.zeros((64, 64, 3), np.uint8))
    assert action.shape == (1,)
    model, weights = agent.parts["dot"]
    assert float(model.expected(weights, np.float32(0.5), np.float32(0))) == pytest.approx(0.54, abs=0.05)


def test_a_changed_file_of_parts_makes_its_stages_stale(
    run: Path, folder: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert "dot (round 0): finished before" in command(environment, moved, "run", "dot.py", "--run-dir", "run")
    parts = moved / "dot_parts.py"
    parts.write_text(parts.read_text().replace("0.3 * gradient", "0.2 * gradient"))
    done = subprocess.run(
        [sys.executable, "-m", "wm_jax", "run", "dot.py", "--run-dir", "run"],
        cwd=moved, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    # What the first stage of the world model hangs on: here frames are encoded before anything is trained.
    assert "encode (round 0): world.kind was" in done.stderr and "collect (round 0): " not in done.stderr
