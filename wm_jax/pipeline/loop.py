"""The one resumable loop that V's training, M's training and C's evolution share."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from wm_jax.errors import UserError
from wm_jax.pipeline.progress import Interrupt, Screen, Stopped
from wm_jax.run import StageDir

Metrics = dict[str, Any]
Advance = Callable[[Any], tuple[Any, Metrics]]
"""One step: state → (state, metrics). The old state may be donated."""


@dataclass(frozen=True)
class Work:
    """A stage's work, as the loop needs to know it."""

    title: str
    unit: str
    """What is counted on the screen, for example images."""
    units: int
    """Units in one step."""
    steps: int
    advance_from: Callable[[int], Advance]
    """Given the number of steps already done, what does the next ones."""
    watch: str
    """The metric shown beside the bar."""
    log_every: int
    """Steps between two logged lines; metrics are averaged over them, and checked to be finite."""
    evaluate_every: int
    evaluate: Callable[[Any, int], Metrics]
    """(state, steps done) → metrics on held-out data, logged every `evaluate_every` steps and at the end."""
    remedy: str
    """What a user can do where the numbers are not finite."""


def run_loop(stage: StageDir, work: Work, state: Any, screen: Screen, checkpoint_seconds: float) -> Any:
    """Do `work` from the stage's last checkpoint, or from `state`, and return the final state, which is also saved.

    Raises `Stopped` after Ctrl-C, when the state is saved, and `UserError` where a metric is not finite: the last good
    checkpoint is kept.
    """
    done, state = stage.checkpoints.load_last(state, screen.warn) or (0, state)
    stage.run.drop_metrics(stage.name, after=done)
    advance = work.advance_from(done)
    saved, saved_at, pending = done, time.monotonic(), []
    with Interrupt() as interrupt, screen.bar(work.title, work.unit, work.steps * work.units, done * work.units) as bar:
        while done < work.steps:
            state, metrics = advance(state)
            pending.append(metrics)
            done += 1
            evaluating = done % work.evaluate_every == 0 or done == work.steps
            if not (done % work.log_every == 0 or evaluating or interrupt.requested):
                continue
            means = _log(stage, work, pending, done, saved)
            pending = []
            if evaluating:
                stage.log(done, work.evaluate(state, done))
            bar.update(done * work.units, f"{work.watch} {means[work.watch]:.4g}")
            late = time.monotonic() - saved_at > checkpoint_seconds
            if late or interrupt.requested or done == work.steps:
                stage.checkpoints.save(done, state)
                saved, saved_at = done, time.monotonic()
            if interrupt.requested and done < work.steps:
                raise Stopped(
                    f"stopped in {stage.name} at step {done} of {work.steps}; the same command goes on from there"
                )
    return state


def _log(stage: StageDir, work: Work, pending: list[Metrics], done: int, saved: int) -> Metrics:
    """Log the mean of the pending steps' metrics. Raises `UserError` at the first step that is not finite."""
    fetched = jax.device_get(pending)
    for step, metrics in enumerate(fetched, start=done - len(fetched) + 1):
        for name, value in metrics.items():
            if not np.isfinite(value).all():
                raise UserError(
                    f"{stage.name}: {name} is not finite at step {step} (found {value}); the state of step {saved} "
                    f"is kept in {stage.checkpoints.folder}; {work.remedy}"
                )
    means = {name: math.fsum(float(metrics[name]) for metrics in fetched) / len(fetched) for name in fetched[0]}
    stage.log(done, means)
    return means
