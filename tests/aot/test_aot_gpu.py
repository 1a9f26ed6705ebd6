"""Both tasks' programs at the paper's sizes, compiled for NVIDIA's H100: one and eight. In an environment of its own,

pip install ".[dev]" && pip install --no-deps jax-cuda12-plugin==V jax-cuda12-pjrt==V     (V: the version of jaxlib)
pytest -m aot tests/aot/test_aot_gpu.py
"""

import json

import aot_checks as aot
import pytest

from wm_jax import cli
from wm_jax.pipeline.ahead import with_setting
from wm_jax.targets import target

pytestmark = pytest.mark.aot

KERNELS = 6
"""Of a dream step at most: two products, the gates, the draw, C, and a share of the bookkeeping."""


@pytest.mark.parametrize("task", list(aot.PAPER))
@pytest.mark.parametrize("machine", ["h100", "h100x8"])
def test_the_papers_sizes_compile_fit_and_send_what_they_must(task: str, machine: str) -> None:
    devices = target(machine).mesh().size
    experiment = aot.paper(task, devices)
    facts = aot.compiled(experiment, target(machine), lambda name: True)
    assert len(facts) == 5
    aot.check(experiment, target(machine), facts)
    if devices == 1:
        for name in ("generations", "evaluation of candidates"):
            assert (facts[name].kernels_of_a_step(32) or KERNELS + 1) <= KERNELS, name


def test_fourteen_searches_on_eight_devices_decompose_two_covariances_each() -> None:
    experiment = with_setting(aot.paper("take_cover", 8), "evolve.seeds", 14)
    facts = aot.compiled(experiment, target("h100x8"), lambda name: name == "generations")["generations"]
    decompositions = [each for each in facts.instructions() if "syevd" in each.line]
    assert len(decompositions) == 1 and "f32[2,1088,1088]" in decompositions[0].shape


@pytest.mark.parametrize(
    ("precision", "operands"), [("float32", "highest"), ("tensorfloat32", "high"), ("bfloat16", "bf16")]
)
def test_products_have_the_precision_that_is_set(precision: str, operands: str) -> None:
    experiment = with_setting(aot.paper("take_cover", 1), "dream.precision", precision)
    facts = aot.compiled(experiment, target("h100"), lambda name: name == "evaluation of candidates")
    text = facts["evaluation of candidates"].text
    products = [each for each in facts["evaluation of candidates"].instructions() if each.kind == "dot"]
    assert products
    if precision == "bfloat16":
        kinds = dict(line.split(" = ", 1) for line in map(str.strip, text.splitlines()) if " = " in line)
        given = [kinds[f"%{name}"] for each in products for name in aot.operands(each)]
        assert all(kind.startswith("bf16") for kind in given), given
    else:
        assert all(f"operand_precision={{{operands},{operands}}}" in each.line for each in products)


def test_the_command_says_what_fits_and_what_to_lower(capsys: pytest.CaptureFixture[str]) -> None:
    name = str(aot.PAPER["take_cover"])
    cli.info([name, "--target", "h100", "--json", "--world.memory.batch-size", "6400"])
    told = json.loads(capsys.readouterr().out)
    memory = next(each for each in told["programs"] if each["name"] == "training memory")
    assert not told["fits"] and not memory["fits"] and memory["memory"] > told["memory"]
    assert memory["remedy"] == "lower world.memory.batch_size from 6400 to 3200", memory
    assert all(each["fits"] for each in told["programs"] if each is not memory)


def test_episodes_of_an_environment_in_jax_compile() -> None:
    aot.check_episodes(target("h100"))
