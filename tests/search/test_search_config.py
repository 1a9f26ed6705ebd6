import pytest

from wm_jax.errors import UserError
from wm_jax.search.cma_es import CMAESConfig
from wm_jax.search.config import EvolveConfig, TuneConfig


@pytest.mark.parametrize(
    "setting",
    [
        {"select": "best"}, {"generations": 0}, {"evaluate_every": 0}, {"evaluation_rollouts": 0}, {"environments": 0},
        {"fitness": "real"}, {"seeds": 0}, {"temperatures": (1.0, 0.0)},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=rf"evolve\.{next(iter(setting))}"):
        EvolveConfig(**setting)


def test_selection_in_the_actual_environment_needs_episodes_there():
    with pytest.raises(UserError, match=r"evolve\.actual_episodes must be at least 1"):
        EvolveConfig(select="actual", actual_episodes=0)


def test_what_only_a_dream_has_is_refused_in_the_actual_environment_and_the_other_way_about():
    with pytest.raises(UserError, match=r"evolve\.select is 'dream' but evolve\.fitness is 'actual'"):
        EvolveConfig(fitness="actual")
    with pytest.raises(UserError, match=r"evolve\.temperatures is \(1\.0,\) but evolve\.fitness is 'actual'"):
        EvolveConfig(fitness="actual", select="actual", temperatures=(1.0,))
    with pytest.raises(UserError, match=r"evolve\.max_steps is 9 but evolve\.fitness is 'dream'"):
        EvolveConfig(max_steps=9)
    with pytest.raises(UserError, match=r"evolve\.patience is 9 but evolve\.fitness is 'dream'"):
        EvolveConfig(patience=9)


@pytest.mark.parametrize(
    ("generations", "every", "evaluated"),
    [(4, 2, [2, 4]), (5, 2, [2, 4, 5]), (2, 25, [2]), (2, 1, [1, 2]), (1, 1, [1])],
)
def test_every_so_many_generations_and_the_last_are_evaluated(generations, every, evaluated):
    assert EvolveConfig(generations=generations, evaluate_every=every).evaluated == evaluated


def test_a_temperature_is_named_once():
    with pytest.raises(UserError, match=r"evolve\.temperatures has 1\.0 more than once.*evolve\.seeds"):
        EvolveConfig(temperatures=(1.0, 1.5, 1.0))
    assert EvolveConfig(temperatures=(1.0, 1.5), seeds=3).evolutions == 6 and EvolveConfig(seeds=3).evolutions == 3


def test_tuning_is_a_search_in_the_actual_environment_of_its_own_settings():
    config = TuneConfig(
        generations=7, search=CMAESConfig(population=12, rollouts=3, sigma=0.02), patience=60, backend="envpool"
    )
    evolution = config.as_evolution
    assert (evolution.fitness, evolution.select, evolution.evolutions) == ("actual", "actual", 1)
    assert (evolution.generations, evolution.patience, evolution.backend, evolution.actual_episodes) == (
        7, 60, "envpool", 8,
    )  # fmt: skip
    assert config.search == CMAESConfig(population=12, rollouts=3, sigma=0.02)
    assert TuneConfig().search == CMAESConfig(sigma=0.03), "smaller than where a search begins"


@pytest.mark.parametrize(
    "setting", [{"generations": -1}, {"evaluate_every": 0}, {"actual_episodes": 0}, {"environments": 0}, {"max_steps": 0},
                {"patience": 0}]
)  # fmt: skip
def test_impossible_tuning_is_refused(setting):
    with pytest.raises(UserError, match=rf"tune\.{next(iter(setting))}"):
        TuneConfig(**setting)
