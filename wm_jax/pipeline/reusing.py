"""`wm-jax run … --reuse RUN`: an ablation has the V and M of another run as its own."""

from wm_jax.data.files import real, write_atomically
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment
from wm_jax.pipeline.plan import changes, plan
from wm_jax.pipeline.stages import Step
from wm_jax.pipeline.training import RECONSTRUCTIONS, Train
from wm_jax.run import RunDir, StageDir


def take_over(experiment: Experiment, run: RunDir, source: RunDir) -> str:
    """Take over from another run the stages that it has finished with the same settings, up to the first that it has not.
    What a run began itself stays its own. Returns in words what is taken over, by an earlier call too, and what is not.

    Raises `UserError` where nothing is.
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
            f"nothing of {source.path} can be used: not {obstacle}; give a run whose first stages have these settings, or "
            "leave --reuse out"
        )
    return f"taken over from {source.path}: {', '.join(taken)}" + (f"; not {obstacle}" if obstacle else "")


def _obstacle(experiment: Experiment, step: Step, here: StageDir, there: StageDir) -> str:
    """Why a stage cannot be taken over; empty where it can."""
    record = there.record
    if here.origin is None and here.record is not None:
        return f"{step}: this run has begun it itself"
    if record is None or not record["finished"]:
        return f"{step}: it is not finished there"
    changed = changes(experiment, step, record)
    return f"{step}: {changed}" if changed else ""


def _take_over(step: Step, run: RunDir, source: RunDir) -> None:
    """Link a stage, and copy a learner's pictures, which lie among the run's figures."""
    step.folder(run).take_over(step.folder(source))
    if isinstance(step.stage, Train):
        for picture in source.figures.glob(RECONSTRUCTIONS.format(round=step.round_number, step="*")):
            write_atomically(run.figures / picture.name, picture.read_bytes())
