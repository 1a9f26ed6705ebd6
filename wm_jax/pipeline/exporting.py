"""`wm-jax export`: a run's agent as one file, and its model card."""

from collections.abc import Callable, Sequence
from pathlib import Path

from wm_jax import formats
from wm_jax.data.files import real, require_own, write_atomically
from wm_jax.errors import UserError
from wm_jax.pipeline import bundle, reporting
from wm_jax.report import card


def export(
    run: Path, file: Path, half: bool, task: Path | None = None, parts: Sequence[Path] = (),
    say: Callable[[str], None] = lambda message: None,
) -> Path:  # fmt: skip
    """Write the world model and controller of the run's folder to `file`, and the model card beside it; with `half`,
    the world model as float16. Returns the card's path. `task` and `parts` are the current paths of the user's own
    files; `say` reports older formats and changed files.

    Raises `UserError` if `file` is not named as a bundle, if it or the card would overwrite something else, or if `run`
    has no finished controller.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"the bundle must be named FILE.safetensors, found {file}")
    written = file.with_suffix(".md")
    require_own(file, formats.BUNDLE.format(""), "bundle")
    require_own(written, card.MARK, "model card")
    found = bundle.load(run, task, parts)
    for message in (*found.stored.notes, *found.stored.warnings):
        say(message)
    facts = reporting.read(run, real(run).name, found.stored)
    found.save(file, half)
    write_atomically(written, card.text(facts, file.name, file.stat().st_size, half).encode())
    return written
