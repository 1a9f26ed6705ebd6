"""The resumable loop that every learner's training and every search for C use."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax import parallel
from wm_jax.errors import UserError
from wm_jax.pipeline.progress import Bar, Interrupt, Screen, Stopped
from wm_jax.run import StageDir

Metrics = dict[str, Any]
Advance = Callable[[Any], tuple[Any, Metrics]]
"""Does some steps: state → (state, metrics). The old state may be donated."""


@dataclass(frozen=True)
class Work:
    """A stage's work, in the form that the loop needs."""

    title: str
    unit: str
    """The unit shown on the screen, for example images."""
    units: int
    """Units in one step."""
    steps: int
    stride: int
    """Steps done by one call of `Advance`. If more than 1, its metrics are stacked [stride]."""
    advance_from: Callable[[int], Advance]
    """Number of steps already done → the function that does the next ones."""
    watch: str
    """The metric shown beside the progress bar."""
    average: int
    """Metrics are averaged over this many steps, then logged and checked to be finite."""
    evaluate_every: int
    evaluate: Callable[[Any, int], Metrics]
    """(state, steps done) → metrics on held-out data, logged every `evaluate_every` steps and at the end; may be empty.
    Only process 0 calls it."""
    result: Callable[[Any], Any]
    """The part of the state that must be finite before it is saved."""
    remedy: str
    """What a user can do if numbers are not finite."""
    attach: Callable[[Bar], None] = lambda bar: None
    """Receives the bar, for work that shows progress within a step."""


def run_loop(
    stage: StageDir, work: Work, state: Any, screen: Screen, interrupt: Interrupt, checkpoint_seconds: float
) -> Any:
    """Do `work` from the stage's last checkpoint, or from `state`. Returns the final state, which is also saved.

    Every process of a run calls it. Raises `Stopped` after Ctrl-C, once the state is saved, and `UserError` if a metric
    or the result is not finite; the last good checkpoint is kept.
    """
    done, state = stage.checkpoints.load_last(state, screen.warn) or (0, state)
    parallel.on_main(lambda: stage.run.drop_metrics(stage.name, after=done))
    advance = work.advance_from(done)
    saved, saved_at, pending = done, time.monotonic(), []
    with screen.bar(work.title, work.unit, work.steps * work.units, done * work.units) as bar:
        work.attach(bar)
        while done < work.steps:
            state, metrics = advance(state)
            pending.append(metrics)
            done += work.stride
            evaluating = done % work.evaluate_every == 0 or done == work.steps
            # With several processes, all must stop at the same step: none may stop on its own.
            at_once = interrupt.requested and jax.process_count() == 1
            if not (done % work.average == 0 or evaluating or at_once):
                continue
            shown = parallel.on_main(partial(_log, stage, work, pending, done, saved))
            pending = []
            if evaluating and parallel.is_main() and (report := work.evaluate(state, done)):
                stage.log(done, report)
            bar.update(done * work.units, f"{work.watch} {shown:.4g}")
            late, stop = parallel.agree(time.monotonic() - saved_at > checkpoint_seconds), interrupt.agreed()
            if late or stop or done == work.steps:
                whole = parallel.local(state)
                parallel.on_main(partial(_check_result, stage, work, whole, done, saved))
                stage.checkpoints.save(done, whole)
                saved, saved_at = done, time.monotonic()
            if stop and done < work.steps:
                raise Stopped(
                    f"stopped in {stage.name} at step {done} of {work.steps}; the same command continues from there"
                )
    return state


def _log(stage: StageDir, work: Work, pending: list[Metrics], done: int, saved: int) -> float:
    """Log the pending steps' metrics; returns the last logged value of the watched one. Raises `UserError` at the first
    step with a metric that is not finite; for searches side by side (a second axis), only if no search's metric is
    finite."""
    fetched = jax.device_get(pending)
    rows = {name: np.concatenate([np.atleast_1d(metrics[name]) for metrics in fetched]) for name in fetched[0]}
    first = done - len(rows[work.watch]) + 1
    for name, values in rows.items():
        sound = np.isfinite(values).reshape(len(values), -1).any(axis=1)
        if not sound.all():
            at = int(sound.argmin())
            raise UserError(
                f"{stage.name}: {name} is not finite at step {first + at} (found {values[at]}); the state of step {saved} "
                f"is kept in {stage.checkpoints.folder}; {work.remedy}"
            )
    if work.average > 1:
        rows, first = {name: np.mean(values, keepdims=True) for name, values in rows.items()}, done
    for i in range(len(rows[work.watch])):
        stage.log(first + i, {name: values[i] for name, values in rows.items()})
    last = rows[work.watch][-1]
    return float(np.mean(last, where=np.isfinite(last)))


def _check_result(stage: StageDir, work: Work, state: Any, done: int, saved: int) -> None:
    """Raise `UserError` if the state is not worth saving: a finite loss can have a gradient that is not finite."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(work.result(state))):
        raise UserError(
            f"{stage.name}: the weights are not finite at step {done}; the state of step {saved} is kept in "
            f"{stage.checkpoints.folder}; {work.remedy}"
        )
