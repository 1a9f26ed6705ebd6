"""Benchmarks for the first minutes on an accelerator, most valuable first. Each result is written when it is measured.

    python benchmarks/accelerator.py --minutes 9 --out DIR      the paper's Take Cover sizes
    python benchmarks/accelerator.py --minutes 9 --out DIR      again: measures only what is missing

First, the device's results are compared with the processor's. Then it measures the dream at 1,024, 16,384 and 65,536 lanes
(with matrix products, and the compiled program's kernels and memory), a generation, V, M and encoding, and profiles a
dream. DIR/rows.json and DIR/README.md have all rows, DIR/profile is for TensorBoard. Every size can be set (--help), so
that the whole script can be tried on a processor:

    python benchmarks/accelerator.py --out DIR --lanes 8 16 --config.population 4 --config.rollouts 2 --config.hidden-size 8
        --config.latent-size 4 --config.horizon 32 --config.frames 2 --config.sequences 2 --config.sequence-length 8
        --config.seconds 0
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from wm_jax.bench import dream, evolve, memory, suite, table, vision
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.limit import operations, products
from wm_jax.bench.table import Result, Row
from wm_jax.bench.timing import compiled, interleaved
from wm_jax.compiled import ProgramFacts
from wm_jax.data.files import read_json, write_json
from wm_jax.dream import population_returns, trajectory
from wm_jax.dream.rollout import steps_between_looks
from wm_jax.errors import UserError
from wm_jax.memory import Memory, MemoryConfig
from wm_jax.memory.train import Chunk
from wm_jax.memory.train import init as begin_memory
from wm_jax.memory.train import train_step as train_memory
from wm_jax.parallel import AXIS
from wm_jax.pipeline.progress import Screen
from wm_jax.tasks import FRAME_SHAPE

SIZES = BenchConfig()
"""The paper's Take Cover."""
LATEST = 0.8
"""Share of the minutes after which no further row is begun."""
TOLERANCE = 1e-3
"""Largest allowed difference of the device's float32 results from the processor's, relative to the largest value."""
STEPS_COMPARED = 16
"""Steps of a dream that are compared: later ones amplify any rounding."""


def run(
    out: Path, minutes: float = 9.0, lanes: tuple[int, ...] = (1024, 16384, 65536), config: BenchConfig = SIZES
) -> None:
    """Measure what is not yet in the folder `out`, as far as the minutes go."""
    screen, begun = Screen(), time.monotonic()
    about, path = suite.about(config), out / "rows.json"
    results = _earlier(path, about)
    for name, measure in _rows(out, lanes, config, screen).items():
        if name in results:
            screen.say(f"{name}: measured before")
            continue
        if time.monotonic() - begun > LATEST * 60 * minutes:
            screen.warn(f"{minutes:g} minutes are nearly over before {name!r}; the same command continues from there")
            break
        results[name] = measure()
        table.show(screen.console, name, results[name])
        write_json(path, table.as_json(results, about))
        (out / "README.md").write_text(table.markdown(results, about))
    screen.say(f"{path} and {out / 'README.md'} are written")


def _rows(out: Path, lanes: tuple[int, ...], config: BenchConfig, screen: Screen) -> dict[str, Callable[[], Result]]:
    """What is measured, in order."""
    first, *others = lanes
    return {
        "check": partial(check, config),
        f"dream, {first} lanes": partial(dreams, config, first, screen),
        "evolve": partial(evolve.measure, config, screen),
        "vision": partial(vision.measure, config, screen),
        "memory": partial(memory.measure, config, screen),
        **{f"dream, {count} lanes": partial(dreams, config, count, screen) for count in others},
        "profile": partial(profile, config, out),
    }


def check(config: BenchConfig) -> Result:
    """The device's results beside the processor's: the largest difference, in units of the largest value."""
    found = [_computed(config, device) for device in (jax.devices()[0], _processor())]
    rows = []
    for name, here in found[0].items():
        there = found[1][name]
        worst = float(np.max(np.abs(here - there)) / max(np.max(np.abs(there)), 1e-30))
        rows.append(Row(f"difference: {name}", worst, "", TOLERANCE, "at most"))
        if not worst <= TOLERANCE:
            raise UserError(f"check: {name} differs by {worst:.3g} of its largest value from the processor's result, "
                            f"expected at most {TOLERANCE}; matrix products are already in full precision: check the "
                            "versions of JAX and the driver before you measure here")  # fmt: skip
    return Result("float32, the same numbers on both", tuple(rows))


def _processor() -> Any:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "JAX offers no processor to compare with; leave JAX_PLATFORMS unset, or add cpu to it"
        ) from error


def _computed(config: BenchConfig, device: Any) -> dict[str, np.ndarray]:
    """A device's results: a dream, V's reconstructions, and a training step of M."""
    small = dataclasses.replace(config, population=4, rollouts=2, horizon=STEPS_COMPARED, precision="float32")
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        setup = dream.set_up(small)
        candidate = jax.tree.map(lambda array: array[0], setup.population)
        film = trajectory(
            setup.dream, setup.actor, setup.params, setup.starts, candidate, jax.random.key(3), steps=STEPS_COMPARED
        )
        scores = population_returns(
            setup.dream, setup.actor, setup.params, setup.starts, setup.population, jax.random.key(3),
            rollouts=small.rollouts, mesh=Mesh(np.array([device]), (AXIS,)),
        )  # fmt: skip
        frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, *FRAME_SHAPE), np.uint8))
        drawn = jax.jit(
            lambda params: setup.model.vision.decode(params, setup.model.vision.encode(params, frames).mean)
        )
        model = Memory(MemoryConfig(config.hidden_size, batch_size=2, sequence_length=8), config.latent_size, 1)
        recorded = dream.recordings(np.array([9, 9]), config.latent_size, 1)
        positions = jnp.arange(8, dtype=jnp.int32)[None] + jnp.array([[0], [9]], jnp.int32)
        state, metrics = train_memory(
            model,
            begin_memory(model, jax.random.key(0)),
            recorded,
            Chunk(positions, jnp.asarray(True)),
            jax.random.key(1),
        )
        found = {
            "z of a dream": film.state.z, "returns": scores.returns, "V's reconstructions": drawn(setup.params["vision"]),
            "M's loss": metrics["loss"], "M's weights after a step": state.params["head"]["kernel"],
        }  # fmt: skip
        return {name: np.asarray(array) for name, array in found.items()}


def dreams(config: BenchConfig, lanes: int, screen: Screen) -> Result:
    """Dream steps per second of this many lanes, beside matrix products; the compiled program's kernels and memory."""
    rollouts = min(config.rollouts, lanes)
    setup = dream.set_up(dataclasses.replace(config, population=lanes // rollouts, rollouts=rollouts))
    executable, seconds = compiled(
        population_returns, setup.dream, setup.actor, setup.params, setup.starts, setup.population, dream.KEY,
        rollouts=rollouts,
    )  # fmt: skip
    arguments = setup.params, setup.starts, setup.population, dream.KEY
    works = {
        "dream": lambda: float(np.asarray(executable(*arguments).lengths).sum(dtype=np.int64)),
        "products": products([setup.products()], config.precision),
    }
    rates = interleaved(f"dream, {lanes} lanes", works, config.seconds, screen)
    limit = rates["products"] * setup.dreams * setup.dream.config.horizon / operations([setup.products()])
    facts, step = ProgramFacts.of(executable), 1e6 * setup.dreams / rates["dream"]
    kernels = facts.kernels_of_a_step(steps_between_looks(setup.dream))
    told = [
        Row(f"dream, {lanes} lanes", rates["dream"], "steps/s", limit, "matrix products of the same shapes"),
        Row("a step of all lanes", step, "µs", 1e6 * setup.dreams / limit, "matrix products of the same shapes"),
        Row("memory, compiled", facts.memory / 2**20, "MiB"),
        Row("compile time", seconds, "s"),
    ]
    if kernels is not None:
        told += [Row("kernels of a step, compiled", kernels, ""), Row("time of a kernel", step / kernels, "µs")]
    return Result(setup.words, tuple(told))


def profile(config: BenchConfig, out: Path) -> Result:
    """A trace of one call: 64 steps of the population's dreams."""
    setup = dream.set_up(dataclasses.replace(config, horizon=min(config.horizon or 64, 64)))
    play, _ = dream.playing(setup)
    jax.block_until_ready(play(setup.params))
    with jax.profiler.trace(str(out / "profile")):
        begun = time.perf_counter()
        jax.block_until_ready(play(setup.params))
        seconds = time.perf_counter() - begun
    return Result(setup.words, (Row("time of the call that is profiled", 1e3 * seconds, "ms"),))


def _earlier(path: Path, about: dict[str, Any]) -> dict[str, Result]:
    if not path.is_file():
        return {}
    report = read_json(path)
    for name, value in about.items():
        if report.get(name) != value:
            raise UserError(
                f"{path} was measured with {name} {report.get(name)}, now it is {value}; give another --out"
            )
    return table.from_json(report)


if __name__ == "__main__":
    try:
        tyro.cli(run)
    except UserError as error:
        sys.exit(f"accelerator: {error}")
    except KeyboardInterrupt:
        sys.exit("accelerator: stopped; what is finished is written, the same command goes on from there")
