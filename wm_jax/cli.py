"""The `wm-jax` commands: parse, call, print."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import jax
import tyro
from tyro.conf import Positional, arg

from wm_jax import parallel
from wm_jax.bench.config import BenchConfig
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, load, with_paths_from
from wm_jax.pipeline.progress import Screen, Stopped

USAGE = """World Models in JAX: V sees, M dreams, C learns to act inside the dream.

usage: wm-jax COMMAND …   (wm-jax COMMAND --help explains each)

  run EXPERIMENT.py [--section.setting value …]   all stages of an experiment: collect, train, evolve in the dream, score
  info EXPERIMENT.py                              parameter counts, shapes, disk, memory and work, without running anything
  evaluate RUN|BUNDLE                             score a finished run or a bundle in the actual environment
  export RUN FILE.safetensors                     V, M and C of a run as one file, with a model card
  report RUN … [--out DIR]                        one page of tables, curves and pictures: HTML and Markdown; scores: JSON
  bench [NAME …] [--json FILE]                    how fast this machine is, beside the limit that it sets
"""
STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


@dataclass
class Run:
    """Run an experiment's stages. The same command goes on where it was stopped."""

    experiment: Positional[Path]
    """Python file that exports CONFIG, for example experiments/quickstart.py."""
    config: Annotated[Experiment, arg(name="")]
    stages: tuple[str, ...] = ()
    """Only these of collect, vision, encode, memory, evolve, tune, evaluate; all of them unless given."""
    run_dir: Path | None = None
    """The run's folder; runs/NAME unless given."""
    redo: bool = False
    """Do the stages again whose settings changed, or those named by --stages, and all that come after them."""
    reuse: Path | None = None
    """Another run's folder: its finished stages are taken over as far as their settings are the same."""
    hosts: Annotated[parallel.Hosts, arg(name="")] = field(default_factory=parallel.Hosts)
    """Read before all else (`wm_jax.__main__`); here for --help."""


@dataclass
class Info:
    """Say what an experiment takes, without running it."""

    experiment: Positional[Path]
    """Python file that exports CONFIG."""
    config: Annotated[Experiment, arg(name="")]
    json: bool = False
    """Print JSON."""


Command = TypeVar("Command", Run, Info)


@dataclass
class Evaluate:
    """Score the controller of a finished run or a bundle in the actual environment, on fresh episodes."""

    run: Positional[Path]
    """A run's folder or a bundle (.safetensors)."""
    episodes: int = 100
    """How many episodes."""
    seed: int = 2_000_000
    """Episode i has the environment seed SEED + i."""
    json: Path | None = None
    """Also write the score to this file: mean, sd, se, n, returns, seeds, device, versions."""


@dataclass
class Export:
    """Write V, M and C of a finished run, with the settings, as one file of at most 32 MB, and its model card."""

    run: Positional[Path]
    """The run's folder."""
    file: Positional[Path]
    """The bundle to write, ending in .safetensors; its model card is written beside it, ending in .md."""
    half: bool = False
    """Store V and M in half precision (float16): half the size; actions differ in the third digit."""


@dataclass
class Report:
    """Write one page about runs, finished or not, as HTML and Markdown: scores beside published ones, curves, pictures. The
    scores that were measured are written as JSON too."""

    runs: Positional[tuple[Path, ...]]
    """Runs' folders; several are compared with each other."""
    out: Path | None = None
    """Folder to write to; RUN/report unless given. Several runs need one."""


@dataclass
class Bench:
    """Measure how fast this machine is, beside the limit that it sets."""

    names: Positional[tuple[str, ...]]
    """Any of dream, evolve, vision, memory, collect, scaling; all of them unless given."""
    config: Annotated[BenchConfig, arg(name="")]
    json: Path | None = None
    """Also write the rows to this file, after each benchmark."""


def run(arguments: list[str]) -> None:
    """`wm-jax run`."""
    from wm_jax.pipeline import run_experiment

    options = _with_experiment(Run, arguments)
    path = options.run_dir or Path("runs") / options.config.name
    run_experiment(options.config, path, options.stages, options.redo, options.reuse, Screen())


def info(arguments: list[str]) -> None:
    """`wm-jax info`."""
    from wm_jax.pipeline.info import describe, table

    options = _with_experiment(Info, arguments)
    facts = describe(options.config)
    print(json.dumps(facts, indent=1) if options.json else table(facts))


def evaluate(arguments: list[str]) -> None:
    """`wm-jax evaluate`."""
    from wm_jax.data.files import write_json
    from wm_jax.pipeline.bundle import load as load_bundle
    from wm_jax.pipeline.scoring import score_bundle

    options = tyro.cli(Evaluate, prog="wm-jax evaluate", args=arguments)
    score = score_bundle(load_bundle(options.run), options.episodes, options.seed, Screen())
    # First what took minutes, then what may fail.
    print(
        f"{options.run}: {score['mean']:.1f} ± {score['sd']:.1f} (standard error {score['se']:.1f}, n = {score['n']})",
        flush=True,
    )
    if options.json is not None:
        write_json(options.json, score)


def export(arguments: list[str]) -> None:
    """`wm-jax export`."""
    from wm_jax.pipeline.exporting import export

    options = tyro.cli(Export, prog="wm-jax export", args=arguments)
    card = export(options.run, options.file, options.half)
    print(f"{options.file}: {options.file.stat().st_size / 2**20:.1f} MiB\n{card}")


def report(arguments: list[str]) -> None:
    """`wm-jax report`."""
    from wm_jax.pipeline.reporting import report

    options = tyro.cli(Report, prog="wm-jax report", args=arguments)
    for path in report(options.runs, options.out):
        print(path)


def bench(arguments: list[str]) -> None:
    """`wm-jax bench`."""
    from wm_jax.bench import suite, table
    from wm_jax.data.files import write_json

    default = Bench(names=(), config=BenchConfig())
    options = tyro.cli(Bench, prog="wm-jax bench", default=default, args=arguments)
    suite.check(options.names, options.config)
    results, about, screen = {}, suite.about(options.config), Screen()
    suite.warn_if_busy(screen)
    screen.say(f"{about['device']}, jax {about['jax']}, {about['precision']}")
    if options.json is not None:
        # Minutes of work should not end at a file that cannot be written.
        write_json(options.json, table.as_json(results, about))
    for name in options.names or suite.BENCHMARKS:
        try:
            results[name] = suite.measure(name, options.config, screen)
        except KeyboardInterrupt as stop:
            raise Stopped(
                f"stopped in {name}; what was finished before it is above, and in the file of --json"
            ) from stop
        table.show(screen.console, name, results[name])
        if options.json is not None:
            write_json(options.json, table.as_json(results, about))


COMMANDS = {"run": run, "info": info, "evaluate": evaluate, "export": export, "bench": bench, "report": report}


def _with_experiment(kind: type[Command], arguments: list[str]) -> Command:
    """Parse a command whose settings' defaults are those of the experiment file among its arguments."""
    positions = [i for i, argument in enumerate(arguments) if argument.endswith(".py") and not argument.startswith("-")]
    paths = [Path(arguments[i]) for i in positions if i == 0 or arguments[i - 1] != "--task"]
    asks_help = {"-h", "--help"} & set(arguments)
    if not paths and not asks_help:
        raise UserError(f"wm-jax {kind.__name__.lower()} needs an experiment: a Python file that exports CONFIG, "
                        "for example experiments/quickstart.py")  # fmt: skip
    path = paths[0] if paths else Path("EXPERIMENT.py")
    config = load(path) if paths else Experiment()
    default = kind(experiment=path, config=config)
    options = tyro.cli(kind, prog=f"wm-jax {kind.__name__.lower()}", default=default, args=arguments)
    return dataclasses.replace(options, config=with_paths_from(options.config, Path.cwd()))


def main() -> None:
    """Entry point of the `wm-jax` command: exits with 0, 1 for an error a user can mend, 2 for wrong usage."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    try:
        if arguments[0] not in COMMANDS:
            raise UserError(f"there is no command {arguments[0]!r}; wm-jax --help lists them")
        COMMANDS[arguments[0]](arguments[1:])
    except (Stopped, parallel.SharedError) as error:
        if parallel.is_main():
            print(f"wm-jax: {error}", file=sys.stderr)
        sys.exit(STOPPED if isinstance(error, Stopped) else 1)
    except KeyboardInterrupt:
        print("wm-jax: stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        parallel.leave(STOPPED)
    except UserError as error:
        print(f"wm-jax: {error}", file=sys.stderr)
        parallel.leave(1)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"wm-jax: the device has too little memory ({str(error).splitlines()[0]}); take smaller batches "
              "(vision.batch_size, memory.batch_size), fewer candidates or dreams (evolve.population, evolve.rollouts, "
              "evolve.evaluation_rollouts), or more devices", file=sys.stderr)  # fmt: skip
        parallel.leave(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"wm-jax: {error.strerror or error}{where}; see to the disk, its space and its permissions, then run the "
              "same command again: what was saved is used", file=sys.stderr)  # fmt: skip
        parallel.leave(1)
