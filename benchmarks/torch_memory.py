"""M in PyTorch: nn.LSTM and a mixture density head, the same loss and optimiser.

`nn.LSTM` cannot forget its state within a sequence; here it need not, because every sequence lies within one episode.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

STEPS = 20
"""Training steps of a run on an accelerator."""


class Network(nn.Module):
    """`config` is a `wm_jax.memory.MemoryConfig`; the same weights but for the LSTM's second bias, which is held at 0."""

    def __init__(self, latent_size: int, action_size: int, config: Any):
        super().__init__()
        self.config, self.latent_size = config, latent_size
        self.lstm = nn.LSTM(latent_size + action_size + config.restart_input, config.hidden_size)
        nn.init.zeros_(self.lstm.get_parameter("bias_hh_l0")).requires_grad_(False)
        self.head = nn.Linear(config.hidden_size, 3 * config.mixtures * latent_size + config.predict_done)

    def loss(self, z: torch.Tensor, action: torch.Tensor, next_z: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """From z [T, B, Z], action [T, B, A], next_z [T, B, Z] and done [T, B]; each sequence begins an episode."""
        parts = [z, action]
        if self.config.restart_input:
            parts.append((torch.arange(len(z)) == 0)[:, None, None].expand(*z.shape[:2], 1))
        outputs = self.head(self.lstm(torch.cat(parts, dim=2))[0])
        mixture = outputs[..., : 3 * self.config.mixtures * self.latent_size]
        logits, means, log_stds = mixture.view(*z.shape[:2], 3, self.config.mixtures, -1).unbind(dim=2)
        deviation = (next_z[:, :, None] - means) * torch.exp(-log_stds)
        log_density = -0.5 * (deviation**2 + math.log(2 * math.pi)) - log_stds
        loss = -torch.logsumexp(torch.log_softmax(logits, dim=2) + log_density, dim=2).mean()
        if self.config.predict_done:
            entropy = nn.functional.binary_cross_entropy_with_logits(outputs[..., -1], done, reduction="none")
            loss = loss + (entropy * torch.where(done > 0, self.config.done_weight, 1.0)).mean()
        return loss


class Opponent:
    """Trains on one batch: the frames' posteriors [B, T + 1, Z], unit variance, and actions [B, T, A]."""

    def __init__(self, mean: np.ndarray, action: np.ndarray, config: Any):
        self.mean, self.action = (torch.tensor(np.swapaxes(array, 0, 1)) for array in (mean, action))
        self.network = Network(mean.shape[2], action.shape[2], config)
        trained = [weights for weights in self.network.parameters() if weights.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=config.optimizer.learning_rate)
        self.steps = STEPS if self.mean.is_cuda else 1

    def train(self) -> float:
        """Some training steps; returns the sequence steps in them."""
        done = torch.zeros(self.action.shape[:2])
        for _ in range(self.steps):
            z = self.mean + torch.randn_like(self.mean)
            loss = self.network.loss(z[:-1], self.action, z[1:], done)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(self.network.parameters(), 1.0)
            self.optimizer.step()
        if self.mean.is_cuda:
            torch.cuda.synchronize()
        return float(self.steps * done.numel())
