"""Finds errors in an experiment before it runs."""

from dataclasses import replace

from wm_jax import parallel
from wm_jax.actors import protocol as actors
from wm_jax.actors.planning import Planner
from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.experiment import REGISTRIES, Experiment, digests, flatten
from wm_jax.models import Models
from wm_jax.pipeline import machine, side_by_side
from wm_jax.pipeline.searching import actual_search
from wm_jax.registry import require_named
from wm_jax.tasks.calls import own


def check(experiment: Experiment, models: Models) -> None:
    """Raise `UserError` if settings do not fit together, before hours of work are spent."""
    task, settings = models.task, flatten(experiment)
    # Raises if two files could not be told apart later.
    digests(experiment)
    for name, registry in REGISTRIES.items():
        require_named(experiment.parts, name, settings[name], registry.source(settings[name]))
    require_choice("collect.policy", experiment.collect.policy, task.policy_names)
    for name in experiment.evaluate.baselines:
        require_choice("evaluate.baselines", name, task.policy_names)
    for name in experiment.initial_learners:
        require_choice("initial_learners", name, list(models.world.learners))
    if experiment.initial_learners and experiment.initial is None:
        raise UserError(f"initial_learners names {', '.join(experiment.initial_learners)} but initial is None; give initial"
                        " the bundle that holds their initial weights")  # fmt: skip
    if experiment.initial_actor and (experiment.initial is None or not actors.size(models.actor)):
        found = (
            "initial is None" if experiment.initial is None else f"actor.kind {experiment.actor.kind!r} has no weights"
        )
        raise UserError(f"initial_actor is True but {found}; give initial the bundle whose C the search starts from, or "
                        "set initial_actor to False")  # fmt: skip
    for number in experiment.evaluate.rounds:
        if not 0 <= number < experiment.rounds.count - 1:
            raise UserError(f"evaluate.rounds names round {number}, but the rounds before the last are numbered from 0, "
                            f"and rounds.count is {experiment.rounds.count}; name others, or omit it")  # fmt: skip
    if experiment.mirror and task.mirror is None:
        raise UserError(f"mirror is True but the task {task.name} does not define mirrored actions; leave mirror "
                        "out, or give its Task a mirror where left and right can be exchanged")  # fmt: skip
    for name in ("evolve", "tune"):
        limit = getattr(experiment, name).max_steps
        if limit is not None:
            require_range(f"{name}.max_steps", limit, 1, task.max_steps)
    models.explorer.collector(models.actor)
    if not actors.size(models.actor):
        _check_unsearched(experiment)
    if experiment.evolve.temperatures and isinstance(models.actor, Planner):
        raise UserError(f"evolve.temperatures is {experiment.evolve.temperatures} but actor.kind is "
                        f"{experiment.actor.kind!r}, which plans at dream.temperature only; omit it")  # fmt: skip
    if experiment.exploring is not None:
        if experiment.rounds.drivers == "scripted":
            raise UserError(f"rounds.drivers is 'scripted' but explorer.kind is {experiment.explorer.kind!r}, whose "
                            "controller would collect nothing; change either of them")  # fmt: skip
        exploring = Models(experiment.exploring)
        try:
            exploring.dream.check()
        except UserError as error:
            # Here the rule belongs to the explorer.
            raise UserError(str(error).replace("dream.reward", "explorer.reward")) from error
        exploring.search(experiment.exploring.evolve.generations)
    # Films dream too, whatever the reward.
    replace(models.dream, config=replace(experiment.dream, reward="survival")).check()
    if experiment.evolve.fitness == "dream":
        _check_dream(experiment, models)
    elif experiment.tune.generations:
        raise UserError(f"tune.generations is {experiment.tune.generations} but evolve.fitness is 'actual': C is in the "
                        "actual environment from the start; raise evolve.generations instead")  # fmt: skip
    for stage, config in experiment.searches.items():
        if config.fitness == "actual":
            actual_search(models, config, tunes=stage == "tune")
    for setting, backend in _backends(experiment).items():
        require_choice(setting, backend, task.backend_names)


def check_machine(experiment: Experiment, models: Models) -> None:
    """Raise `UserError` if this machine cannot run the experiment: its devices cannot share a batch evenly, not even one
    search fits in its memory, or a package is missing."""
    devices = parallel.mesh(experiment.devices).size
    for learner in models.world.learners.values():
        size = learner.batch_size
        if size % devices:
            raise UserError(f"{learner.settings}batch_size is {size}, which {devices} devices cannot share evenly; take a "
                            f"multiple of {devices}, as {-(-size // devices) * devices}, or change --devices")  # fmt: skip
    if experiment.evolve.fitness == "dream":
        search = models.search(experiment.evolve.generations)
        work = side_by_side.bytes_at_work(experiment, models, search, devices)
        # Without the states that dreams start in: how many there are follows from what will be recorded.
        side_by_side.groups(experiment.evolve.evolutions, 0, search.bytes_at_rest(), work, machine.device_memory())
    for backend in _backends(experiment).values():
        # Fail now if a package is missing, not later.
        own(models.task.name_of("close"), models.task.make(backend).close)()


def _backends(experiment: Experiment) -> dict[str, str]:
    """The task's backends named in settings, by setting."""
    sections = {name: getattr(experiment, name) for name in ("collect", "evolve", "tune", "evaluate")}
    return {f"{name}.backend": section.backend for name, section in sections.items() if section.backend is not None}


def _check_unsearched(experiment: Experiment) -> None:
    """Raise `UserError` if settings ask to search for an actor that has no weights."""
    what = f"actor.kind is {experiment.actor.kind!r}, which, as set, has no weights to search for"
    if experiment.searched:
        raise UserError(f"{what}, but search.kind is {experiment.search.kind!r}; set search.kind to 'none' and "
                        "evolve.generations to 1, or choose another actor")  # fmt: skip
    evolve = experiment.evolve
    for name, found, right in (
        ("tune.generations", experiment.tune.generations, 0),
        ("rounds.generations", experiment.rounds.generations, 0),
        ("evolve.fitness", evolve.fitness, "dream"),
        # Repeated searches would all give the same result.
        ("evolve.seeds", evolve.seeds, 1),
        ("evolve.temperatures", evolve.temperatures, ()),
        ("explorer.kind", "noise" if experiment.exploring is None else experiment.explorer.kind, "noise"),
    ):
        if found != right:
            raise UserError(f"{what}, but {name} is {found!r}, which applies only to searches; set it to {right!r}")


def _check_dream(experiment: Experiment, models: Models) -> None:
    """Raise `UserError` if the dream's returns could not tell good controllers from bad ones."""
    models.dream.check()
    models.search(experiment.evolve.generations)
    if experiment.evolve.select == "dream" and not any(
        variant.temperature == experiment.dream.temperature for variant in side_by_side.variants(experiment)
    ):
        raise UserError(f"dream.temperature {experiment.dream.temperature} is not among evolve.temperatures, so no "
                        "search can be chosen for deployment; add it to evolve.temperatures, or set "
                        "evolve.select to 'actual'")  # fmt: skip
    missing = models.world.missing
    if experiment.dream.reward == "survival" and "end" in missing:
        other = "" if "reward" in missing else ", or set dream.reward to 'predicted'"
        raise UserError("dream.reward is 'survival' but the world model does not predict the end of an episode: every "
                        f"dream would score the same; {missing['end']}{other}")  # fmt: skip
