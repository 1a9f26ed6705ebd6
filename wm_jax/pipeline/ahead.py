"""Compiles an experiment's programs for a machine that is not present, and reports what they will do there."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax

from wm_jax.compiled import ProgramFacts
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, flatten
from wm_jax.models import Models
from wm_jax.pipeline.checking import check
from wm_jax.pipeline.programs import Program, programs
from wm_jax.targets import Target

GIB = 2**30


def compile_for(experiment: Experiment, target: Target, say: Callable[[str], None]) -> dict[str, Any]:
    """{"target", "devices", "memory", "fits", "changed", "programs"}. Each program has its compile time, its memory and
    whether that fits, its collectives, and, on a GPU, the kernels of a dream step. Batches that the devices cannot
    share evenly are enlarged; `changed` names these settings. `say` reports what is being compiled.

    Raises `UserError` if settings do not fit together, or if XLA's compiler for the target is missing.
    """
    check(experiment, Models(experiment))
    mesh = target.mesh()
    experiment, changed = with_even_batches(experiment, mesh.size)
    found = []
    for program in programs(experiment, target):
        say(f"compiling {program.name} for {target.name} …")
        facts = _facts(program, target)
        if facts is not None and not facts["fits"]:
            facts["remedy"] = _remedy(experiment, program, target, mesh.size, say)
        found.append({"name": program.name, **(facts or {"told": False})})
    fits = all(each.get("fits", True) for each in found)
    return {
        "target": target.name, "devices": mesh.size, "memory": target.memory, "fits": fits, "changed": changed,
        "programs": found,
    }  # fmt: skip


def _facts(program: Program, target: Target) -> dict[str, Any] | None:
    """Facts about one program; None if it cannot be traced."""
    begun = time.monotonic()
    traced = program.trace()
    if traced is None:
        return None
    lowered = traced.lower(lowering_platforms=target.lowering)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # A TPU's compiler rejects a program that does not fit.
        return {"seconds": time.monotonic() - begun, "memory": None, "fits": False}
    facts = ProgramFacts.of(compiled)
    kernels = facts.kernels_of_a_step(program.steps) if program.steps and target.platform == "gpu" else None
    cost = compiled.cost_analysis() or lowered.cost_analysis() or {}
    return {
        "seconds": time.monotonic() - begun,
        "memory": facts.memory,
        "fits": facts.memory <= target.memory,
        "exchanged": {kind: {"count": count, "bytes": size} for kind, (count, size) in facts.exchanged.items()},
        "kernels of a dream step": kernels,
        "FLOP, loops once": int(cost.get("flops", 0)),
    }


def _remedy(
    experiment: Experiment, program: Program, target: Target, devices: int, say: Callable[[str], None]
) -> str | None:
    """The setting to lower so that the program fits, and its new value. Settings are halved one after the other until
    it fits."""
    settings = flatten(experiment)
    for name in program.settings:
        value, least = settings[name], devices if name.endswith("batch_size") else 1
        while value // 2 >= least and (value // 2) % least == 0:
            value //= 2
            say(f"compiling {program.name} with {name} {value} …")
            try:
                smaller = with_setting(experiment, name, value)
                again = next(each for each in programs(smaller, target) if each.name == program.name)
                facts = _facts(again, target)
            except UserError:
                break
            if facts is not None and facts["fits"]:
                return f"lower {name} from {settings[name]} to {value}"
    return None


def with_even_batches(experiment: Experiment, devices: int) -> tuple[Experiment, dict[str, int]]:
    """The experiment with batch sizes that all devices can share evenly, and the settings that were raised for it."""
    changed = {}
    for learner in Models(experiment).world.learners.values():
        name, size = f"{learner.settings}batch_size", learner.batch_size
        if size % devices:
            changed[name] = -(-size // devices) * devices
            experiment = with_setting(experiment, name, changed[name])
    return experiment, changed


def with_setting(config: Any, name: str, value: Any) -> Any:
    """The same settings with the one of this dotted `name` replaced."""
    first, _, rest = name.partition(".")
    return dataclasses.replace(config, **{first: with_setting(getattr(config, first), rest, value) if rest else value})


def table(facts: dict[str, Any]) -> str:
    """`compile_for`'s facts as readable text."""
    each = f"{facts['devices']} {'device' if facts['devices'] == 1 else 'devices'} of {facts['memory'] / GIB:.1f} GiB"
    lines = [f"compiled for {facts['target']}, {each}"]
    lines += [f"  with {name} {value}, which all devices can share" for name, value in facts["changed"].items()]
    for program in facts["programs"]:
        if program.get("told") is False:
            lines.append(f"  {program['name']:<26}cannot be traced")
            continue
        memory = "more than the device has" if program["memory"] is None else f"{program['memory'] / GIB:.3g} GiB"
        told = [memory if program["fits"] else f"{memory}: does not fit"]
        told += [f"{count['count']} {kind} of {count['bytes']:,} bytes"
                 for kind, count in program.get("exchanged", {}).items()]  # fmt: skip
        if program.get("kernels of a dream step") is not None:
            told.append(f"{program['kernels of a dream step']:.3g} kernels a dream step")
        told.append(f"compiled in {program['seconds']:.0f} s")
        lines.append(f"  {program['name']:<26}{', '.join(told)}")
        if program.get("remedy"):
            lines.append(f"  {'':<26}{program['remedy']}")
    lines.append("  all programs fit" if facts["fits"] else "  not all programs fit")
    return "\n".join(lines)
