"""Small stand-ins for the documented main networks, hypernetworks and data handlers, and plain reference sums."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class MainNet(nn.Module):
    """An MLP with the documented interface: `forward(x, weights=...)`, `param_shapes`."""

    def __init__(self, sizes=(3, 4, 2), seed=0, own=True, dtype=torch.float64):
        super().__init__()
        self.param_shapes = [shape for a, b in itertools.pairwise(sizes) for shape in ([b, a], [b])]
        weights = [seeded(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(self.param_shapes)]
        self.weights = nn.ParameterList([nn.Parameter(w) for w in weights]) if own else None
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, weights=None):
        weights = list(self.weights) if weights is None else weights
        if isinstance(weights, dict):
            gain, weights = weights["mod_weights"][0], weights["internal_weights"]
        else:
            gain = None
        for i in range(0, len(weights), 2):
            x = F.linear(x, weights[i], weights[i + 1])
            if i + 2 < len(weights):
                x = self.dropout(torch.tanh(x if gain is None else x * gain))
        return x


class HyperNet(nn.Module):
    """A linear map of task embeddings to the weights of a main network."""

    def __init__(self, shapes, tasks=3, size=2, seed=7):
        super().__init__()
        self.shapes = [tuple(shape) for shape in shapes]
        count = sum(int(np.prod(shape)) for shape in self.shapes)
        self.theta = nn.ParameterList([nn.Parameter(0.5 * seeded(count, size, seed=seed))])
        self.embeddings = nn.ParameterList([nn.Parameter(seeded(size, seed=seed + 1 + t)) for t in range(tasks)])

    def forward(self, uncond_input=None, cond_id=None, weights=None):
        theta = self.theta if weights is None else weights["uncond_weights"]
        parts = torch.split(theta[0] @ self.embeddings[cond_id], [int(np.prod(shape)) for shape in self.shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]


class Handler:
    """A data handler with the documented interface, which fills `_data`; targets come as float tensors."""

    def __init__(self, inputs, targets, classification=True, one_hot=False, classes=2, dtype=torch.float64):
        self._data = {"in_data": np.asarray(inputs), "out_data": np.asarray(targets)}
        self.classification, self.is_one_hot, self.num_classes = classification, one_hot, classes
        self.out_shape = [self._data["out_data"].shape[-1]]
        self.dtype = dtype
        self.rng = np.random.default_rng(0)
        self.resets = 0
        self.sizes = []

    @property
    def num_train_samples(self):
        return len(self._data["in_data"])

    def reset_batch_generator(self, train=True, test=True, val=True):
        assert (train, test, val) == (True, False, False)
        self.resets += 1
        self.order = list(self.rng.permutation(self.num_train_samples))

    def next_train_batch(self, batch_size, use_one_hot=None, return_ids=False):
        self.sizes.append(batch_size)
        rows, self.order = np.array(self.order[:batch_size]), self.order[batch_size:]
        batch = [self._data["in_data"][rows], self._data["out_data"][rows]]
        return [*batch, rows] if return_ids else batch

    def input_to_torch_tensor(self, x, device, mode="train"):
        assert mode == "inference"
        return torch.from_numpy(x).to(device=device, dtype=self.dtype)

    output_to_torch_tensor = input_to_torch_tensor


class SequenceHandler(Handler):
    """Stores [N, S, F] and gives [S, N, F]."""

    def input_to_torch_tensor(self, x, device, mode="train"):
        return super().input_to_torch_tensor(x, device, mode).permute(1, 0, 2)

    output_to_torch_tensor = input_to_torch_tensor


def squares(params, terms):
    """Sum over given scalars of their squared gradients: a plain autograd loop."""
    sums = [torch.zeros_like(p) for p in params]
    for term in terms:
        gradients = torch.autograd.grad(term, params, retain_graph=True, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient**2
    return sums


def assert_close(found, expected, rtol=1e-10):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        scale = float(other.abs().max())
        assert torch.allclose(one.to(other), other, rtol=rtol, atol=rtol * scale), (one - other).abs().max() / scale
