"""Train a classifier of digits from the command line, then sample the posterior that starts at its best checkpoint.

    python examples/train_script.py                                      # about a minute
    python examples/train_script.py --quick                              # at most 40 seconds
    python examples/train_script.py --net_type chunked_mlp --use_adam --lr 0.003
    python examples/train_script.py --resume out/train_script --epochs 200

Every part is the package's: groups of options, output folder, logger, TensorBoard (`tensorboard --logdir out`),
optimiser, checkpoints. A run that was stopped, by whatever, goes on from its newest checkpoint with --resume and ends
with the numbers it would have ended with. The output folder gets log, options, checkpoints and posterior.nc. How well
the chains agree is said too: runs as short as these predict well before they agree.
"""

from __future__ import annotations

import argparse
import logging
import math
import pathlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hnbayes
from hnbayes.data import load
from hnbayes.sampling.callbacks import TensorBoard
from hnbayes.utils.cli_args import (
    check_invalid_argument_usage,
    eval_args,
    main_net_args,
    miscellaneous_args,
    train_args,
)
from hnbayes.utils.sim_utils import calc_train_iter, get_mnet_model, setup_environment
from hnbayes.utils.torch_ckpts import get_best_ckpt_path, load_checkpoint, save_checkpoint
from hnbayes.utils.torch_utils import get_optimizer

Data = tuple[Tensor, Tensor]
CHECKPOINTS = "checkpoints"
# An epoch's order of the training data is a function of the seed and the epoch, so that a resumed run sees the same.
ORDER_KEY = 3


def arguments(line: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    main_net_args(parser, ["mlp", "chunked_mlp"], dmlp_arch="32", dcmlp_in_cdim=16, show_specnorm=False)
    train_args(
        parser, show_lr=True, show_epochs=True, depochs=100, dbatch_size=64, show_use_adam=True, show_use_rmsprop=True,
        show_clip_grad_value=True, show_clip_grad_norm=True,
    )  # fmt: skip
    eval_args(parser, dval_iter=50, show_val_set_size=True, dval_set_size=200)
    miscellaneous_args(parser, big_data=False, dout_dir="out/train_script")
    posterior = parser.add_argument_group("Posterior")
    posterior.add_argument("--prior_sd", type=float, default=1.0, help="standard deviation of the weights' prior")
    posterior.add_argument("--chains", type=int, default=4)
    posterior.add_argument("--warmup", type=int, default=150, help="transitions of warm-up a chain")
    posterior.add_argument("--draws", type=int, default=150, help="draws a chain; 0 for training alone")
    parser.add_argument("--resume", type=pathlib.Path, metavar="FOLDER", help="output folder of a run that is to go on")
    parser.add_argument("--quick", action="store_true", help="fewer epochs and draws")
    if parser.parse_known_args(line)[0].quick:
        parser.set_defaults(epochs=40, warmup=60, draws=40, chains=2)
    args = parser.parse_args(line)
    try:
        check_invalid_argument_usage(args)
    except ValueError as error:
        parser.error(str(error))
    if min(args.batch_size, args.val_iter, args.val_set_size, args.chains) < 1 or args.draws < 0:
        parser.error("batch_size, val_iter, val_set_size and chains must be at least 1, draws at least 0")
    if args.resume is not None and not any(args.resume.glob(f"{CHECKPOINTS}/net_*")):
        parser.error(f"--resume must name the output folder of a run with checkpoints; {args.resume} has none")
    return args


@dataclass(frozen=True)
class Digits:
    """The three parts of the data, inputs (N, 64) and labels (N,)."""

    train: Data
    val: Data
    test: Data


def digits(val_size: int, seed: int, device: torch.device) -> Digits:
    """Scikit-learn's digits."""
    data = load("digits", val=val_size / 1797, seed=seed)
    parts = []
    for split in ("train", "val", "test"):
        x = getattr(data, f"get_{split}_inputs")()
        y = getattr(data, f"get_{split}_outputs")(use_one_hot=False)
        inputs = data.input_to_torch_tensor(x, device).flatten(1)
        parts.append((inputs, data.output_to_torch_tensor(y, device)))
    return Digits(*parts)


def batch(data: Data, iteration: int, size: int, seed: int) -> Data:
    """The batch of an iteration, which depends on nothing else; the last of an epoch may be smaller."""
    per_epoch = math.ceil(len(data[0]) / size)
    epoch, at = divmod(iteration, per_epoch)
    order = np.random.default_rng((seed, ORDER_KEY, epoch)).permutation(len(data[0]))
    rows = torch.as_tensor(order[at * size : (at + 1) * size], device=data[0].device)
    return data[0][rows], data[1][rows]


def evaluate(net: nn.Module, data: Data) -> tuple[float, float]:
    """Accuracy and log likelihood of a point."""
    net.eval()
    with torch.no_grad():
        logits = net.forward(data[0])
    net.train()
    return float((logits.argmax(1) == data[1]).double().mean()), -float(nn.functional.cross_entropy(logits, data[1]))


class Training:
    """A network, its optimiser and how far they have come.

    Args:
        args: the options.
        net: the network.
        folder: where its checkpoints are.
        writer: TensorBoard's.
        logger: for messages.
    """

    def __init__(
        self, args: argparse.Namespace, net: nn.Module, folder: pathlib.Path, writer: Any, logger: logging.Logger
    ) -> None:
        self.args, self.net, self.writer, self.logger = args, net, writer, logger
        self.series = str(folder / "net")
        self.iteration = 0
        self.optimizer = get_optimizer(
            list(net.parameters()), args.lr, momentum=args.momentum, weight_decay=args.weight_decay,
            use_adam=args.use_adam, adam_beta1=args.adam_beta1, use_rmsprop=args.use_rmsprop,
        )  # fmt: skip

    def resume(self) -> None:
        """Go back to the newest checkpoint."""
        paths = pathlib.Path(self.series).parent.glob("net_*")
        path = max(paths, key=lambda p: int(p.name.rpartition("_")[2]))
        content = load_checkpoint(path, self.net)
        self.optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["random"])
        self.iteration = content["train_iter"]
        self.logger.info("Resumed from %s.", path)

    def run(self, data: Digits, last: int) -> None:
        """Train up to an iteration, with a validation and a checkpoint every `val_iter`."""
        self.net.train()
        while self.iteration < last:
            x, y = batch(data.train, self.iteration, self.args.batch_size, self.args.random_seed)
            loss = nn.functional.cross_entropy(self.net.forward(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            if self.args.clip_grad_value != -1:
                nn.utils.clip_grad_value_(self.net.parameters(), self.args.clip_grad_value)
            if self.args.clip_grad_norm != -1:
                nn.utils.clip_grad_norm_(self.net.parameters(), self.args.clip_grad_norm)
            self.optimizer.step()
            self.iteration += 1
            self.writer.add_scalar("train/loss", loss.item(), self.iteration)
            if self.iteration % self.args.val_iter == 0 or self.iteration == last:
                self.validate(data.val)

    def validate(self, data: Data) -> None:
        """Measure, report, and keep a checkpoint, whose score is the log likelihood."""
        accuracy, log_likelihood = evaluate(self.net, data)
        self.writer.add_scalar("val/accuracy", accuracy, self.iteration)
        self.writer.add_scalar("val/log_likelihood", log_likelihood, self.iteration)
        self.logger.debug("%d: val accuracy %.3f, log likelihood %.3f", self.iteration, accuracy, log_likelihood)
        content = {
            "state_dict": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "train_iter": self.iteration,
            "options": self.args,
        }
        save_checkpoint(content, self.series, log_likelihood, self.iteration, max_ckpts_to_keep=3)


def sample(
    args: argparse.Namespace, net: nn.Module, data: Digits, writer: Any, logger: logging.Logger
) -> hnbayes.Posterior:
    """The posterior of a network's weights, its chains started at those it has."""
    with warnings.catch_warnings():
        # Runs this short warn of trees that are cut off and of low energy information; the report says it too.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*(diverged|tree depth|E-BFMI).*")
        post = hnbayes.sample(
            net.eval(), *data.train, likelihood="categorical", prior=args.prior_sd, init="module", chains=args.chains,
            warmup=args.warmup, draws=args.draws, max_tree_depth=5, seed=args.random_seed, progress=False,
            callbacks=[TensorBoard(writer, "posterior/")],
        )  # fmt: skip
    # Probabilities, as the logits are known up to a constant only.
    probabilities = post.outputs(data.test[0][:30]).softmax(-1)
    report = hnbayes.diagnostics.diagnose(post, functions=probabilities, psis_loo=False)
    logger.info("Diagnosis:\n%s", report)
    return post


def main(line: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Train, or go on training; then sample.

    Returns:
        Scores on the test data: of the best checkpoint, and of the posterior.
    """
    args = arguments(line)
    device, writer, logger = setup_environment(args, logger_name="train_script")
    try:
        return train_and_sample(args, device, writer, logger)
    finally:
        writer.close()


def train_and_sample(
    args: argparse.Namespace, device: torch.device, writer: Any, logger: logging.Logger
) -> dict[str, dict[str, float]]:
    """The run itself; see `main`."""
    out = pathlib.Path(args.out_dir)
    logger.info("This run writes to %s.", out)
    data = digits(args.val_set_size, args.random_seed, device)
    net = get_mnet_model(args, args.net_type, [64], [10], device, verbose=False)
    last, _ = calc_train_iter(len(data.train[0]), args.batch_size, args.n_iter, args.epochs)

    training = Training(args, net, (args.resume or out) / CHECKPOINTS, writer, logger)
    if args.resume is not None:
        training.resume()
    training.run(data, last)

    best = get_best_ckpt_path(training.series)
    content = load_checkpoint(best, net)
    accuracy, log_likelihood = evaluate(net, data.test)
    scores = {"best checkpoint": {"accuracy": accuracy, "lppd": log_likelihood}}
    logger.info("Best checkpoint: %s, iteration %d of %d.", best, content["train_iter"], training.iteration)
    if args.draws:
        post = sample(args, net, data, writer, logger)
        post.save(out / "posterior.nc")
        scores["posterior"] = post.score(*data.test)
    for name, found in scores.items():
        logger.info("%-16s test accuracy %.4f, log likelihood %.4f", name, found["accuracy"], found["lppd"])
        writer.add_scalar(f"test/{name}", found["lppd"], training.iteration)
    return scores


if __name__ == "__main__":
    main()
