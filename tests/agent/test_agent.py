"""The public face in Python: what README shows runs, and changes nothing in the process that it runs in."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest

import wm_jax
from wm_jax.agent import TrainedAgent
from wm_jax.errors import UserError
from wm_jax.pretrained import bundles

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "wm_jax" / "pretrained" / "take_cover.safetensors"
HEAVY = ("pygame", "matplotlib", "vizdoom", "PIL", "optax", "evosax", "orbax", "flax.nnx", "tyro", "grain")
QUIET = """
import json, logging, os, sys
import jax, numpy
before = dict(os.environ), logging.getLogger("absl").level, set(logging.root.manager.loggerDict)
import wm_jax
agent = wm_jax.load({bundle!r})
import gymnasium
environment = gymnasium.make("wm_jax/Dream-v0", run={bundle!r}, render_mode="rgb_array")
environment.reset(seed=0)
environment.step(environment.action_space.sample())
environment.render()
after = dict(os.environ), logging.getLogger("absl").level
print(json.dumps({{"loaded": [name for name in {heavy!r} if name in sys.modules], "same": before[:2] == after}}))
"""


def python(code: str) -> str:
    """What a fresh process prints that is warned of as of an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]


@pytest.fixture(scope="module")
def agent() -> TrainedAgent:
    return wm_jax.load(BUNDLE)


def test_what_readme_and_the_guide_show_in_python_runs() -> None:
    pages = ((ROOT / page).read_text() for page in ("README.md", "docs/python.md"))
    blocks = re.findall(r"```python\n(.*?)```", "\n".join(pages), re.DOTALL)
    assert len(blocks) == 4
    printed = python("\n".join(blocks))
    assert "controller 82,433" in printed and "vision 4,446,915" in printed


def test_loading_and_dreaming_load_no_game_and_no_plotter_and_leave_the_process_alone() -> None:
    assert json.loads(python(QUIET.format(bundle=str(BUNDLE), heavy=HEAVY))) == {"loaded": [], "same": True}


def test_an_agent_shows_itself_and_hands_out_its_parts(agent: TrainedAgent) -> None:
    assert "take_cover" in repr(agent) and "memory 577,729" in repr(agent)
    assert list(agent.parts) == ["vision", "memory", "controller"]
    vision, weights = agent.parts["vision"]
    frames = jax.random.bits(jax.random.key(0), (2, 64, 64, 3), np.uint8)
    mean = vision.encode(weights, frames).mean
    assert mean.shape == (2, 64)
    np.testing.assert_array_equal(mean, agent.world.encode(frames).mean)
    controller, weights = agent.parts["controller"]
    assert controller.outputs(weights, np.zeros(320, np.float32)).shape == (1,)


def test_a_player_acts_as_the_world_model_and_the_actor_do_by_hand(agent: TrainedAgent) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8)
    player, world, key = agent.player(seed=7), agent.world, jax.random.key(7)
    state, action = None, jax.numpy.zeros(1)
    for step, frame in enumerate(frames):
        drawn, obs = jax.random.fold_in(key, step), world.encode(jax.numpy.asarray(frame))
        state = world.begin(obs, drawn) if step == 0 else world.observe(state, action, obs, drawn)
        action, _ = agent.actor.act(agent.weights, world, state, None, drawn)
        np.testing.assert_allclose(player(frame), action, rtol=0, atol=1e-5)
    player.reset(seed=7)
    first = player(frames[0])
    player.reset(seed=8)
    assert not np.array_equal(first, player(frames[0]))


def test_dream_returns_follow_from_the_seed_and_the_temperature(agent: TrainedAgent) -> None:
    returns = agent.dream_returns(rollouts=8, seed=1)
    np.testing.assert_array_equal(returns, agent.dream_returns(rollouts=8, seed=1))
    assert not np.array_equal(returns, agent.dream_returns(rollouts=8, seed=2))
    assert not np.array_equal(returns, agent.dream_returns(rollouts=8, seed=1, temperature=3.0))


def test_integers_of_any_type_are_the_same(agent: TrainedAgent) -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    np.testing.assert_array_equal(agent.player(seed=cast(Any, np.int64(7)))(frame), agent.player(seed=7)(frame))
    returns = agent.dream_returns(cast(Any, np.int64(8)), cast(Any, np.uint8(1)), cast(Any, np.float32(3)))
    np.testing.assert_array_equal(returns, agent.dream_returns(8, 1, 3.0))
    assert agent.dream_vector_env(cast(Any, np.int64(2))).num_envs == 2


def test_what_an_agent_cannot_take_is_said_in_a_sentence(agent: TrainedAgent) -> None:
    player = agent.player()
    before = player.seed
    calls: list[tuple[Callable[[Any], Any], Any, str]] = [
        (agent.dream_returns, 0, "rollouts must be at least 1, found 0"),
        (agent.dream_returns, 2.5, "rollouts must be a whole number, found 2.5"),
        (lambda seed: agent.dream_returns(8, seed), -1, "seed must be between 0 and 2147483647, found -1"),
        (lambda seed: agent.dream_returns(8, seed), "1", "seed must be a whole number, found '1'"),
        (lambda tau: agent.dream_returns(8, 1, tau), 0, r"dream\.temperature must be between .*, found 0"),
        (lambda tau: agent.dream_returns(8, 1, tau), float("nan"), r"dream\.temperature must be between .*, found nan"),
        (lambda tau: agent.dream_returns(8, 1, tau), [1.0], r"temperature must be a number, found \[1\.0\]"),
        (lambda seed: agent.player(seed), 2**31, "seed must be between 0 and"),
        (lambda seed: agent.player(seed), None, "seed must be a whole number, found None"),
        (player.reset, 1.5, "seed must be a whole number, found 1.5"),
        (agent.score, 1, "episodes must be at least 2, found 1"),
        (agent.score, 2.0, r"episodes must be a whole number, found 2\.0"),
        (lambda seed: agent.score(2, seed), -1, "seed must be between 0 and"),
        (agent.dream_vector_env, 0, "num_envs must be at least 1, found 0"),
        (
            player,
            np.zeros((64, 64, 3)),
            r"a frame must be uint8 \[64, 64, 3\], found float64 \[64, 64, 3\]; convert .* player\.task",
        ),
        (player, np.zeros((2, 64, 64, 3), np.uint8), r"found uint8 \[2, 64, 64, 3\]"),
        (player, None, r"found object \[\]"),
    ]
    for call, wrong, message in calls:
        with pytest.raises(UserError, match=message):
            call(wrong)
    assert player.seed == before


def test_an_agent_of_an_older_format_says_so(agent: TrainedAgent) -> None:
    stored = agent._bundle.stored
    assert (f"{BUNDLE} has format 1; the current format is 2" in repr(agent)) == (stored.format == 1)
    note = replace(agent._bundle, stored=replace(stored, notes=("as it was",)))
    assert repr(TrainedAgent(note, BUNDLE)).endswith("; as it was>")


def test_what_cannot_be_loaded_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; give a run's folder"):
        wm_jax.load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"--task my_task\.py: the task of .* is take_cover, which needs no file"):
        wm_jax.load(BUNDLE, task="my_task.py")
    for wrong, message in (
        ({"path": 5}, "path must be a path, found 5"),
        ({"path": None}, "path must be a path, found None"),
        ({"path": BUNDLE, "task": 5}, "task must be a path, found 5"),
        ({"path": BUNDLE, "parts": "mine.py"}, r"parts must be a list of paths, found 'mine\.py'"),
        ({"path": BUNDLE, "parts": None}, "parts must be a list of paths, found None"),
        ({"path": BUNDLE, "parts": [5]}, "parts must be a path, found 5"),
        ({"path": BUNDLE, "parts": ["mine.py"]}, r"--parts mine\.py is not needed"),
    ):
        with pytest.raises(UserError, match=message):
            wm_jax.load(**cast(Any, wrong))


def test_agents_of_the_package_are_known_by_name_unless_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(bundles()) == ["car_racing", "swing_up", "take_cover"]
    assert wm_jax.load("swing_up").experiment.task == "swing_up"
    (tmp_path / "swing_up").mkdir()
    with pytest.raises(UserError, match="swing_up is not a run folder"):
        wm_jax.load("swing_up")
    with pytest.raises(UserError, match="does not exist"):
        wm_jax.load("runs/swing_up")
