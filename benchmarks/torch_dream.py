"""The dream as a batched loop in eager PyTorch: all dreams go forward together, a few calls a step."""

from typing import Any

import numpy as np
import torch

State = tuple[torch.Tensor, torch.Tensor]
"""h and c of the LSTM, [B, H] each."""


class Loop:
    """B dreams side by side on PyTorch's default device.

    Takes M's weights as `wm_jax` has them, the controllers [B, D] and first observations [B, Z] of the dreams.
    """

    def __init__(self, weights: dict[str, Any], population: np.ndarray, starts: np.ndarray, temperature: float):
        self.gates, self.head = ([torch.tensor(weights[name][part]) for part in ("bias", "kernel")]
                                 for name in ("gates", "head"))  # fmt: skip
        self.population, self.starts, self.temperature = torch.tensor(population), torch.tensor(starts), temperature
        self.hidden = self.gates[0].shape[0] // 4

    def act(self, z: torch.Tensor, state: State) -> torch.Tensor:
        """Each controller's action [B, A] on its own [z, c, h]."""
        features = torch.cat([z, state[1], state[0]], dim=1)
        return torch.tanh(torch.bmm(features[:, None], self.population.view(*features.shape, -1))[:, 0])

    def step(
        self, state: State, z: torch.Tensor, action: torch.Tensor, restart: torch.Tensor,
        uniform: torch.Tensor, normal: torch.Tensor,
    ) -> tuple[State, torch.Tensor, torch.Tensor]:  # fmt: skip
        """The states, the next z [B, Z] drawn with `uniform` [B, Z] and `normal` [B, Z], and which are over [B].

        `restart` [B, 1] is 1 where the state is to be forgotten.
        """
        h, c = state[0] * (1 - restart), state[1] * (1 - restart)
        i, f, g, o = torch.addmm(self.gates[0], torch.cat([z, action, restart, h], dim=1), self.gates[1]).chunk(
            4, dim=1
        )
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs = torch.addmm(self.head[0], h, self.head[1])
        logits, means, log_stds = outputs[:, :-1].view(len(z), 3, -1, z.shape[1]).unbind(dim=1)
        cumulative = torch.cumsum(torch.softmax(logits / self.temperature, dim=1), dim=1)
        chosen = (cumulative[:, :-1] <= (uniform * cumulative[:, -1])[:, None]).sum(dim=1, keepdim=True)
        mean, log_std = means.gather(1, chosen)[:, 0], log_stds.gather(1, chosen)[:, 0]
        return (h, c), mean + torch.exp(log_std) * self.temperature**0.5 * normal, outputs[:, -1] > 0

    @torch.inference_mode()
    def play(self, steps: int) -> float:
        """All dreams for `steps` steps; returns the steps of those alive."""
        z, state = self.starts, (torch.zeros(len(self.starts), self.hidden), torch.zeros(len(self.starts), self.hidden))
        alive, lived = torch.ones(len(z), dtype=torch.bool), torch.zeros(len(z))
        for step in range(steps):
            restart = torch.full((len(z), 1), float(step == 0))
            uniform, normal = torch.rand_like(z), torch.randn_like(z)
            state, z, done = self.step(state, z, self.act(z, state), restart, uniform, normal)
            lived += alive
            alive &= ~done
        return float(lived.sum())
