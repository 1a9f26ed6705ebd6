"""The `wm-jax` commands: parse, call, print."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import jax
import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from wm_jax import parallel
from wm_jax.bench import BENCHMARKS
from wm_jax.bench.config import BenchConfig
from wm_jax.command import DEBUG, ending
from wm_jax.errors import UserError
from wm_jax.experiment import KIND, REGISTRIES, Experiment, in_full, load, with_kinds, with_paths_from
from wm_jax.formats import upgrade_arguments
from wm_jax.pipeline.progress import Screen, Stopped
from wm_jax.registry import load_parts
from wm_jax.version import __version__

if TYPE_CHECKING:
    from wm_jax.pipeline.bundle import Bundle

USAGE = """World Models in JAX: V sees, M dreams, C learns to act inside the dream.

usage: wm-jax COMMAND …   (wm-jax COMMAND --help explains each)

  run EXPERIMENT.py [--section.setting value …]   run all stages: collect, train, search in the dream, score
  info EXPERIMENT.py                              print parameter counts, shapes, disk, memory and work; runs nothing
  evaluate RUN|BUNDLE                             score a finished run or a bundle in the actual environment
  export RUN FILE.safetensors                     write a run's world model and C as one file (a bundle), with a card
  export RUN|BUNDLE --web DIR                     write a page that dreams in any browser, without a server
  play RUN|BUNDLE                                 serve that page here, with the actual environment beside the dream
  report RUN … [--out DIR]                        write tables, curves and pictures: HTML and Markdown; scores: JSON
  bench [NAME …] [--json FILE]                    measure this machine's speed, against the limit of the same machine
  bench EXPERIMENT.py                             measure the speed of an experiment's parts on this machine

--debug with any command shows the traceback of every error.

--version prints the versions of wm-jax and JAX.

These flags replace parts of an experiment; --help then lists the settings of these parts:
"""
PARTS = ("world.kind", "actor.kind", "search.kind", "explorer.kind")


@dataclass
class Run:
    """Run an experiment's stages. If it was stopped, the same command continues it."""

    experiment: Positional[Path]
    """Python file that defines CONFIG, for example experiments/quickstart.py."""
    config: Annotated[Experiment, arg(name="")]
    stages: tuple[str, ...] = ()
    """Run only these stages: collect, encode, evolve, explore, tune, evaluate, and the world model's learners (vision,
    memory). Default: all stages."""
    run_dir: Path | None = None
    """The run's folder. Default: runs/NAME."""
    redo: bool = False
    """Delete the results of the first stage whose settings changed or that --stages names, and of all stages after it.
    Then run: all stages, or with --stages only the named ones."""
    reuse: Path | None = None
    """Another run's folder. Its finished stages are reused, as long as their settings are the same as here."""
    # Parsed earlier, in wm_jax.__main__; listed here for --help.
    hosts: Annotated[parallel.Hosts, arg(name="")] = field(default_factory=parallel.Hosts)
    """How the processes of this run find each other."""


@dataclass
class Info:
    """Print an experiment's sizes, memory and work, without running it."""

    experiment: Positional[Path]
    """Python file that defines CONFIG."""
    config: Annotated[Experiment, arg(name="")]
    target: str | None = None
    """Compile the experiment's programs for this machine and report whether they fit. The machine need not be present.
    Values: h100, h100x8 (also a100, h200), v5e:2x2, v5e:16x16 (also v4, v5p, v6e). TPU targets need pip install
    "wm-jax[aot]"; for GPU targets the command prints what to install."""
    json: bool = False
    """Print JSON."""


Command = TypeVar("Command", Run, Info)


@dataclass
class Files:
    """Your own files that a run or a bundle names. Needed for a run if they have moved, for a bundle if they are not
    beside it."""

    task: Path | None = None
    """Path of the Python file that defines the task."""
    parts: tuple[Path, ...] = ()
    """Paths of the Python files that register parts."""


@dataclass
class Evaluate:
    """Score the controller of a finished run or a bundle on fresh episodes of the actual environment."""

    run: Positional[Path]
    """A run's folder or a bundle (.safetensors)."""
    episodes: int = 100
    """Number of episodes."""
    seed: int = 2_000_000
    """Episode i uses the environment seed SEED + i."""
    json: Path | None = None
    """Also write the score to this JSON file: mean, sd, se, n, returns, seeds, device, versions."""
    files: Annotated[Files, arg(name="")] = field(default_factory=Files)
    """Your own files that the run or bundle names."""


@dataclass
class Export:
    """Write the world model and C of a finished run, with the settings, as one file of at most 32 MiB (a bundle), and its
    model card. With --web, write a page that dreams in any browser, from a run or a bundle."""

    run: Positional[Path]
    """The run's folder. With --web, a bundle (.safetensors) also works."""
    file: Positional[Path | None] = None
    """The bundle to write; the name must end in .safetensors. The model card is written beside it, ending in .md."""
    web: Path | None = None
    """Folder for index.html, a page of at most 24 MB. The dream runs in it without a server or a network."""
    half: bool = False
    """Store the world model in half precision (float16): half the size; actions differ in the third digit."""
    files: Annotated[Files, arg(name="")] = field(default_factory=Files)
    """Your own files that the run or bundle names."""


@dataclass
class Play:
    """Serve a page with the dream of a run or a bundle, and the actual environment beside it."""

    run: Positional[Path]
    """A run's folder or a bundle (.safetensors)."""
    host: str = "127.0.0.1"
    """The IPv4 address to listen on. 127.0.0.1: only this machine can play; any other address lets other people play."""
    port: int = 8000
    """The port; 0 takes any free port."""
    files: Annotated[Files, arg(name="")] = field(default_factory=Files)
    """Your own files that the run or bundle names."""


@dataclass
class Report:
    """Write one page about runs, finished or not, as HTML and Markdown: scores beside published ones, curves, pictures.
    Measured scores are also written as JSON."""

    runs: Positional[tuple[Path, ...]]
    """Run folders. Several runs are compared with each other."""
    out: Path | None = None
    """Folder to write to. Default: RUN/report. Required for several runs."""
    files: Annotated[Files, arg(name="")] = field(default_factory=Files)
    """Your own files that the runs name."""


@dataclass
class Bench:
    """Measure this machine's speed. Each value is compared with a limit measured on the same machine."""

    names: Annotated[
        Positional[tuple[str, ...]],
        arg(
            help=f"Any of {', '.join(BENCHMARKS)}. Default: all. Or an experiment's Python file, to "
            "measure its own parts."
        ),
    ]
    config: Annotated[BenchConfig, arg(name="")]
    json: Path | None = None
    """Also write the rows to this JSON file, after each benchmark."""


def run(arguments: list[str]) -> None:
    """`wm-jax run`."""
    from wm_jax.pipeline.running import run_experiment

    options = _with_experiment(Run, arguments)
    path = options.run_dir or Path("runs") / options.config.name
    run_experiment(options.config, path, options.stages, options.redo, options.reuse, Screen())


def info(arguments: list[str]) -> None:
    """`wm-jax info`."""
    from wm_jax.pipeline.info import describe, table

    options = _with_experiment(Info, arguments)
    if options.target is not None:
        compiled_for(options)
        return
    facts = describe(options.config)
    print(json.dumps(facts, indent=1) if options.json else table(facts))


def compiled_for(options: Info) -> None:
    """`wm-jax info --target`."""
    from wm_jax.pipeline.ahead import compile_for, table
    from wm_jax.targets import target

    # Standard output may carry JSON: progress goes to standard error.
    screen = Screen(Console(stderr=True, highlight=False))
    facts = compile_for(options.config, target(options.target or ""), screen.say)
    print(json.dumps(facts, indent=1) if options.json else table(facts))


def _agent(run: Path, files: Files, screen: Screen) -> "Bundle":
    """Load the agent of a run or a bundle; report older formats and changed files on the screen."""
    from wm_jax.pipeline import bundle

    found = bundle.load(run, files.task, files.parts)
    for note in found.stored.notes:
        screen.say(note)
    for warning in found.stored.warnings:
        screen.warn(warning)
    return found


def evaluate(arguments: list[str]) -> None:
    """`wm-jax evaluate`."""
    from wm_jax.data.files import require_writable, write_json
    from wm_jax.pipeline.scoring import score_bundle
    from wm_jax.report.words import measured

    options = tyro.cli(Evaluate, prog="wm-jax evaluate", args=arguments)
    if options.json is not None:
        require_writable(options.json)
    screen = Screen()
    score = score_bundle(_agent(options.run, options.files, screen), options.episodes, options.seed, screen)
    try:
        if options.json is not None:
            write_json(options.json, score)
    finally:
        print(
            f"{options.run}: {score['mean']:.1f} ± {score['sd']:.1f} (standard error {score['se']:.1f}, n = {score['n']})"
            f"{measured(score)}"
        )


def export(arguments: list[str]) -> None:
    """`wm-jax export`."""
    from wm_jax.pipeline.exporting import export

    options = tyro.cli(Export, prog="wm-jax export", args=arguments)
    files, screen = options.files, Screen()
    if options.file is None and options.web is None:
        raise UserError("wm-jax export needs FILE.safetensors to write, or --web DIR for a page")
    if options.file is not None:
        card = export(options.run, options.file, options.half, files.task, files.parts, screen.say)
        print(f"{options.file}: {options.file.stat().st_size / 2**20:.1f} MiB\n{card}")
    if options.web is not None:
        from wm_jax.play import page

        path = page.write(_agent(options.run, files, screen), options.web, options.half, screen.say)
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB; open it in a browser")


def play(arguments: list[str]) -> None:
    """`wm-jax play`."""
    from wm_jax.play import page, server

    options, screen = tyro.cli(Play, prog="wm-jax play", args=arguments), Screen()
    server.require()
    with server.listening(options.host, options.port) as place:
        found = _agent(options.run, options.files, screen)
        built = page.build(found, found.params, screen.say, served=True)
        server.serve(place, options.host, built, server.Room(found), screen.say)


def report(arguments: list[str]) -> None:
    """`wm-jax report`."""
    from wm_jax.pipeline.reporting import report

    options = tyro.cli(Report, prog="wm-jax report", args=arguments)
    for path in report(options.runs, options.out, options.files.task, options.files.parts, Screen().say):
        print(path)


def bench(arguments: list[str]) -> None:
    """`wm-jax bench`."""
    from wm_jax.bench import suite, table
    from wm_jax.data.files import require_writable, write_json

    default = Bench(names=(), config=BenchConfig())
    options = tyro.cli(Bench, prog="wm-jax bench", default=default, args=arguments)
    files = [name for name in options.names if name.endswith(".py")]
    works = {name: suite.named(name, options.config) for name in options.names or BENCHMARKS if name not in files}
    works |= {Path(file).stem: suite.of_experiment(load(Path(file)), options.config) for file in files}
    results, about, screen = {}, suite.about(options.config), Screen()
    suite.warn_if_busy(screen)
    screen.say(f"{about['device']}, jax {about['jax']}, {about['precision']}")
    if options.json is not None:
        require_writable(options.json)
    for name, measure in works.items():
        try:
            results[name] = measure(screen)
        except KeyboardInterrupt as stop:
            raise Stopped(
                f"stopped in {name}; finished benchmarks are shown above and stored in the --json file"
            ) from stop
        try:
            if options.json is not None:
                write_json(options.json, table.as_json(results, about))
        finally:
            table.show(screen.console, name, results[name])


COMMANDS = {
    "run": run,
    "info": info,
    "evaluate": evaluate,
    "export": export,
    "play": play,
    "bench": bench,
    "report": report,
}


def _with_experiment(kind: type[Command], arguments: list[str]) -> Command:
    """Parse a command. The defaults of its settings are those of the experiment file among the arguments."""
    arguments = upgrade_arguments(arguments)
    paths, parts = _files(arguments)
    asks_help = {"-h", "--help"} & set(arguments)
    if not paths and not asks_help:
        raise UserError(f"wm-jax {kind.__name__.lower()} needs an experiment: a Python file that defines CONFIG, "
                        "for example experiments/quickstart.py")  # fmt: skip
    path = paths[0] if paths else Path("EXPERIMENT.py")
    for part in parts:
        load_parts(part)
    config = with_kinds(load(path) if paths else Experiment(), _kinds(arguments))
    default = kind(experiment=path, config=config)
    try:
        options = tyro.cli(kind, prog=f"wm-jax {kind.__name__.lower()}", default=default, args=arguments)
    except UserError as error:
        flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
        raise UserError(in_full(str(error), [flag[2:].replace("-", "_") for flag in flags])) from None
    return dataclasses.replace(options, config=with_paths_from(options.config, Path.cwd()))


def _files(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """The experiment files among the arguments, and the files given by --parts."""
    experiments, parts, flag = [], [], ""
    for argument in arguments:
        if argument.startswith("--"):
            flag, _, argument = argument.partition("=")
        if flag == "--parts" and argument and not argument.startswith("--"):
            parts.append(argument)
        elif argument.endswith(".py") and flag == "--task":
            flag = ""
        elif argument.endswith(".py"):
            experiments.append(Path(argument))
    return experiments, parts


def _kinds(arguments: list[str]) -> dict[str, str]:
    """The kinds of parts chosen in the arguments, by setting, so that settings of these kinds can be parsed."""
    found = {}
    for argument, following in pairwise([*arguments, ""]):
        flag, equals, attached = argument.partition("=")
        name = flag.removeprefix("--")
        if flag.startswith("--") and name.endswith(KIND) and name in REGISTRIES:
            found[name] = attached if equals else following
    return found


def main() -> None:
    """Entry point of `wm-jax`. Exit code 0: success; 1: an error the user can fix; 2: wrong usage."""
    with ending():
        arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
        if not arguments or arguments[0] in ("-h", "--help"):
            print(USAGE + "".join(f"  --{kind} {'|'.join(REGISTRIES[kind].names())}\n" for kind in PARTS), end="")
            sys.exit(0 if arguments else 2)
        if arguments == ["--version"]:
            print(f"wm-jax {__version__}, JAX {jax.__version__}")
            return
        if arguments[0] not in COMMANDS:
            raise UserError(f"there is no command {arguments[0]!r}; wm-jax --help lists them")
        if any(argument.split("=")[0] == "--target" for argument in arguments):
            # Ahead-of-time compilers need no device; leave the devices of this machine free.
            jax.config.update("jax_platforms", "cpu")
        if not {"-h", "--help"} & set(arguments):
            parallel.require_devices()
        COMMANDS[arguments[0]](arguments[1:])
