"""What the diagonal Fisher matrix of a 64-100-10 network over scikit-learn's 1,797 digits costs, and how much memory.

Where they are installed, `hypnettorch` (`compute_fisher`, one sample at a time) and the diagonal backends of
`laplace-torch` run on the same weights and data in the same run, and results are compared. With `--memory`, a network
of a million parameters on 10,000 samples runs in a process of its own, whose peak memory is printed: once layer by
layer, once with gradients of single samples (a convolution).

    python tests/benchmarks/bench_fisher.py [--threads 1] [--memory]
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hnbayes.laplace import compute_fisher, diagonal_fisher

BACKENDS = {
    "empirical": ["BackPackEF", "AsdlEF", "CurvlinopsEF"],
    # CurvlinopsGGN forms the Jacobian of all outputs by all weights for all samples, and ran out of 23 GiB of memory.
    "exact": ["BackPackGGN", "AsdlGGN"],
}

MEMORY = """
import resource, sys, time, torch
from torch import nn
from hnbayes.laplace import diagonal_fisher
torch.set_num_threads({threads})
torch.manual_seed(0)
flat = sys.argv[1] == "linear"
net = nn.Sequential(
    *([nn.Flatten(), nn.Linear(64, 576)] if flat else [nn.Conv2d(1, 16, 3), nn.Flatten()]),
    nn.ReLU(), nn.Linear(576, 1700), nn.ReLU(), nn.Linear(1700, 10),
)
parameters = sum(p.numel() for p in net.parameters())
X, y = torch.randn(10_000, 1, 8, 8), torch.randint(10, (10_000,))
began = time.perf_counter()
result = diagonal_fisher(net, (X, y), kind="empirical")
assert result.used == 10_000
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{{parameters:,}} parameters, 10,000 samples, {{sys.argv[1]}}: {{time.perf_counter() - began:.1f}} s, "
      f"peak of the process {{peak:.2f}} GiB")
"""


class Digits:
    """A documented data handler."""

    classification, is_one_hot, num_classes, out_shape = True, True, 10, [10]

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        self._data = {"in_data": X.astype(np.float32), "out_data": np.eye(10)[y]}
        self.num_train_samples = len(X)

    def reset_batch_generator(self, train: bool = True, test: bool = True, val: bool = True) -> None:
        """Begin at the first sample."""
        self.next = 0

    def next_train_batch(self, batch_size: int, use_one_hot: bool | None = None, return_ids: bool = False) -> list[Any]:
        """The next samples."""
        rows = np.arange(self.next, self.next + batch_size)
        self.next += batch_size
        batch = [self._data["in_data"][rows], self._data["out_data"][rows]]
        return [*batch, rows] if return_ids else batch

    def input_to_torch_tensor(self, x: np.ndarray, device: Any, mode: str = "train") -> Tensor:
        """As floats."""
        return torch.from_numpy(x).float().to(device)

    output_to_torch_tensor = input_to_torch_tensor


def seconds(call: Callable[[], object], rounds: int) -> float:
    """The shortest time of a call, after one to warm up."""
    call()
    times = []
    while len(times) < rounds and sum(times) < 1:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def network(seed: int = 0) -> nn.Sequential:
    """The 64-100-10 network."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def against_hypnettorch(handler: Digits, expected: list[Tensor], rounds: int) -> None:
    """Time its `compute_fisher`, ours on the same network and handler, and print the ratio."""
    try:
        mlp = importlib.import_module("hypnettorch.mnets.mlp")
        theirs = importlib.import_module("hypnettorch.utils.ewc_regularizer")
    except ImportError:
        print("hypnettorch isn't installed")
        return
    net = mlp.MLP(n_in=64, n_out=10, hidden_layers=[100], verbose=False)
    for p, value in zip(net.weights, network().parameters(), strict=True):
        p.data.copy_(value)
    params = list(net.weights)
    one = seconds(lambda: theirs.compute_fisher(0, handler, params, "cpu", net), 1)
    fisher = [net._buffers[f"ewc_fisher_estimate_task_0_weights_{i}"].clone() for i in range(4)]
    ours = seconds(lambda: compute_fisher(0, handler, params, "cpu", net), rounds)
    again = [net._buffers[f"ewc_fisher_estimate_task_0_weights_{i}"] for i in range(4)]
    print(
        f"hypnettorch {one * 1e3:8.1f} ms; compute_fisher with its network and the same handler {ours * 1e3:.1f} ms: "
        f"{one / ours:.0f} times faster; difference {difference(again, fisher):.1e}"
        f" and from the module's {difference(fisher, [e / 1797 for e in expected]):.1e}"
    )


def against_laplace(kind: str, X: Tensor, y: Tensor, expected: list[Tensor], ours: float, rounds: int) -> None:
    """Time the diagonal backends of laplace-torch and print ours beside the fastest."""
    try:
        curvature = importlib.import_module("laplace.curvature")
    except ImportError:
        print("laplace-torch isn't installed")
        return
    times = {}
    for name in BACKENDS[kind]:
        backend = getattr(curvature, name)(network(), "classification")
        try:
            found = backend.diag(X, y, N=len(X))[1]
            times[name] = seconds(lambda backend=backend: backend.diag(X, y, N=len(X)), rounds)
        except Exception as error:  # backends depend on versions of their own libraries
            print(f"  {name}: {type(error).__name__}: {str(error)[:90]}")
            continue
        flat = torch.cat([e.flatten() for e in expected])
        print(f"  {name:14} {times[name] * 1e3:8.2f} ms, difference {difference([found], [flat]):.1e}")
    if times:
        print(f"  hnbayes / fastest = {ours / min(times.values()):.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    digits = load_digits()
    X, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    for kind in BACKENDS:
        net = network()
        expected = diagonal_fisher(net, (X, y), kind=kind).total
        ours = seconds(lambda net=net, kind=kind: diagonal_fisher(net, (X, y), kind=kind), args.rounds)
        print(f"{kind} Fisher: hnbayes {ours * 1e3:.2f} ms")
        against_laplace(kind, X, y, expected, ours, args.rounds)
        if kind == "empirical":
            against_hypnettorch(Digits(digits.data / 16, digits.target), expected, args.rounds)
    if args.memory:
        for form in ("linear", "convolution"):
            command = [sys.executable, "-c", MEMORY.format(threads=args.threads), form]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
