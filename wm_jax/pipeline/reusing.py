"""`wm-jax run … --reuse RUN`: reuses finished stages of another run, for example V and M for an ablation."""

from wm_jax.data.files import real, write_atomically
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.pipeline.plan import changes, plan
from wm_jax.pipeline.stages import Step
from wm_jax.pipeline.training import RECONSTRUCTIONS, Train
from wm_jax.run import RunDir, StageDir


def take_over(experiment: Experiment, run: RunDir, source: RunDir) -> str:
    """Take over the stages that another run has finished with the same settings, up to the first that differs or is not
    finished. Stages that this run has begun itself stay. Returns a text that lists the stages taken over, also by
    earlier calls, and the first one not taken over.

    Raises `UserError` if nothing can be taken over.
    """
    if real(source.path) == real(run.path):
        raise UserError(f"--reuse {source.path} is this run itself; give another one, or leave --reuse out")
    taken, obstacle = [], ""
    for step in plan(experiment):
        obstacle = _obstacle(experiment, step, step.folder(run), step.folder(source))
        if obstacle:
            break
        if step.folder(run).origin is None:
            _take_over(step, run, source)
        taken.append(str(step))
    if not taken:
        raise UserError(
            f"nothing of {source.path} can be reused: {obstacle}; give a run whose first stages have these settings, or "
            "leave --reuse out"
        )
    return f"taken over from {source.path}: {', '.join(taken)}" + (
        f"; the rest is not reused: {obstacle}" if obstacle else ""
    )


def _obstacle(experiment: Experiment, step: Step, here: StageDir, there: StageDir) -> str:
    """Why a stage cannot be taken over; empty if it can."""
    record = there.record
    if here.origin is None and here.record is not None:
        return f"{step}: this run has already started it"
    if record is None or not record["finished"]:
        return f"{step}: it is not finished there"
    changed = changes(experiment, step, record)
    return f"{step}: {changed}" if changed else ""


def _take_over(step: Step, run: RunDir, source: RunDir) -> None:
    """Link a stage, and copy a learner's pictures, which are stored in the run's figures."""
    step.folder(run).take_over(step.folder(source))
    if isinstance(step.stage, Train):
        for picture in source.figures.glob(RECONSTRUCTIONS.format(round=step.round_number, step="*")):
            write_atomically(run.figures / picture.name, picture.read_bytes())
