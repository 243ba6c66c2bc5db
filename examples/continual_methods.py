"""Learners of tasks in sequence: plain training, EWC, online EWC, SI, sequential Bayes with NUTS, and joint training.

All have the same network, d-20-10 with tanh (2 outputs in Domain-IL), and the same prior of its weights, counted once.
Losses are means over samples, so that strength 1 is the Bayesian answer for EWC (precision = N x mean Fisher) and the
one of the theory for SI.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from split_tasks import TASKS, Part, Task
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hnbayes
from hnbayes.laplace import (
    DiagGaussian,
    compute_fisher,
    ewc_regularizer,
    from_fisher,
    si_compute_importance,
    si_post_optim_step,
    si_pre_optim_step,
    si_regularizer,
)

HIDDEN = 20
SCENARIOS = "Task-IL", "Domain-IL", "Class-IL"


@dataclass(frozen=True)
class Scenario:
    """What a network is asked (van de Ven and Tolias 2019).

    Task-IL: which of the two digits, the task being told. Domain-IL: which of the two, the task not being told (two
    outputs for all tasks). Class-IL: which digit of all those seen.
    """

    name: str

    @property
    def outputs(self) -> int:
        """The network's outputs."""
        return 2 if self.name == "Domain-IL" else 2 * TASKS

    def active(self, task: int, seen: int) -> list[int]:
        """Outputs that compete for samples of a task when tasks up to `seen` have been seen."""
        if self.name == "Task-IL":
            return [2 * task, 2 * task + 1]
        return list(range(2 if self.name == "Domain-IL" else 2 * seen + 2))

    def labels(self, digits: Tensor) -> Tensor:
        """Digits as numbers of active outputs."""
        return digits if self.name == "Class-IL" else digits % 2


@dataclass(frozen=True)
class Budget:
    """How long to train and sample."""

    steps: int = 100
    batch: int = 256
    warmup: int = 40
    draws: int = 40
    depth: int = 4


@dataclass
class Learner:
    """A network that learns tasks one after another.

    Attributes:
        scenario: what it is asked.
        inputs: the number of inputs.
        seed: of weights and batches.
        budget: of training.
        strength: of its penalty.
        history: test accuracies, after each task.
    """

    scenario: Scenario
    inputs: int
    seed: int
    budget: Budget
    strength: float = 1.0
    net: nn.Sequential = field(init=False)
    history: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.net = nn.Sequential(nn.Linear(self.inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, self.scenario.outputs))
        # Prior: biases and the first layer's weights N(0, 1), the second layer's N(0, 2^2 / fan-in).
        sds = [1.0, 1.0, 2.0 / HIDDEN**0.5, 1.0]
        self.params = list(self.net.parameters())
        with torch.no_grad():
            for p, sd in zip(self.params, sds, strict=True):
                p.copy_(0.2 * sd * torch.randn(p.shape, generator=generator))
        precisions = [torch.full_like(p, sd**-2) for p, sd in zip(self.params, sds, strict=True)]
        spec = hnbayes.ParamSpec.from_module(self.net)
        flat = spec.flatten([p.detach() for p in precisions])
        self.prior = DiagGaussian(torch.zeros_like(flat), flat, spec)
        self.generator = torch.Generator().manual_seed(self.seed + 1)

    def learn(self, tasks: Sequence[Task], task: int) -> None:
        """Learn a task after those before it."""
        X, digits = tasks[task].train
        n = len(X)
        self.train([tasks[task].train], [task], task, lambda: self.penalty(task, n), self.budget.steps)
        self.remember(task, X, digits)

    def train(
        self, parts: Sequence[Part], tasks: Sequence[int], seen: int, penalty: Callable[[], Tensor], steps: int
    ) -> None:
        """Minimise the mean negative log-likelihood of parts of the data plus a penalty, by Adam."""
        optimizer = torch.optim.Adam(self.params, lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = penalty()
            total = sum(len(X) for X, _ in parts)
            for (X, digits), task in zip(parts, tasks, strict=True):
                if len(X) > self.budget.batch:
                    rows = torch.randint(len(X), (self.budget.batch,), generator=self.generator)
                    X_batch, y_batch = X[rows], digits[rows]
                else:
                    X_batch, y_batch = X, digits
                logits = self.net(X_batch)[:, self.scenario.active(task, seen)]
                nll = nn.functional.cross_entropy(logits, self.scenario.labels(y_batch))
                loss = loss + nll * (len(X) / total)
            loss.backward()
            self.before_step()
            optimizer.step()
            self.after_step()
            schedule.step()

    def penalty(self, task: int, n: int) -> Tensor:
        """What is added to the mean loss of a task of n samples: here, the prior."""
        return self.prior_penalty(n)

    def prior_penalty(self, n: int) -> Tensor:
        """Minus the log density of the prior, a share for each sample, up to a constant."""
        parts = self.prior.spec.unflatten(self.prior.precision).values()
        return sum(0.5 * (t * p.square()).sum() for t, p in zip(parts, self.params, strict=True)) / n

    def before_step(self) -> None:
        """Called before each step of the optimiser."""

    def after_step(self) -> None:
        """Called after each step of the optimiser."""

    def remember(self, task: int, X: Tensor, digits: Tensor) -> None:
        """Called when a task has been learned."""

    def probabilities(self, X: Tensor, active: list[int]) -> Tensor:
        """Predicted probabilities of the active outputs, (N, outputs)."""
        with torch.no_grad():
            return self.net(X)[:, active].softmax(-1)

    def accuracy(self, tasks: Sequence[Task], seen: int, part: str) -> float:
        """Mean accuracy over the tasks seen."""
        scores = []
        for t in range(seen + 1):
            X, digits = getattr(tasks[t], part)
            found = self.probabilities(X, self.scenario.active(t, seen)).argmax(-1)
            scores.append(float((found == self.scenario.labels(digits)).float().mean()))
        return sum(scores) / len(scores)


class Plain(Learner):
    """Nothing is done against forgetting."""


class EWC(Learner):
    """A penalty for each earlier task."""

    def penalty(self, task: int, n: int) -> Tensor:
        """The prior, and what is known of earlier tasks."""
        return self.prior_penalty(n) + self.strength * ewc_regularizer(task, self.params, self.net)

    def remember(self, task: int, X: Tensor, digits: Tensor) -> None:
        """The mean Fisher matrix."""
        self.keep(task, X, digits)

    def keep(self, task: int, X: Tensor, digits: Tensor, **options: Any) -> None:
        """Compute the Fisher matrix of the outputs that competed, at the network's predictions."""
        data = [(X, self.scenario.labels(digits))]
        active = self.scenario.active(task, task)
        compute_fisher(
            task, data, self.params, None, self.net, allowed_outputs=active, empirical_fisher=False, **options
        )


class OnlineEWC(EWC):
    """One penalty for all earlier tasks and the prior."""

    def penalty(self, task: int, n: int) -> Tensor:
        """The prior for the first task; it is part of the penalty of the others."""
        if task == 0:
            return self.prior_penalty(n)
        return self.strength * ewc_regularizer(task, self.params, self.net, online=True)

    def remember(self, task: int, X: Tensor, digits: Tensor) -> None:
        """The mean Fisher matrices added up, and the prior, which the strength doesn't scale: a share for a sample."""
        prior = self.prior.spec.unflatten(self.prior.precision / (len(X) * self.strength))
        self.keep(task, X, digits, online=True, prior_strength=list(prior.values()) if task == 0 else None)


class SI(Learner):
    """Synaptic intelligence."""

    def penalty(self, task: int, n: int) -> Tensor:
        """The prior, and what is known of earlier tasks."""
        return self.prior_penalty(n) + self.strength * si_regularizer(self.net, self.params)

    def before_step(self) -> None:
        """Keep the weights."""
        si_pre_optim_step(self.net, self.params)

    def after_step(self) -> None:
        """Add up the path integral."""
        si_post_optim_step(self.net, self.params)

    def remember(self, task: int, X: Tensor, digits: Tensor) -> None:
        """Importances."""
        si_compute_importance(self.net, self.params)


class SequentialBayes(Learner):
    """Each task's posterior by NUTS; its Laplace approximation is the prior of the next.

    The strength is an exponent of the likelihoods of earlier tasks in that prior; 1 is Bayes' rule.
    """

    chains = 2

    def learn(self, tasks: Sequence[Task], task: int) -> None:
        """The mode, NUTS from there, and the Gaussian for the next task."""
        X, digits = tasks[task].train
        y, active = self.scenario.labels(digits), self.scenario.active(task, task)
        spec, prior = self.prior.spec, self.prior

        def U(q: Tensor) -> Tensor:
            logits = functional_call(self.net, spec.unflatten(q), (X,))[:, active]
            return nn.functional.cross_entropy(logits, y, reduction="sum") - prior.log_prob(q)

        def penalty() -> Tensor:
            return -prior.log_prob(self.params) / len(X)

        self.train([tasks[task].train], [task], task, penalty, self.budget.steps)
        mode = spec.flatten([p.detach() for p in self.params])
        self.rows = mode[None]
        if self.budget.draws:
            start = mode + 0.01 * torch.randn(self.chains, len(mode), generator=self.generator)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # short runs don't converge in all weights
                draws = hnbayes.sample_potential(
                    hnbayes.Potential(U, spec=spec),
                    start,
                    kernel="nuts",
                    warmup=self.budget.warmup,
                    draws=self.budget.draws,
                    max_tree_depth=self.budget.depth,
                    seed=self.seed + 17 * task,
                    progress=False,
                )
            self.rows = draws.positions.reshape(-1, spec.size)
        self.prior = from_fisher(self.net, [(X, y)], prior=prior, strength=self.strength, outputs=active)

    def probabilities(self, X: Tensor, active: list[int]) -> Tensor:
        """The mean over draws."""
        with torch.no_grad():
            logits = vmap(lambda q: functional_call(self.net, self.prior.spec.unflatten(q), (X,)))(self.rows)
        return logits[..., active].softmax(-1).mean(0)


class Joint(Learner):
    """All tasks so far are learned together, which is no continual learning: the best to hope for."""

    def learn(self, tasks: Sequence[Task], task: int) -> None:
        """Learn the samples of all tasks so far."""
        parts = [t.train for t in tasks[: task + 1]]
        n = sum(len(X) for X, _ in parts)
        self.train(parts, range(task + 1), task, lambda: self.prior_penalty(n), self.budget.steps)


METHODS: dict[str, type[Learner]] = {
    "none": Plain,
    "EWC": EWC,
    "online EWC": OnlineEWC,
    "SI": SI,
    "sequential Bayes": SequentialBayes,
    "joint": Joint,
}
# Strengths to choose from, the same for all that multiply Fisher matrices; the other methods have none.
OF_FISHER = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]
STRENGTHS = {
    "EWC": OF_FISHER,
    "online EWC": OF_FISHER,
    "SI": [0.1, 1.0, 10.0, 100.0, 1e3],
    "sequential Bayes": OF_FISHER,
}


def run(method: str, scenario: str, tasks: Sequence[Task], seed: int, budget: Budget, strength: float = 1.0) -> Learner:
    """A learner that has learned all tasks in sequence; `history` has its test accuracy after each."""
    learner = METHODS[method](Scenario(scenario), tasks[0].train[0].shape[1], seed, budget, strength)
    for task in range(len(tasks)):
        learner.learn(tasks, task)
        learner.history.append(learner.accuracy(tasks, task, "test"))
    return learner
