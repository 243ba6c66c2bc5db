"""What torchrun starts: python program.py WHAT FOLDER. Prints nothing; rank 0 leaves its results in the folder."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import warnings

import numpy as np
import torch
from torch import nn

import hnbayes
from hnbayes.distributed import Ranks, ShardedPotential

CHAINS, DIMENSION = 3, 4
OPTIONS = {"warmup": 40, "draws": 30, "seed": 4, "save_warmup": True, "progress": False}
RANK = int(os.environ.get("RANK", "0"))


def potential(q):
    z = q / torch.linspace(0.5, 2.0, DIMENSION, dtype=q.dtype)
    return 0.5 * z.square().sum() + 0.05 * z[0] ** 4


def starts():
    return torch.randn(CHAINS, DIMENSION, generator=torch.Generator().manual_seed(3))


class Asked(hnbayes.Potential):
    """One that is asked for each gradient, so that no tree grows in C, which rounds otherwise."""

    def __init__(self):
        super().__init__(potential)
        self.calls = 0

    def value_and_grad(self, positions):
        return super().value_and_grad(positions)


class Dies(Asked):
    """Kills its process in the middle of a run, on rank 1."""

    def value_and_grad(self, positions):
        self.calls += 1
        if RANK == 1 and self.calls == 200:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls > 200:  # so that the others have yet to end
            import time

            time.sleep(0.05)
        return super().value_and_grad(positions)


def chains(folder):
    draws = hnbayes.sample_potential(potential, starts(), **OPTIONS, cores=Ranks())
    if RANK == 0:
        draws.to_inference_data().to_netcdf(str(folder / "posterior.nc"))
        np.savez(folder / "draws.npz", positions=draws.positions.numpy(), warmup=draws.warmup_positions.numpy())


def dies(folder):
    hnbayes.sample_potential(
        Dies(), starts(), **OPTIONS, cores=Ranks(), checkpoint=folder / "run", checkpoint_every=0.1
    )


def resumes(folder):
    hnbayes.resume(folder / "run", Asked(), cores=Ranks(), progress=False)


def stores(folder):
    more = {"checkpoint": folder / "run", "checkpoint_every": 0.05, "storage": "zarr"}
    hnbayes.sample_potential(potential, starts(), **OPTIONS, cores=Ranks(), **more)


def fails(folder):
    def U(q):
        if RANK == 1 and float(q.detach().sum()) > -1e9:
            raise KeyError("of rank 1")
        return potential(q)

    hnbayes.sample_potential(U, starts(), **OPTIONS, cores=Ranks())


def rows():
    X = torch.randn(31, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    return net, X, X.prod(1, keepdim=True)


def flat(q):
    return q.new_zeros(())


def log_prior(q):
    return hnbayes.log_prob_standard_normal_prior(q, std=0.7)


def sharded(folder):
    net, X, y = rows()
    mine = slice(RANK, None, int(os.environ["WORLD_SIZE"]))
    U = ShardedPotential(hnbayes.nn_pot_energy(net, X[mine], y[mine], flat, tau_pred=10.0), log_prior)
    q = torch.randn(3, U.spec.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with U.leading() as leads:
        if leads:
            values, gradients = U.value_and_grad(q)
            alone = U.value(q)
            draws = hnbayes.sample_potential(U, q, warmup=20, draws=10, max_tree_depth=4, seed=0, progress=False)
            np.savez(
                folder / "sharded.npz",
                values=values.numpy(),
                gradients=gradients.numpy(),
                alone=alone.numpy(),
                positions=draws.positions.numpy(),
                names=np.array(list(draws.params())),
            )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]))
