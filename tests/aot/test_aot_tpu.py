"""Both tasks' programs at the paper's sizes, compiled for slices of TPU v5e: four chips and 256.

pip install ".[dev,aot]" && pytest -m "aot and not slow" tests/aot/test_aot_tpu.py
"""

import aot_checks as aot
import pytest

from wm_jax.errors import UserError
from wm_jax.targets import target

pytestmark = pytest.mark.aot


@pytest.mark.parametrize("task", list(aot.PAPER))
@pytest.mark.parametrize("machine", ["v5e:2x2", "v5e:16x16"])
def test_the_papers_sizes_compile_fit_and_send_what_they_must(task: str, machine: str) -> None:
    """All but the decomposition of the covariance, which takes a TPU's compiler minutes: the slow test below."""
    experiment = aot.paper(task, target(machine).mesh().size)
    facts = aot.compiled(experiment, target(machine), lambda name: name != "generations")
    assert len(facts) == 4
    aot.check(experiment, target(machine), facts)


@pytest.mark.slow
def test_a_generation_of_car_racing_compiles_for_four_chips() -> None:
    experiment = aot.paper("car_racing_dream", 4)
    facts = aot.compiled(experiment, target("v5e:2x2"), lambda name: name == "generations")
    aot.check(experiment, target("v5e:2x2"), facts)


def test_a_slice_that_does_not_exist_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"v5e:3x5: XLA's compiler for it cannot be used"):
        target("v5e:3x5").mesh()


def test_episodes_of_an_environment_in_jax_compile() -> None:
    aot.check_episodes(target("v5e:2x2"))
