"""The dream as the paper's released code plays it: one agent, one step after another, in NumPy."""

from typing import Any

import numpy as np

State = tuple[np.ndarray, np.ndarray]
"""h and c of the LSTM, [H] each."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Loop:
    """Dreams that are played one after the other.

    Takes M's weights as `wm_jax` has them, the controllers [N, D] and first observations [N, Z] of N dreams.
    """

    def __init__(self, weights: dict[str, Any], population: np.ndarray, starts: np.ndarray, temperature: float):
        self.gates, self.head = weights["gates"], weights["head"]
        self.population, self.starts, self.temperature = population, starts, np.float32(temperature)
        self.hidden, self.number = self.gates["kernel"].shape[1] // 4, 0

    def act(self, weights: np.ndarray, z: np.ndarray, state: State) -> np.ndarray:
        """C's action [A] on [z, c, h]."""
        features = np.concatenate([z, state[1], state[0]])
        return np.tanh(features @ weights.reshape(len(features), -1))

    def step(
        self, state: State, z: np.ndarray, action: np.ndarray, restart: float, uniform: np.ndarray, normal: np.ndarray
    ) -> tuple[State, np.ndarray, bool]:
        """The state, the next z [Z] drawn with `uniform` [Z] and `normal` [Z], and whether the dream is over."""
        inputs = np.concatenate([z, action, np.array([restart], np.float32), state[0] * np.float32(1 - restart)])
        i, f, g, o = np.split(inputs @ self.gates["kernel"] + self.gates["bias"], 4)
        c = _sigmoid(f) * state[1] * np.float32(1 - restart) + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        outputs = h @ self.head["kernel"] + self.head["bias"]
        logits, means, log_stds = outputs[:-1].reshape(3, -1, len(z))
        logits = logits / self.temperature
        share = np.exp(logits - logits.max(axis=0))
        chosen = (np.cumsum(share, axis=0)[:-1] <= uniform * share.sum(axis=0)).sum(axis=0)
        place = np.arange(len(z))
        z = means[chosen, place] + np.exp(log_stds[chosen, place]) * np.sqrt(self.temperature) * normal
        return (h, c), z, bool(outputs[-1] > 0)

    def play(self, steps: int) -> float:
        """The next dream, up to `steps` steps of it; returns how many there were."""
        number = self.number = (self.number + 1) % len(self.population)
        generator = np.random.default_rng(number)
        z, weights = self.starts[number], self.population[number]
        state = (np.zeros(self.hidden, np.float32), np.zeros(self.hidden, np.float32))
        for step in range(steps):
            uniform, normal = generator.random(len(z), np.float32), generator.standard_normal(len(z), np.float32)
            state, z, done = self.step(state, z, self.act(weights, z, state), float(step == 0), uniform, normal)
            if done:
                return step + 1.0
        return float(steps)
