"""V in PyTorch: the same layers, loss and optimiser."""

import numpy as np
import torch
from torch import nn

STEPS = 20
"""Training steps of a run on an accelerator."""


class Network(nn.Module):
    """The paper's convolutional variational autoencoder: frames [B, 3, 64, 64] in [0, 1]."""

    def __init__(self, latent_size: int):
        super().__init__()
        down, up = [3, 32, 64, 128, 256], [1024, 128, 64, 32, 3]
        self.down = nn.ModuleList([nn.Conv2d(down[i], down[i + 1], 4, stride=2) for i in range(4)])
        self.mean, self.log_var = nn.Linear(1024, latent_size), nn.Linear(1024, latent_size)
        self.dense = nn.Linear(latent_size, 1024)
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(up[i], up[i + 1], size, stride=2) for i, size in enumerate((5, 5, 6, 6))]
        )

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance [B, Z]."""
        for layer in self.down:
            frames = torch.relu(layer(frames))
        return self.mean(frames.flatten(1)), self.log_var(frames.flatten(1))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Frames of z [B, Z]."""
        x = self.dense(z)[:, :, None, None]
        for layer in self.up[:-1]:
            x = torch.relu(layer(x))
        return torch.sigmoid(self.up[-1](x))


class Opponent:
    """Trains and encodes one batch of frames [B, 64, 64, 3] uint8 on PyTorch's default device."""

    def __init__(self, frames: np.ndarray, latent_size: int, kl_floor: float):
        self.frames = torch.tensor(frames)
        self.network, self.floor = Network(latent_size), kl_floor * latent_size
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.steps = STEPS if self.frames.is_cuda else 1

    def _pixels(self) -> torch.Tensor:
        return self.frames.permute(0, 3, 1, 2).float() / 255

    def train(self) -> float:
        """Some training steps; returns the images in them."""
        for _ in range(self.steps):
            pixels = self._pixels()
            mean, log_var = self.network.encode(pixels)
            decoded = self.network.decode(mean + torch.exp(log_var / 2) * torch.randn_like(mean))
            kl = 0.5 * (mean**2 + torch.exp(log_var) - 1 - log_var).sum(dim=1)
            loss = ((pixels - decoded) ** 2).sum(dim=(1, 2, 3)).mean() + kl.clamp(min=self.floor).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return self._finished()

    @torch.inference_mode()
    def encode(self) -> float:
        """The posteriors of some batches; returns the images in them."""
        for _ in range(self.steps):
            self.network.encode(self._pixels())
        return self._finished()

    def _finished(self) -> float:
        if self.frames.is_cuda:
            torch.cuda.synchronize()
        return float(self.steps * len(self.frames))
