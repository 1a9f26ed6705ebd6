"""What the stages of a run are, in which order, and what each of them hangs on."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, kinds, load, with_kinds
from wm_jax.memory.learner import MemoryLearner
from wm_jax.pipeline.plan import plan, stages, stale
from wm_jax.pipeline.stages import Stage
from wm_jax.pipeline.stored import to_store
from wm_jax.rollouts import RoundsConfig
from wm_jax.run import RunDir
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import TuneConfig
from wm_jax.search.policy_gradient import PolicyGradientConfig
from wm_jax.vision.learner import VisionLearner
from wm_jax.worlds.vision_memory import VisionMemory

PAPER = ("collect", "vision", "encode", "memory", "evolve", "evaluate")
FOUND = ("dream.", "actor.", "search.", "evolve.", "evaluate.environments")
DEPENDS = {
    "collect": ("task", "seed", "collect."),
    "vision": ("held_out", "mirror", "initial", "initial_learners", "world.kind", "world.vision."),
    "encode": ("world.kind",),
    "memory": ("world.memory.",),
    "evolve": (*FOUND, "initial_actor"),
    "tune": ("tune.", "evaluate.environments"),
    "evaluate": ("evaluate.", "tune.generations"),
}
"""What a stage of the first round depends on, beside what those before it do."""
LATER = {
    "collect": (
        *("rounds.episodes", "rounds.drivers", "rounds.patience", "collect.backend", "explorer."),
        "evaluate.environments",
    ),
    "vision": ("world.vision.later_steps", "world.vision.train_ratio", "rounds.new_share"),
    "encode": (),
    "memory": ("world.memory.later_steps", "world.memory.train_ratio", "rounds.new_share"),
    "evolve": (*FOUND, "rounds.generations", "rounds.warm_start"),
    "tune": DEPENDS["tune"],
    "evaluate": DEPENDS["evaluate"],
}


@pytest.fixture(scope="module")
def experiment(probe_experiment: Path) -> Experiment:
    """Two rounds, and a tuning."""
    return dataclasses.replace(load(probe_experiment), rounds=RoundsConfig(count=2), tune=TuneConfig(generations=3))


@pytest.fixture(scope="module")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of it whose stages are all marked finished."""
    return finish(RunDir(tmp_path_factory.mktemp("finished") / "run"), experiment)


def finish(run: RunDir, experiment: Experiment) -> RunDir:
    with run.locked():
        run.prepare(to_store(experiment), tensorboard=False)
    for step in plan(experiment):
        step.folder(run).begin(step.settings(experiment), {})
        step.folder(run).finish({})
    return run


def changed(experiment: Any, name: str, value: Any) -> Any:
    """The experiment with another value of the setting of this name."""
    group, _, rest = name.partition(".")
    inner = changed(getattr(experiment, group), rest, value) if rest else value
    return dataclasses.replace(experiment, **{group: inner})


def test_the_papers_stages_are_in_the_papers_order(experiment: Experiment) -> None:
    assert [str(step) for step in plan(experiment)] == [
        *(f"{name} (round 0)" for name in PAPER[:-1]),
        *(f"{name} (round 1)" for name in PAPER[:-1]),
        *("tune (round 1)", "evaluate (round 1)"),
    ]
    alone = dataclasses.replace(experiment, rounds=RoundsConfig(), tune=TuneConfig())
    assert [step.key for step in plan(alone)] == [(name, 0) for name in PAPER]
    folders = ("rollouts", "vision", "latents", "memory", "controller", "tuned", "evaluation")
    assert tuple(stage.folder for stage in stages(experiment)) == folders


def test_what_no_learner_owns_hangs_on_the_first_stage_of_the_world_model(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With learners that read encoded frames alone, that is the encoding, which any of the model's settings may change."""
    shared = ("held_out", "mirror", "initial", "initial_learners", "world.kind")
    with monkeypatch.context() as patch:
        patch.setattr(VisionLearner, "reads", "observations")
        found = {stage.name: stage for stage in stages.__wrapped__(experiment)}
    assert list(found)[:4] == ["collect", "encode", "vision", "memory"]
    assert found["encode"].depends(later=False) == ("world.kind", *shared, "world.")
    assert found["vision"].depends(later=False) == ("world.vision.",)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryLearner, "settings", "world.memory.optimizer.")
        found = {stage.name: stage for stage in stages.__wrapped__(experiment)}
    assert {"world.memory.hidden_size", "world.memory.steps"} < set(found["vision"].depends(later=False))


def test_a_learner_is_not_called_as_a_stage_is(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    learners = property(lambda world: {"encode": VisionLearner(world.vision)})
    monkeypatch.setattr(VisionMemory, "learners", learners)
    with pytest.raises(UserError, match="a learner of the world model vision_memory is called 'encode'"):
        stages.__wrapped__(experiment)


@pytest.mark.parametrize("name", DEPENDS)
def test_each_stage_says_what_it_depends_on(name: str, experiment: Experiment) -> None:
    stage: Stage = next(stage for stage in stages(experiment) if stage.name == name)
    assert stage.depends(later=False) == DEPENDS[name]
    assert stage.depends(later=True) == LATER[name]


@pytest.mark.parametrize(
    ("setting", "value", "first"),
    [
        ("collect.policy", "random", ("collect", 0)),
        ("seed", 3, ("collect", 0)),
        ("held_out", 0.2, ("vision", 0)),
        ("world.vision.kl_floor", 0.4, ("vision", 0)),
        ("world.memory.optimizer.learning_rate", 1e-3, ("memory", 0)),
        ("dream.temperature", 1.1, ("evolve", 0)),
        ("actor.hidden_sizes", (3,), ("evolve", 0)),
        ("search.sigma", 0.2, ("evolve", 0)),
        ("evolve.generations", 31, ("evolve", 0)),
        ("explorer.action_noise", 0.1, ("collect", 1)),
        ("rounds.episodes", 3, ("collect", 1)),
        ("world.vision.later_steps", 7, ("vision", 1)),
        ("world.memory.later_steps", 7, ("memory", 1)),
        ("rounds.generations", 7, ("evolve", 1)),
        ("rounds.warm_start", True, ("evolve", 1)),
        ("tune.search.sigma", 0.2, ("tune", 1)),
        ("evaluate.episodes", 17, ("evaluate", 1)),
    ],
)
def test_a_change_makes_its_stage_and_all_later_ones_stale(
    setting: str, value: Any, first: tuple[str, int], experiment: Experiment, finished: RunDir
) -> None:
    steps = [step.key for step in plan(experiment)]
    found = stale(changed(experiment, setting, value), finished)
    assert [step.key for step, _ in found] == steps[steps.index(first) :]
    assert found[0][1].startswith(f"{setting} was ")


def test_settings_of_another_kind_count_as_their_own_defaults(experiment: Experiment, tmp_path: Path) -> None:
    """An unchanged policy gradient has no population that it could lack."""
    learning = dataclasses.replace(experiment, search=PolicyGradientConfig(dreams=64))
    run = finish(RunDir(tmp_path / "run"), learning)
    assert stale(learning, run) == []
    (step, reason), *_ = stale(dataclasses.replace(experiment, search=CMAESConfig()), run)
    assert step.key == ("evolve", 0) and "search.kind was 'policy_gradient', now 'cma_es'" in reason


def test_parts_of_the_kind_that_is_there_stay_as_they_are(experiment: Experiment) -> None:
    assert with_kinds(experiment, kinds(experiment)) == experiment
    found = with_kinds(experiment, {"search.kind": "policy_gradient", "tune.search.kind": "cma_es"})
    assert found == dataclasses.replace(experiment, search=PolicyGradientConfig())


def test_what_changes_no_result_makes_nothing_stale(experiment: Experiment, finished: RunDir) -> None:
    other = dataclasses.replace(experiment, name="other", devices=1, checkpoint_seconds=1.0, tensorboard=True)
    assert stale(changed(other, "collect.workers", 7), finished) == []
