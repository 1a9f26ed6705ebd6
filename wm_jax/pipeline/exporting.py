"""`wm-jax export`: a run's agent as one file, and its model card."""

from pathlib import Path

from wm_jax.data.files import write_atomically
from wm_jax.errors import UserError
from wm_jax.pipeline import bundle, reporting
from wm_jax.report import card


def export(run: Path, file: Path, half: bool) -> Path:
    """Write V, M and C of the run's folder to `file`, with `half` V and M as float16, and the model card beside it. Returns
    the card's path.

    Raises `UserError` where `file` is not named as a bundle or `run` has no finished controller.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"the bundle must be named FILE.safetensors, found {file}")
    facts = reporting.read(run, run.resolve().name)
    bundle.load(run).save(file, half)
    written = file.with_suffix(".md")
    write_atomically(written, card.text(facts, file.name, file.stat().st_size, half).encode())
    return written
