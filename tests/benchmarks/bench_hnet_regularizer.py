"""The hypernetwork regulariser for 20 tasks: one call for all tasks against a call a task.

    python tests/benchmarks/bench_hnet_regularizer.py

Value and gradient, on one thread, the median of repetitions. The expected ratio is at least 5.
"""

from __future__ import annotations

import statistics
import time

import torch

from hnbayes.hnets import HMLP, ChunkedHMLP, calc_fix_target_reg, get_current_targets
from hnbayes.mnets import MLP

TASKS = 20


def one_call_a_task(hnet, targets):
    """The sum as it is usually written."""
    total = 0
    for j in range(TASKS):
        weights = hnet.forward(cond_id=j)
        total = total + sum((w - t).square().sum() for w, t in zip(weights, targets[j], strict=True))
    return total / TASKS


def seconds(*functions, rounds=5, repetitions=10):
    """Medians; the functions take turns, so that what else the machine does meets all of them."""
    times = [[] for _ in functions]
    for _ in range(rounds):
        for function, own in zip(functions, times, strict=True):
            function()
            for _ in range(repetitions):
                start = time.perf_counter()
                function()
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def compare(name, hnet):
    targets = get_current_targets(TASKS, hnet)
    with torch.no_grad():
        for p in hnet.parameters():
            p.add_(0.01 * torch.randn_like(p))
    parameters = list(hnet.parameters())

    def run(value):
        return lambda: torch.autograd.grad(value(), parameters, allow_unused=True)

    loop = run(lambda: one_call_a_task(hnet, targets))
    ours = run(lambda: calc_fix_target_reg(hnet, TASKS, targets=targets))
    for a, b in zip(loop(), ours(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    slow, fast = seconds(loop, ours)
    print(
        f"{name:<34} {hnet.num_outputs:>7} weights: {slow * 1e3:7.1f} ms, {fast * 1e3:6.1f} ms, ratio {slow / fast:.1f}"
    )


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # glibc's allocator gives memory back to the system, page by page, until a larger array has been freed once. After
    # the first batch of most trainings it has; here both ways would be timed with some thousand page faults a call.
    torch.zeros(7_000_000)
    for hidden in ((10, 10), (32,), (100, 100)):
        shapes = MLP(64, 10, hidden, no_weights=True, verbose=False).param_shapes
        shared = {"cond_in_size": 8, "layers": (50, 50), "num_cond_embs": TASKS, "verbose": False}
        compare(f"HMLP, main network 64-{hidden}-10", HMLP(shapes, **shared))
        chunk = sum(torch.Size(s).numel() for s in shapes) // 10
        compare("ChunkedHMLP, 10 chunks", ChunkedHMLP(shapes, chunk, **shared))


if __name__ == "__main__":
    main()
