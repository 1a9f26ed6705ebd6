"""The model card of an exported bundle: its purpose, scores, origin and limits."""

import shlex
from pathlib import Path

from wm_jax.experiment import Experiment, flatten, to_share
from wm_jax.report import published
from wm_jax.report.facts import RunFacts
from wm_jax.report.page import Page, Part, Row, Section, Table, markdown
from wm_jax.report.scores import CONTROLLER, named, notes_on_selection, which_candidate
from wm_jax.report.words import NOTHING, duration, number, scored, spread, value

MARK = "a World Models agent"
"""Part of the first line of every card."""
LIMITS = (
    "For research and teaching: to score, watch, dream in, or train further. It knows one task, with the "
    "environment set up and preprocessed by wm_jax; its actions have no meaning elsewhere.",
    "Its dream is an approximation: a high score in it need not mean one outside. Single episodes differ by about "
    "their standard deviation; only means over many episodes are meaningful.",
)


def text(run: RunFacts, file: str, size: int, half: bool) -> str:
    """The card of the bundle `file` of `size` bytes, as Markdown. `half`: its world model is float16."""
    what = (
        f"An agent for the task {Path(run.experiment.task).stem}, trained by wm_jax: a world model "
        f"({run.experiment.world.kind}) sees and predicts, and a controller ({run.experiment.actor.kind}: "
        f"{run.models.actor.words}) acts on its features. {file} holds both with their settings, {size / 2**20:.1f} MiB, "
        "as safetensors: weights and JSON, no code."
    )
    limits, licence = Section("Intended use and limits", LIMITS), Section("Licence", ("Apache-2.0",))
    sections = (_scores(run, half), _use(file, to_share(run.experiment)), _made(run, half), limits, licence)
    return markdown(Page(f"{run.experiment.name}: {MARK}", (what,), (Part("", sections),)))


def _scores(run: RunFacts, half: bool) -> Section:
    """C's score beside its dream's score, the run's baselines and the best blind policy."""
    if not run.scores:
        return Section("Scores", ("The run that this was exported from has not been scored.",))
    score = run.scores[CONTROLLER]
    names = [CONTROLLER, *(name for name in run.scores if name != CONTROLLER)]
    rows = [_own_row(run, name) for name in names]
    best = published.best_blind(run.experiment.task)
    if best is not None:
        n = NOTHING if best.n is None else f"{best.n:,}"
        rows.append(Row((f"{best.what} (never looks)", spread(best.mean, best.sd), number(best.se), n, NOTHING)))
    rounded = ", before the world model was rounded to 16 bits" if half else ""
    told = (
        "Return of an episode of the actual environment, mean ± standard deviation over n fresh episodes; se: standard "
        f"error of the mean. Scored on {score['device']}{rounded}."
    )
    dream = f" In the dream that it learned in it scores {scored(score['dream'])}." if score["dream"] else ""
    chosen = f"C is {which_candidate(run)}.{dream}"
    table = Table("", ("policy", "mean ± sd", "se", "n", "seeds"), tuple(rows), "lrrrr")
    return Section("Scores", (told, chosen), tuple(notes_on_selection(run)), tables=(table,))


def _own_row(run: RunFacts, name: str) -> Row:
    score = run.scores[name]
    result = (spread(score["mean"], score["sd"]), number(score["se"]), f"{score['n']:,}")
    seeds = f"{score['seeds'][0]} to {score['seeds'][-1]}"
    return Row((named(run, name), *result, seeds), "own" if name == CONTROLLER else "plain")


def _use(file: str, experiment: Experiment) -> Section:
    own = f" --task {experiment.task}" if experiment.task.endswith(".py") else ""
    own += f" --parts {' '.join(experiment.parts)}" if experiment.parts else ""
    return Section("How to use it", code=(
        f"wm-jax evaluate {file} --episodes 1000{own}",
        f'gymnasium.make("wm_jax/Dream-v0", run="{file}")  # its dream; import wm_jax first',
    ))  # fmt: skip


def _made(run: RunFacts, half: bool) -> Section:
    """Commands, data, sizes, device, versions, and the settings that differ from the defaults."""
    versions = run.records[-1].get("versions", {})
    initial, part = to_share(run.experiment).initial, "agent" if run.experiment.initial_actor else "world model"
    rows = (
        *([("begun with", f"the {part} of {initial} and, through it, its training data")] if initial else []),
        ("recorded", run.recorded),
        *((f"weights of {model}", f"{count:,}") for model, count in run.parameters.items()),
        ("stored as", "world model float16, C float32" if half else "float32"),
        ("time", duration(run.seconds)),
        ("device", run.devices),
        ("versions", ", ".join(f"{package} {version}" for package, version in versions.items())),
    )
    defaults, ours = flatten(Experiment()), flatten(to_share(run.experiment))
    settings = tuple(Row((name, value(setting))) for name, setting in ours.items() if setting != defaults.get(name))
    tables = (
        Table("", ("what", "size"), tuple(map(Row, rows)), "ll"),
        Table("Settings that differ from the defaults", ("setting", "value"), settings, "ll"),
    )
    return Section("How it was made", code=tuple(map(_shareable, run.commands)), tables=tables)


def _shareable(command: str) -> str:
    """A command without the machine's folders."""

    def named(word: str) -> str:
        flag, equals, path = word.rpartition("=")
        return f"{flag}{equals}{Path(path).name if Path(path).is_absolute() else path}"

    return shlex.join(map(named, shlex.split(command)))
