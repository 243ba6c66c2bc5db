"""Learn tasks one after another with a hypernetwork, and infer the embedding of a task it was never told.

    python examples/hypernet_continual.py             # at most 3 minutes
    python examples/hypernet_continual.py --quick     # at most 30 seconds

Split digits: five tasks, 0 or 1, 2 or 3, and so on, whose data come one after another and never again. A hypernetwork
makes the weights of a small classifier from an embedding of 8 numbers a task. Compared are no regularisation, the
regulariser that keeps its outputs for earlier tasks (von Oswald et al. 2020), and EWC (Kirkpatrick et al. 2017) on one
classifier with a head a task. Then the hypernetwork is fixed and NUTS samples the embedding alone, given few data of a
task without its number: one that returns, and one that is new. Writes accuracy.png, embedding.png and summary.csv.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import time
import warnings
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

import hnbayes
from hnbayes.data import ArrayDataset, load, split_tasks
from hnbayes.hnets import HMLP, calc_fix_target_reg, get_current_targets
from hnbayes.laplace import DiagGaussian
from hnbayes.mnets import MLP

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASKS, EMBEDDING = 5, 8
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"
Data = tuple[Tensor, Tensor]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/hypernet_continual"))
    parser.add_argument("--quick", action="store_true", help="fewer steps and draws")
    parser.add_argument("--steps", type=int, help="training steps a task (400; 80 if --quick)")
    parser.add_argument("--draws", type=int, help="draws a chain of the embedding (500; 100 if --quick)")
    parser.add_argument("--labelled", type=int, default=40, help="data of the task whose embedding is inferred")
    parser.add_argument("--beta", type=float, default=1.0, help="strength of the hypernetwork's regulariser")
    parser.add_argument("--ewc", type=float, default=1.0, help="strength of EWC, 1 is the Laplace approximation")
    parser.add_argument("--seed", type=int, default=0, help="of data, networks and chains")
    args = parser.parse_args()
    args.steps = args.steps or (80 if args.quick else 400)
    args.draws = args.draws or (100 if args.quick else 500)
    if min(args.steps, args.draws, args.labelled) < 10 or min(args.beta, args.ewc, args.seed) < 0:
        parser.error("at least 10 steps, draws and labelled data; no negative strength or seed")
    return args


def tensors(data: ArrayDataset, split: str) -> Data:
    """Inputs (N, 64) and labels (N,) of a split."""
    x = getattr(data, f"get_{split}_inputs")()
    y = getattr(data, f"get_{split}_outputs")(use_one_hot=False)
    return data.input_to_torch_tensor(x, "cpu").flatten(1), data.output_to_torch_tensor(y, "cpu")


def classifier(outputs: int, no_weights: bool) -> MLP:
    """64 pixels, 32 hidden units, logits."""
    return MLP(64, outputs, (32,), no_weights=no_weights, verbose=False)


def accuracy(predict: Callable[[Tensor], Tensor], data: Data) -> float:
    """The part of the data whose label has the largest logit."""
    x, y = data
    with torch.no_grad():
        return float((predict(x).argmax(-1) == y).double().mean())


def train(parameters: Sequence[Tensor], loss: Callable[[Tensor, Tensor], Tensor], data: Data, steps: int) -> None:
    """Adam on batches of 64."""
    x, y = data
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        loss(x[rows], y[rows]).backward()
        optimizer.step()


def learn_hypernet(
    train_sets: Sequence[Data], test_sets: Sequence[Data], beta: float, steps: int
) -> tuple[HMLP, np.ndarray]:
    """Train a hypernetwork on tasks in turn.

    Returns:
        The hypernetwork, and accuracies (tasks, tasks): row t on all tasks after task t.
    """
    net = classifier(2, no_weights=True)
    hnet = HMLP(net.param_shapes, cond_in_size=EMBEDDING, layers=(32, 32), num_cond_embs=TASKS, verbose=False)
    hnet.apply_hyperfan_init(mnet=net)
    scores = np.full((TASKS, TASKS), np.nan)
    for task, data in enumerate(train_sets):
        targets = get_current_targets(task, hnet)

        def loss(x: Tensor, y: Tensor, task: int = task, targets: list[list[Tensor]] = targets) -> Tensor:
            value = nn.functional.cross_entropy(net.forward(x, weights=hnet.forward(cond_id=task)), y)
            return value + beta * calc_fix_target_reg(hnet, task, targets=targets) if task and beta else value

        # Embeddings of earlier tasks stay as they are.
        train([*(hnet.unconditional_params or ()), hnet.get_cond_in_emb(task)], loss, data, steps)
        for seen in range(task + 1):
            weights = hnet.forward(cond_id=seen)
            scores[task, seen] = accuracy(lambda x, w=weights: net.forward(x, weights=w), test_sets[seen])
    return hnet, scores


def learn_ewc(train_sets: Sequence[Data], test_sets: Sequence[Data], strength: float, steps: int) -> np.ndarray:
    """Train one classifier with a head a task, each task's posterior the Gaussian prior of the next."""
    net = classifier(2 * TASKS, no_weights=False)
    scores = np.full((TASKS, TASKS), np.nan)
    precision, mean = torch.zeros(net.num_params), torch.zeros(net.num_params)

    def head(flat: Tensor, x: Tensor, task: int) -> Tensor:
        weights = net.flatten_params(flat, net.param_shapes, unflatten=True)
        return net.forward(x, weights=weights)[..., 2 * task : 2 * task + 2]

    for task, data in enumerate(train_sets):
        prior = DiagGaussian(mean, precision)

        def loss(x: Tensor, y: Tensor, task: int = task, prior: DiagGaussian = prior) -> Tensor:
            flat = net.flatten_params(net.internal_params)
            nll = nn.functional.cross_entropy(head(flat, x, task), y)
            quadratic = 0.5 * (prior.precision * (flat - prior.mean).square()).sum()
            return nll + strength * quadratic / len(train_sets[task][0])

        train(list(net.parameters()), loss, data, steps)
        mean = net.flatten_params(net.internal_params).detach()

        def nll(flat: Tensor, x: Tensor, y: Tensor, task: int = task) -> Tensor:
            return nn.functional.cross_entropy(head(flat, x[None], task), y[None])

        precision = precision + vmap(grad(nll), in_dims=(None, 0, 0))(mean, *data).square().sum(0)
        for seen in range(task + 1):
            scores[task, seen] = accuracy(lambda x, flat=mean, seen=seen: head(flat, x, seen), test_sets[seen])
    return scores


def infer_embedding(hnet: HMLP, data: Data, draws: int, seed: int) -> hnbayes.Draws:
    """NUTS over an embedding, prior N(0, I), given labelled data; everything else is fixed."""
    net = classifier(2, no_weights=True)
    theta = [p.detach() for p in hnet.unconditional_params or ()]
    x, y = data

    def potential(embedding: Tensor) -> Tensor:
        weights = hnet.forward(cond_input=embedding[None], weights={"uncond_weights": theta})
        nll = nn.functional.cross_entropy(net.forward(x, weights=weights), y, reduction="sum")
        return nll + 0.5 * embedding.square().sum()

    starts = torch.randn(4, EMBEDDING, generator=torch.Generator().manual_seed(seed))
    with warnings.catch_warnings():
        # Short chains of --quick are told to be short.
        warnings.simplefilter("ignore", hnbayes.SamplingWarning)
        return hnbayes.sample_potential(potential, starts, warmup=max(draws // 2, 100), draws=draws, seed=seed)


def mixture(hnet: HMLP, embeddings: Tensor) -> Callable[[Tensor], Tensor]:
    """Mean class probabilities over embeddings (S, 8)."""
    net = classifier(2, no_weights=True)
    with torch.no_grad():
        sets = hnet.forward(cond_input=embeddings, ret_format="sequential")

    def predict(x: Tensor) -> Tensor:
        return torch.stack([net.forward(x, weights=weights).softmax(-1) for weights in sets]).mean(0)

    return predict


def pair(data: ArrayDataset, first: int, second: int, split: str) -> Data:
    """The digits `first` (label 0) and `second` (label 1) of a split."""
    x, y = tensors(data, split)
    rows = (y == first) | (y == second)
    return x[rows], (y[rows] == second).long()


def save_accuracy(scores: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Mean accuracy on the tasks so far after each task, and on each task in the end."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for (name, values), colour in zip(scores.items(), (GREY, BLUE, ORANGE), strict=True):
        left.plot(range(1, TASKS + 1), [np.nanmean(row) for row in values], "o-", color=colour, label=name)
        right.plot(range(1, TASKS + 1), values[-1], "o-", color=colour)
    left.set(xlabel="tasks learned", ylabel="test accuracy", title="Mean over the tasks so far", xticks=range(1, 6))
    pairs = [f"{2 * t}|{2 * t + 1}" for t in range(TASKS)]
    right.set(xlabel="task", title="Each task in the end", xticks=range(1, 6), xticklabels=pairs)
    for axis in (left, right):
        axis.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_embeddings(posteriors: dict[str, Tensor], known: Tensor, path: pathlib.Path) -> None:
    """Two coordinates of the posterior draws, the embeddings of the known tasks' largest variation."""
    centre = known.mean(0)
    _, _, axes = torch.linalg.svd(known - centre)
    figure, panel = plt.subplots(figsize=(5.6, 4.2))
    for (name, draws), colour in zip(posteriors.items(), (BLUE, ORANGE), strict=True):
        at = (draws - centre) @ axes[:2].T
        panel.scatter(at[:, 0], at[:, 1], s=5, alpha=0.35, color=colour, linewidths=0, label=name)
    at = (known - centre) @ axes[:2].T
    panel.scatter(at[:, 0], at[:, 1], s=45, color="black", marker="x", label="learned tasks")
    for t, point in enumerate(at):
        panel.annotate(f"{2 * t}|{2 * t + 1}", point.tolist(), xytext=(5, 5), textcoords="offset points")
    panel.set(xlabel="first direction", ylabel="second direction", title="Posterior of a task's embedding")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8, markerscale=1.5)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Learn, infer, compare, draw."""
    args = arguments()
    began = time.perf_counter()
    torch.manual_seed(args.seed)
    digits = load("digits", test=0.3, seed=args.seed)
    sets = split_tasks(digits, 2)
    train_sets, test_sets = [tensors(s, "train") for s in sets], [tensors(s, "test") for s in sets]

    scores = {}
    _, scores["no regularisation"] = learn_hypernet(train_sets, test_sets, 0.0, args.steps)
    hnet, scores["hypernetwork regularised"] = learn_hypernet(train_sets, test_sets, args.beta, args.steps)
    scores["EWC, one network"] = learn_ewc(train_sets, test_sets, args.ewc, args.steps)
    table = [(f"{name}: mean of all tasks", float(values[-1].mean())) for name, values in scores.items()]
    for name, values in scores.items():
        table.append((f"{name}: forgetting", float((np.nanmax(values, 0) - values[-1])[:-1].mean())))

    known = torch.stack([e.detach() for e in hnet.conditional_params or ()])
    # The new task tells apart digits that were learned in different tasks.
    posteriors, random = {}, torch.Generator().manual_seed(args.seed)
    for name, (first, second) in (("returning task 4|5", (4, 5)), ("new task 2|9", (2, 9))):
        x, y = pair(digits, first, second, "train")
        rows = torch.randperm(len(x), generator=random)[: args.labelled]
        draws = infer_embedding(hnet, (x[rows], y[rows]), args.draws, args.seed)
        flat = draws.positions.flatten(0, 1).float()
        posteriors[name] = flat
        test = pair(digits, first, second, "test")
        prior = torch.randn(200, EMBEDDING, generator=random)
        thinned = flat[:: max(1, len(flat) // 200)]
        table.append((f"{name}: embeddings from the prior", accuracy(mixture(hnet, prior), test)))
        table.append((f"{name}: posterior of the embedding", accuracy(mixture(hnet, thinned), test)))
        nearest = (flat.mean(0) - known).norm(dim=1).argmin()
        table.append((f"{name}: nearest learned task", float(nearest) + 1))

    args.out.mkdir(parents=True, exist_ok=True)
    save_accuracy(scores, args.out / "accuracy.png")
    save_embeddings(posteriors, known, args.out / "embedding.png")
    with (args.out / "summary.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("quantity", "value"), *table])
    for name, value in table:
        print(f"{name:<46} {value:.3f}")
    print(f"{time.perf_counter() - began:.0f} s; figures and table in {args.out}")


if __name__ == "__main__":
    main()
