"""The Python blocks of docs/continual.md run, and what the page says of them is so."""

from __future__ import annotations

import torch
from pages import DOCS, run_blocks

from hnbayes.laplace import ewc_regularizer, si_regularizer


def test_python_blocks_run():
    names = run_blocks(DOCS / "continual.md")
    for X, y in names["tasks"]:
        for net in (names["net"], names["si_net"]):
            assert (net(X).argmax(-1) == y).float().mean() > 0.8  # labels are noisy: no network gets all
    # The table: the Gaussians are the penalties. Two points take the constant away.
    penalties = {
        "ewc_prior": (names["net"], lambda params: ewc_regularizer(2, params, names["net"])),
        "si_prior": (names["si_net"], lambda params: si_regularizer(names["si_net"], params)),
    }
    for name, (net, penalty) in penalties.items():
        gaussian = names[name]
        points = [[p.detach() + shift for p in net.parameters()] for shift in (0.0, 0.1)]
        for point in points:
            for p in point:
                p.requires_grad_()
        flat = [gaussian.spec.flatten(point) for point in points]
        base = [0.5 * (q - gaussian.mean).square().sum() for q in flat]  # base_precision = 1
        found = gaussian.log_prob(flat[0]) - gaussian.log_prob(flat[1])
        expected = 0.5 * (penalty(points[1]) - penalty(points[0])) + base[1] - base[0]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert names["belief"].mean.shape == (42,)
    assert names["mcmc"].get_samples(group_by_chain=True)["0.weight"].shape == (2, 30, 8, 2)
