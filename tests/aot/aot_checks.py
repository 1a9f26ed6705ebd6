"""What must hold of an experiment's programs on every machine that they are compiled for."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from wm_jax.compiled import Instruction, ProgramFacts
from wm_jax.experiment import Experiment, load
from wm_jax.models import Models
from wm_jax.pipeline.ahead import with_even_batches
from wm_jax.pipeline.programs import programs
from wm_jax.targets import Target

ROOT = Path(__file__).parents[2]
PAPER = {"take_cover": ROOT / "experiments/take_cover.py", "car_racing_dream": ROOT / "experiments/car_racing_dream.py"}
"""The paper's sizes of both tasks. Its Car Racing evolves C in the game: the dream is another experiment's."""
CHANCE_TO_LEAVE = re.compile(r"callback|infeed|outfeed|\bsend\(|\brecv\(|host_compute", re.IGNORECASE)


def paper(name: str, devices: int) -> Experiment:
    """An experiment with batches that so many devices can share."""
    return with_even_batches(load(PAPER[name]), devices)[0]


def compiled(experiment: Experiment, target: Target, wanted: Callable[[str], bool]) -> dict[str, ProgramFacts]:
    """The experiment's programs whose name is wanted, compiled for the target."""
    found = {}
    for program in programs(experiment, target):
        if wanted(program.name):
            traced = program.trace()
            assert traced is not None
            found[program.name] = ProgramFacts.of(traced.lower(lowering_platforms=target.lowering).compile())
    return found


def check_episodes(target: Target) -> None:
    """Episodes of an environment in JAX, with its pictures, V, M and C inside."""
    experiment = load(ROOT / "experiments/swing_up.py")
    facts = compiled(experiment, target, lambda name: name == "episodes")
    assert list(facts) == ["episodes"]
    check(experiment, target, facts)


def operands(instruction: Instruction) -> list[str]:
    """The names of what an instruction is given."""
    return re.findall(r"%([\w.\-]+)", instruction.line.split(f" {instruction.kind}(", 1)[1].split(")")[0])


def check(experiment: Experiment, target: Target, facts: dict[str, ProgramFacts]) -> None:
    """Memory, types and shapes; what is exchanged."""
    devices, weights = target.mesh().size, Models(experiment).state_shapes[0]
    for name, each in facts.items():
        assert each.memory < target.memory, name
        assert not CHANCE_TO_LEAVE.search(each.text), f"{name} calls the host"
        assert "f64[" not in each.text, f"{name} computes in 64 bits"
        assert "<=" not in "".join(i.shape for i in each.instructions()), f"{name} has a shape that is not known"
        if devices == 1:
            assert not each.exchanged, name
        elif name.startswith("training"):
            _one_sum_of_gradients(each, weights[name.removeprefix("training ")])
        elif name in ("encoding", "episodes"):
            assert not each.exchanged, name
        else:
            _only_scores(each, name)


def _one_sum_of_gradients(facts: ProgramFacts, weights: Any) -> None:
    """Every gradient is summed once, in one all-reduce but for a kernel that lies otherwise in memory (on GPUs that of V's
    last layer, 14 kB); beside it a few counts and metrics."""
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(weights))
    sums = [each.bytes for each in facts.instructions() if each.kind.removesuffix("-done") == "all-reduce"]
    assert set(facts.exchanged) == {"all-reduce"}
    large = [each for each in sums if each > 64]
    assert size <= sum(sums) <= size + 64 and max(sums) > 0.99 * size and len(large) <= 2, (sums, size)


def _only_scores(facts: ProgramFacts, name: str) -> None:
    """Returns are gathered at once, when dreams are over (on 256 chips as a sum of what each has beside zeros); nothing
    else is sent."""
    assert len(facts.exchanged) == 1 and facts.exchanged.keys() <= {"all-gather", "all-reduce"}, (name, facts.exchanged)
    ((count, size),) = facts.exchanged.values()
    assert count == 1 and size <= 2**16, (name, facts.exchanged)
    for _, inside in facts.loops:
        assert not any(each.kind.startswith("all-") for each in inside), name
