"""What is read from compiled programs, and the account of an experiment's; here they are compiled for this machine."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from wm_jax.compiled import Instruction, ProgramFacts
from wm_jax.errors import UserError
from wm_jax.experiment import load
from wm_jax.pipeline.ahead import compile_for, table, with_setting
from wm_jax.targets import Target, target

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("quick_compilation")]


def here(memory: int) -> Target:
    """This machine, with so many bytes of memory."""
    return Target("here", "cpu", memory, lambda: SimpleNamespace(devices=jax.devices()[:1]))


def test_a_loop_has_its_turns_and_its_kernels() -> None:
    def step(carry, number):
        return jnp.tanh(carry @ carry) + number, None

    def loop(carry, unroll):
        return jax.lax.scan(step, carry, jnp.arange(12, dtype=jnp.float32), unroll=unroll)[0]

    for unroll in (1, 3):
        traced = jax.jit(loop, static_argnums=1).trace(jnp.eye(64, dtype=jnp.float32), unroll)
        facts = ProgramFacts.of(traced.lower().compile())
        assert [turns for turns, _ in facts.loops] == [12 // unroll]
        kernels = facts.kernels_of_a_step(12)
        # A product and what follows on it, and a counter.
        assert kernels is not None and 1.5 < kernels < 8
        assert facts.kernels_of_a_step(5) is None
        assert facts.memory >= 2 * 64 * 64 * 4 and facts.exchanged == {}


@pytest.mark.parametrize(
    ("shape", "size"),
    [("f32[8,4]{1,0}", 128), ("(f32[2]{0}, bf16[3,2]{1,0}, pred[])", 8 + 12 + 1), ("u8[5]", 5), ("s32[]", 4)],
)
def test_shapes_have_bytes(shape: str, size: int) -> None:
    assert Instruction("x", "add", shape, "").bytes == size


def test_an_experiments_programs_are_told(probe_experiment: Path) -> None:
    experiment = with_setting(load(probe_experiment), "evolve.evaluation_rollouts", 8)
    told = compile_for(experiment, here(2**33), lambda line: None)
    names = ["training vision", "encoding", "training memory", "generations", "evaluation of candidates"]
    assert [each["name"] for each in told["programs"]] == names
    assert told["fits"] and told["changed"] == {} and all(each["memory"] > 0 for each in told["programs"])
    assert "all programs fit" in table(told)


def test_where_one_does_not_fit_a_setting_is_named_that_does(probe_experiment: Path) -> None:
    experiment = with_setting(load(probe_experiment), "evolve.select", "actual")
    experiment = with_setting(with_setting(experiment, "evolve.fitness", "actual"), "world.vision.batch_size", 256)
    all_of_it = compile_for(experiment, here(2**33), lambda line: None)["programs"][0]["memory"]
    told = compile_for(experiment, here(round(0.8 * all_of_it)), lambda line: None)
    vision = told["programs"][0]
    assert not told["fits"] and not vision["fits"]
    assert vision["remedy"] == "lower world.vision.batch_size from 256 to 128"
    assert "does not fit" in table(told) and vision["remedy"] in table(told)


@pytest.mark.parametrize("name", ["h100", "h100x8", "a100x2", "h200", "v5e:2x2", "v5e:16x16", "v4:2x2x1", "v6e:1x1"])
def test_machines_have_names(name: str) -> None:
    found = target(name)
    assert found.platform == ("gpu" if name[0] in "ah" else "tpu") and 16 * 2**30 <= found.memory < 160 * 2**30


@pytest.mark.parametrize("name", ["", "h100x0", "v5e", "v5e:0x2", "v9:2x2", "x100", "h100:2x2", "cpu"])
def test_a_machine_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"--target must be like h100 or h100x8 .* found"):
        target(name)


@pytest.mark.parametrize(
    ("platform", "remedy"), [("gpu", r"pip install --no-deps jax-cuda12-plugin=="), ("tpu", r"wm-jax\[aot\]")]
)
def test_a_compiler_that_is_missing_is_said_with_what_brings_it(platform: str, remedy: str) -> None:
    def missing() -> None:
        raise RuntimeError("not here\nat all")

    with pytest.raises(UserError, match=rf"it: XLA's compiler for it cannot be used \(not here\).*{remedy}"):
        Target("it", platform, 2**30, missing).mesh()
