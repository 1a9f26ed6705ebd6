"""Scores for comparison with a run's: blind policies measured for this project, and published results.

All are returns in the actual environment, mean ± standard deviation over episodes.
"""

from dataclasses import dataclass

PAPER = "Ha & Schmidhuber 2018, arXiv:1803.10122"
LEADERBOARD = "Gym leaderboard, as quoted in arXiv:1803.10122"
ATTENTION = "Tang, Nguyen & Ha 2020, arXiv:2003.08165"
DROPOUT = "Wellmer & Kwok 2021, arXiv:2109.08342"
CTALLEC = "github.com/ctallec/world-models"
MEASURED = "measured for wm_jax: ViZDoom 1.3, skill 4"


@dataclass(frozen=True)
class Score:
    """A score from another source."""

    what: str
    mean: float
    sd: float | None
    """Standard deviation over episodes; None if the source does not give it."""
    n: int | None
    """Number of episodes; None if the source does not give it."""
    source: str
    dream: tuple[float, float] | None = None
    """(mean, sd) in the dream that C was evolved in, if it was and the source gives it."""
    temperature: float | None = None
    """τ of that dream."""

    @property
    def se(self) -> float | None:
        """Standard error, sd/√n; None if it is unknown."""
        return None if self.sd is None or self.n is None else self.sd / self.n**0.5


BLIND = {
    "take_cover": (
        Score("stand still", 151, 37, 40, MEASURED),
        Score("always right", 172, 45, 40, MEASURED),
        Score("always left", 186, 45, 40, MEASURED),
        Score("random, drawn anew each tic", 222, 98, 323, MEASURED),
        Score("random, held for 1 to 10 tics", 312, None, 320, MEASURED),
        Score("sweep: right and left in turn, 60 tics each", 520, 299, 150, MEASURED),
        Score("sweep, 70 tics each", 625, 367, 150, MEASURED),
        Score("sweep, 80 tics each", 697, 431, 150, MEASURED),
        Score("sweep, 90 tics each", 719, 456, 304, MEASURED),
        Score("sweep, 100 tics each", 754.5, 452.5, 1000, MEASURED),
        Score("sweep, 110 tics each", 743, 492, 304, MEASURED),
        Score("sweep, 120 tics each", 704, 501, 304, MEASURED),
        Score("sweep, 150 tics each", 479, 428, 150, MEASURED),
    ),
}
"""By task: policies that never look at the frame."""

STATE = {
    "swing_up": (
        Score("CMA-ES from the physical state", 920.1, 12.1, 100, "measured for wm_jax: experiments/swing_up_state.py"),
    ),
}
"""By task: the same kind of C, but reading the physical state and evolved in the environment itself."""

PUBLISHED = {
    "car_racing": (
        Score("DQN", 343, 18, None, LEADERBOARD),
        Score("A3C, continuous actions", 591, 45, None, LEADERBOARD),
        Score("A3C, discrete actions", 652, 10, None, LEADERBOARD),
        Score("best of the leaderboard", 838, 11, None, LEADERBOARD),
        Score("paper, V only, linear C", 632, 251, 100, PAPER),
        Score("paper, V only, C with a hidden layer", 788, 141, None, PAPER),
        Score("paper, V and M (C evolved on the actual track)", 906, 21, 100, PAPER),
        Score("ctallec, trained M (C evolved on the actual track)", 860, 120, None, CTALLEC),
        Score("ctallec, untrained M (C evolved on the actual track)", 870, 120, None, CTALLEC),
        Score("Dropout's Dream Land (C evolved in dreams)", 789, 180, None, DROPOUT),
        Score("AttentionAgent (evolved on the actual track)", 914, 15, None, ATTENTION),
    ),
    "take_cover": (
        Score("random (paper)", 210, 108, None, PAPER),
        Score("best of the leaderboard", 820, 58, None, LEADERBOARD),
        Score("paper, τ 0.10", 193, 58, 100, PAPER, (2086, 140), 0.1),
        Score("paper, τ 0.50", 196, 50, 100, PAPER, (2060, 277), 0.5),
        Score("paper, τ 1.00", 868, 511, 100, PAPER, (1145, 690), 1.0),
        Score("paper, τ 1.15", 1092, 556, 100, PAPER, (918, 546), 1.15),
        Score("paper, τ 1.30", 753, 139, 100, PAPER, (732, 269), 1.3),
        Score("a public controller, run again", 950, None, 560, "re-run of published weights"),
        Score("Dropout's Dream Land (C evolved in dreams)", 933, 552, None, DROPOUT),
        Score("AttentionAgent (evolved in the actual game)", 1125, 589, None, ATTENTION),
    ),
}
"""By task: results reported by others."""


def best_blind(task: str) -> Score | None:
    """The best blind policy of a task; None if none was measured."""
    return max(BLIND.get(task, ()), key=lambda score: score.mean, default=None)


def by_temperature(task: str) -> dict[float, Score]:
    """The published scores of a task, by the temperature of the dream that C was evolved in."""
    return {score.temperature: score for score in PUBLISHED.get(task, ()) if score.temperature is not None}
