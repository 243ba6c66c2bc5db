"""Losses of generative adversarial networks, the discriminator's accuracy, and batch statistics as its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnbayes._checks import check_choice, check_floating, describe

VANILLA, LSGAN, PEARSON, WASSERSTEIN = range(4)
LOSSES = (VANILLA, LSGAN, PEARSON, WASSERSTEIN)
# a, b, c of Mao et al.: what the discriminator's outputs for fake and real data are drawn to, and the generator's aim.
TARGETS = {LSGAN: (0.0, 1.0, 1.0), PEARSON: (-1.0, 1.0, 0.0)}
# Outputs above count as "real". A logit of 0 is a probability of 0.5.
THRESHOLDS = {VANILLA: 0.0, LSGAN: 0.5, PEARSON: 0.0, WASSERSTEIN: 0.0}
# One-sided label smoothing (Salimans et al. 2016).
REAL = 0.9


def dis_loss(logit_real: Tensor, logit_fake: Tensor, loss_choice: int) -> Tensor:
    r"""The discriminator's loss; D is its linear output.

    | `loss_choice` | loss |
    |---|---|
    | 0, vanilla (Goodfellow et al. 2014), real targets 0.9 | \(\text{BCE}(D(x), 0.9) + \text{BCE}(D(G(z)), 0)\) |
    | 1, LSGAN (Mao et al. 2018, eq. 14) | \(\frac12 E[(D(x) - 1)^2] + \frac12 E[D(G(z))^2]\) |
    | 2, Pearson chi^2 LSGAN (eq. 13) | \(\frac12 E[(D(x) - 1)^2] + \frac12 E[(D(G(z)) + 1)^2]\) |
    | 3, Wasserstein (Arjovsky et al. 2017, eq. 3) | \(E[D(G(z))] - E[D(x)]\) |

    BCE is the binary cross-entropy of the sigmoid, computed from logits. Clip or penalise the discriminator yourself
    for 3.

    Args:
        logit_real: outputs for real data, any shape.
        logit_fake: outputs for generated data, any shape.
        loss_choice: 0 to 3.

    Returns:
        Shape (). Step with it on the discriminator's weights only.

    Raises:
        TypeError: if an output is no floating-point tensor.
        ValueError: if an output is empty, or the choice unknown.

    Example:
        >>> from hnbayes.utils.gan_helpers import dis_loss
        >>> dis_loss(torch.ones(4), torch.zeros(4), loss_choice=1)  # LSGAN, all told right
        tensor(0.)
    """
    _check(loss_choice, logit_real=logit_real, logit_fake=logit_fake)
    if loss_choice == VANILLA:
        return _cross_entropy(logit_real, REAL) + _cross_entropy(logit_fake, 0.0)
    if loss_choice == WASSERSTEIN:
        return logit_fake.mean() - logit_real.mean()
    fake, real, _ = TARGETS[loss_choice]
    return 0.5 * (logit_real - real).square().mean() + 0.5 * (logit_fake - fake).square().mean()


def gen_loss(logit_fake: Tensor, loss_choice: int) -> Tensor:
    r"""The generator's loss; D is the discriminator's linear output.

    | `loss_choice` | loss |
    |---|---|
    | 0, vanilla, non-saturating | \(\text{BCE}(D(G(z)), 1)\) |
    | 1, LSGAN | \(\frac12 E[(D(G(z)) - 1)^2]\) |
    | 2, Pearson chi^2 LSGAN | \(\frac12 E[D(G(z))^2]\) |
    | 3, Wasserstein | \(-E[D(G(z))]\) |

    Args:
        logit_fake: outputs for generated data, any shape.
        loss_choice: 0 to 3, as for `dis_loss`.

    Returns:
        Shape ().

    Raises:
        TypeError: if the output is no floating-point tensor.
        ValueError: if it is empty, or the choice unknown.

    Example:
        >>> from hnbayes.utils.gan_helpers import gen_loss
        >>> gen_loss(torch.ones(4), loss_choice=1)  # LSGAN, all taken for real
        tensor(0.)
    """
    _check(loss_choice, logit_fake=logit_fake)
    if loss_choice == VANILLA:
        return _cross_entropy(logit_fake, 1.0)
    if loss_choice == WASSERSTEIN:
        return -logit_fake.mean()
    return 0.5 * (logit_fake - TARGETS[loss_choice][2]).square().mean()


def accuracy(logit_real: Tensor, logit_fake: Tensor, loss_choice: int) -> Tensor:
    """The part of the data, real and generated, that the discriminator tells right.

    Outputs above a threshold count as "real": above 0.5 for LSGAN (1), above 0 otherwise; for the vanilla loss, a
    logit of 0 is a probability of 0.5.

    Args:
        logit_real: outputs for real data, any shape.
        logit_fake: outputs for generated data, any shape.
        loss_choice: 0 to 3, as for `dis_loss`.

    Returns:
        Shape (), in 0..1.

    Raises:
        TypeError: if an output is no floating-point tensor.
        ValueError: if an output is empty, or the choice unknown.

    Example:
        >>> from hnbayes.utils.gan_helpers import accuracy
        >>> real, fake = torch.tensor([2.0, -1.0]), torch.tensor([-3.0, -1.0])
        >>> accuracy(real, fake, loss_choice=0)  # three of four are told right
        tensor(0.7500)
    """
    _check(loss_choice, logit_real=logit_real, logit_fake=logit_fake)
    threshold = THRESHOLDS[loss_choice]
    right = torch.cat([(logit_real > threshold).flatten(), (logit_fake <= threshold).flatten()])
    return right.to(logit_real.dtype).mean()


def concat_mean_stats(inputs: Tensor) -> Tensor:
    """Put the batch's mean before each sample, so that a discriminator sees whether samples are all alike.

    Args:
        inputs: (N, C) or (N, C, ...).

    Returns:
        (N, 2 C, ...): mean, sample.

    Raises:
        TypeError: if the inputs are no floating-point tensor.
        ValueError: if they have fewer than two dimensions, or are empty.

    Example:
        >>> from hnbayes.utils.gan_helpers import concat_mean_stats
        >>> concat_mean_stats(torch.tensor([[1.0], [3.0]]))
        tensor([[2., 1.],
                [2., 3.]])
    """
    check_floating("inputs", inputs)
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise ValueError(f"inputs must have shape (N, C) or (N, C, ...) and not be empty; received {describe(inputs)}.")
    return torch.cat([inputs.mean(0, keepdim=True).expand_as(inputs), inputs], dim=1)


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _check(loss_choice: int, **outputs: Tensor) -> None:
    check_choice("loss_choice", loss_choice, LOSSES)
    for name, output in outputs.items():
        check_floating(name, output)
        if output.numel() == 0:
            raise ValueError(f"{name} must not be empty; received {describe(output)}.")
