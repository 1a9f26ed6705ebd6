"""The contents of a report: each run's scores, curves, pictures and origin; for several runs, also a comparison."""

from collections.abc import Sequence

from wm_jax.experiment import flatten
from wm_jax.report import comparison, learning, scores, seeds, temperatures
from wm_jax.report.facts import RunFacts, StageFacts
from wm_jax.report.page import Page, Part, Picture, Row, Section, Table
from wm_jax.report.words import NOTHING, duration, value
from wm_jax.types import HELD_OUT, TRAINED

NOT_TOLD = ("seconds", HELD_OUT, TRAINED)
"""Prefixes of the entries of a stage's summary that the report shows elsewhere."""
FILMS = {
    "film": "The actual environment, the world model's reconstruction, and a dream from the same first frame, evenly "
    "spaced over the film ({}). A film that ends early repeats its last frame, dimmed.",
    "film_coldest": "The same at the lowest temperature, where controllers first learn to cheat the dream ({}).",
    "film_rounds": "The dream of each round's C in that round's world model, from the same first frame ({}).",
}
"""Captions of the films that a run may have; {} is the film's path."""


def page(runs: Sequence[RunFacts]) -> Page:
    """The report of one or several runs."""
    parts = [Part(run.label, sections(run, f"run{number}")) for number, run in enumerate(runs, 1)]
    if len(runs) == 1:
        unfinished = "" if runs[0].finished else " (unfinished)"
        return Page(f"{runs[0].experiment.name}{unfinished}", (_headline(runs[0]),), tuple(parts))
    compared = Part("Comparison", comparison.sections(runs))
    return Page(f"{len(runs)} runs", tuple(map(_headline, runs)), (compared, *parts))


def _headline(run: RunFacts) -> str:
    """A run's result, and the combined result of its searches."""
    return f"{scores.headline(run)} {seeds.sentence(run)}".strip()


def sections(run: RunFacts, name: str) -> tuple[Section, ...]:
    """All sections about one run; `name` is the prefix of its pictures' names."""
    found = [scores.section(run, name)]
    if run.experiment.evolve.temperatures and run.evolutions:
        found.append(temperatures.section(run, name))
    elif run.evolutions:
        found.append(seeds.section(run))
    found += [*learning.controllers(run, name), learning.models(run, name), _seen(run, name), _made(run)]
    return tuple(section for section in found if section.tables or section.pictures)


def _seen(run: RunFacts, name: str) -> Section:
    """The world model's reconstructions and dreams."""
    pictures = []
    for film, data in run.film_strips.items():
        place = f"{run.folder}/figures/{film}.gif"
        pictures.append(Picture(f"{name}-{film}-strip.png", FILMS[film].format(place), data, wide=True))
    for number, data in run.reconstructions.items():
        caption = f"Round {number}: held-out frames above their reconstructions."
        pictures.append(Picture(f"{name}-reconstructions-{number}.png", caption, data, wide=True))
    return Section("What the world model sees and dreams", pictures=tuple(pictures))


def _made(run: RunFacts) -> Section:
    """Commands, device, time and settings of a run."""
    told = [f"The run's folder is {run.folder}; its finished stages took {duration(run.seconds)}."]
    if not run.commands:
        told.append("The command was not recorded; the settings below are complete.")
    notes = ("The time of a stage includes processes that were stopped, not those that were killed.",)
    if any(stage.taken_over for stage in run.stages):
        notes += ("A stage that was taken over ran, and was timed, in another run.",)
    return Section("How it was made", tuple(told), notes, tuple(run.commands),
                   (_sizes(run), _stages(run), _versions(run), _settings(run)))  # fmt: skip


def _sizes(run: RunFacts) -> Table:
    config = run.experiment
    rows = (
        ("task", config.task),
        ("seed", str(config.seed)),
        ("rounds", str(config.rounds.count)),
        ("recorded", run.recorded or NOTHING),
        *((f"weights of {model}", f"{count:,}") for model, count in run.parameters.items()),
        ("features of the world model", ", ".join(f"{name} {size}" for name, size in run.models.feature_sizes.items())),
        ("C reads", run.models.actor.words),
        *(_searched(run) if run.searched else ()),
        *_tuned(run),
    )
    return Table("What was run", ("what", "size"), tuple(Row(row) for row in rows), "ll")


def _searched(run: RunFacts) -> tuple[tuple[str, str], ...]:
    evolve = run.experiment.evolve
    generations = f"{evolve.generations:,}, its candidate evaluated every {evolve.evaluate_every}"
    return ("a generation", _generation(run)), ("generations", generations)


def _generation(run: RunFacts) -> str:
    limit = run.experiment.evolve.max_steps
    where = f"dreams {run.experiment.dream.words}" if run.place == "dream" else "actual episodes"
    return f"{run.generation}, in {where}" + (f" of at most {limit} steps" if limit else "")


def _tuned(run: RunFacts) -> tuple[tuple[str, str], ...]:
    if run.chosen_by.stage != "tune":
        return ()
    config = run.chosen_by.config
    return (("tuned", f"{config.generations:,} generations of {run.found_by(run.chosen_by).words} in actual episodes, its "
             f"candidate validated every {config.evaluate_every}"),)  # fmt: skip


def _stages(run: RunFacts) -> Table:
    columns = ("stage", "round", "state", "time", "device", "result")
    return Table("Stages", columns, tuple(_stage_row(stage) for stage in run.stages), "lrlrll")


def _stage_row(stage: StageFacts) -> Row:
    done = "taken over" if stage.taken_over else "finished"
    state = done if stage.finished else NOTHING if stage.record is None else "begun"
    told = ", ".join(
        f"{name.replace('_', ' ')} {value(entry)}"
        for name, entry in stage.summary.items()
        if not name.startswith(NOT_TOLD) and not isinstance(entry, dict) and entry is not None
    )
    device = (stage.record or {}).get("device", NOTHING)
    time = duration(stage.summary.get("seconds"))
    return Row((stage.stage, str(stage.round_number), state, time, device, told))


def _versions(run: RunFacts) -> Table:
    """Each package's version; all its versions if they differ between stages."""
    found: dict[str, list[str]] = {}
    for record in run.records:
        for package, version in record.get("versions", {}).items():
            if str(version) not in found.setdefault(package, []):
                found[package].append(str(version))
    rows = tuple(Row((package, ", ".join(versions))) for package, versions in found.items())
    return Table("Versions", ("package", "version"), rows, "ll", folded=True)


def _settings(run: RunFacts) -> Table:
    rows = tuple(Row((name, value(setting))) for name, setting in flatten(run.experiment).items())
    return Table("All settings", ("setting", "value"), rows, "ll", folded=True)
