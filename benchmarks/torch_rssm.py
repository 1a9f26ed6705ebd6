"""The RSSM of DreamerV3 in PyTorch: the same layers, losses and optimiser, but for its clipping, which is by the gradient's
norm here. Eager, with a loop over the steps of a sequence.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import log_softmax, one_hot, silu, softmax

STEPS = 5
"""Training steps of a run on an accelerator."""
BINS, LARGEST = 255, 20.0


class Hidden(nn.Module):
    """A layer, its sums scaled to a root mean square of 1, and SiLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.dense, self.scale = nn.Linear(inputs, outputs), nn.Parameter(torch.ones(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] to [..., O]"""
        return activate(self.dense(x), self.scale)


def activate(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """RMSNorm and SiLU."""
    return silu(x / torch.sqrt((x**2).mean(dim=-1, keepdim=True) + 1e-4) * scale)


class BlockGRU(nn.Module):
    """A GRU whose state [..., D] is cut into blocks; the gates of each read a hidden layer of that block and all inputs."""

    def __init__(self, inputs: int, size: int, blocks: int):
        super().__init__()
        part = size // blocks
        self.blocks = blocks
        self.hidden = nn.Parameter(torch.randn(blocks, inputs + part, part) * (inputs + part) ** -0.5)
        self.hidden_bias, self.scale = nn.Parameter(torch.zeros(blocks, part)), nn.Parameter(torch.ones(size))
        self.gates = nn.Parameter(torch.randn(blocks, part, 3 * part) * part**-0.5)
        self.gates_bias = nn.Parameter(torch.zeros(blocks, 3 * part))

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The state [B, D] after the inputs x [B, I]."""
        parts = state.view(len(state), self.blocks, -1)
        everywhere = x[:, None].expand(-1, self.blocks, -1)
        inputs = torch.cat([everywhere, parts], dim=-1).transpose(0, 1)
        sums = torch.baddbmm(self.hidden_bias[:, None], inputs, self.hidden).transpose(0, 1)
        hidden = activate(sums.reshape(state.shape), self.scale).view(parts.shape).transpose(0, 1)
        gates = torch.baddbmm(self.gates_bias[:, None], hidden, self.gates).transpose(0, 1)
        reset, candidate, update = (gate.reshape(state.shape) for gate in gates.chunk(3, dim=-1))
        share = torch.sigmoid(update - 1)
        return share * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - share) * state


class Network(nn.Module):
    """`config` is a `wm_jax.rssm.RSSMConfig` with categorical variables, normalised hidden layers and a two-hot reward."""

    def __init__(self, config: Any, action_size: int):
        super().__init__()
        self.config = config
        width, hidden = config.width, config.hidden_size
        deterministic, stochastic, seen = config.deterministic_size, config.variables * config.classes, 32 * width
        features = deterministic + stochastic
        down, up = [3, width, 2 * width, 4 * width, 8 * width], [seen, 4 * width, 2 * width, width, 3]
        self.down = nn.ModuleList([nn.Conv2d(down[i], down[i + 1], 4, stride=2) for i in range(4)])
        self.dense = nn.Linear(features, seen)
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(up[i], up[i + 1], size, stride=2) for i, size in enumerate((5, 5, 6, 6))]
        )
        self.inputs = nn.ModuleList([Hidden(size, hidden) for size in (deterministic, stochastic, action_size)])
        self.gru = BlockGRU(3 * hidden, deterministic, config.blocks)
        between = [Hidden(hidden, hidden) for _ in range(config.prior_layers - 1)]
        self.prior_head = nn.Sequential(Hidden(deterministic, hidden), *between, nn.Linear(hidden, stochastic))
        self.posterior_head = nn.Sequential(Hidden(deterministic + seen, hidden), nn.Linear(hidden, stochastic))
        sizes = [features, *[config.head_size] * config.head_layers]
        layers = [Hidden(sizes[i], sizes[i + 1]) for i in range(config.head_layers)]
        self.reward = nn.Sequential(*layers, nn.Linear(sizes[-1], BINS))
        half = torch.expm1(torch.linspace(0, LARGEST, BINS // 2 + 1))
        self.register_buffer("values", torch.cat([-half.flip(0)[:-1], half]))

    def log_probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """Of each value of each variable, the uniform share mixed in."""
        config = self.config
        logits = outputs.view(*outputs.shape[:-1], config.variables, config.classes)
        return torch.log((1 - config.unimix) * softmax(logits, dim=-1) + config.unimix / config.classes)

    def draw(self, distribution: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """One value of each variable, by a number of [0, 1); straight-through."""
        probabilities = torch.exp(distribution)
        ends = probabilities.detach()[..., :-1].cumsum(dim=-1)
        chosen = one_hot((noise[..., None] >= ends).sum(dim=-1), self.config.classes).float()
        return (chosen + probabilities - probabilities.detach()).flatten(-2)

    def follow(self, deterministic: torch.Tensor, stochastic: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """The next deterministic state."""
        parts = zip(self.inputs, (deterministic, stochastic, action), strict=True)
        return self.gru(torch.cat([layer(part) for layer, part in parts], dim=-1), deterministic)

    def loss(
        self, frames: torch.Tensor, action: torch.Tensor, reward: torch.Tensor, noise: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        """From frames [T, B, 64, 64, 3] uint8, action [T, B, A] and reward [T, B] of an episode in each lane, with
        numbers of [0, 1) for the posteriors [T, B, S] and for the state after the last action [B, S]."""
        steps, lanes = reward.shape
        pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        x = pixels
        for layer in self.down:
            x = torch.relu(layer(x))
        # Rows, columns, channels, as ours.
        embedded = x.permute(0, 2, 3, 1).reshape(steps, lanes, -1)
        nothing = torch.zeros(lanes, self.config.variables * self.config.classes)
        deterministic = self.follow(
            torch.zeros(lanes, self.config.deterministic_size), nothing, torch.zeros_like(action[0])
        )
        states, draws, posteriors = [deterministic], [], []
        for t in range(steps):
            posterior = self.log_probabilities(self.posterior_head(torch.cat([deterministic, embedded[t]], dim=-1)))
            stochastic = self.draw(posterior, noise[t])
            deterministic = self.follow(deterministic, stochastic, action[t])
            posteriors.append(posterior)
            draws.append(stochastic)
            states.append(deterministic)
        posterior, all_states = torch.stack(posteriors), torch.stack(states)
        draws.append(self.draw(self.log_probabilities(self.prior_head(all_states[-1])), last))
        features = torch.cat([all_states, torch.stack(draws)], dim=-1)
        prior = self.log_probabilities(self.prior_head(all_states[:-1]))
        x = self.dense(features[:-1].flatten(0, 1))[:, :, None, None]
        for layer in self.up[:-1]:
            x = torch.relu(layer(x))
        image = ((torch.sigmoid(self.up[-1](x)) - pixels) ** 2).sum(dim=(1, 2, 3)).mean()
        outputs = self.reward(features[1:])
        above = torch.searchsorted(self.values, reward, right=True).clamp(1, BINS - 1)
        low, high = self.values[above - 1], self.values[above]
        share = (reward - low) / (high - low)
        logs = log_softmax(outputs, dim=-1)
        below, upon = (logs.gather(-1, number[..., None])[..., 0] for number in (above - 1, above))
        told = -((1 - share) * below + share * upon).mean()
        config = self.config
        learned = (torch.exp(posterior.detach()) * (posterior.detach() - prior)).sum(dim=(-2, -1))
        back = (torch.exp(posterior) * (posterior - prior.detach())).sum(dim=(-2, -1))
        kl = (config.prior_weight * learned.clamp(min=config.free_nats)
              + config.posterior_weight * back.clamp(min=config.free_nats)).mean()  # fmt: skip
        return config.image_weight * image + config.reward_weight * told + kl


class Opponent:
    """Trains on one batch on PyTorch's default device: frames [T, B, 64, 64, 3] uint8, action [T, B, A], reward [T, B]."""

    def __init__(self, frames: np.ndarray, action: np.ndarray, reward: np.ndarray, config: Any):
        self.batch = tuple(torch.tensor(array) for array in (frames, action, reward))
        self.network, self.config = Network(config, action.shape[-1]), config
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.optimizer.learning_rate)
        self.steps = STEPS if self.batch[0].is_cuda else 1

    def train(self) -> float:
        """Some training steps; returns the frames in them."""
        steps, lanes = self.batch[2].shape
        for _ in range(self.steps):
            noise = torch.rand(steps + 1, lanes, self.config.variables)
            loss = self.network.loss(*self.batch, noise[:-1], noise[-1])
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 100.0)
            self.optimizer.step()
        if self.batch[0].is_cuda:
            torch.cuda.synchronize()
        return float(self.steps * steps * lanes)
