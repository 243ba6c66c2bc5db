"""Checks at the door say what must hold, what was received and what to do."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from hnbayes._checks import (
    check_choice,
    check_count,
    check_finite,
    check_fraction,
    check_positive,
    describe,
)


class TestDescribe:
    def test_tensors_by_what_they_are_not_by_their_numbers(self):
        text = describe(torch.zeros(3, 2, dtype=torch.float64))
        assert text == "a torch.float64 tensor of shape (3, 2) on cpu"

    @pytest.mark.parametrize(
        ("value", "text"), [(3, "3 (int)"), ("nuts", "'nuts' (str)"), (None, "None (NoneType)"), ([1], "[1] (list)")]
    )
    def test_values(self, value, text):
        assert describe(value) == text

    @pytest.mark.parametrize("length", [58, 59, 1000])
    def test_long_values_are_cut(self, length):
        text = describe("x" * length).removesuffix(" (str)")
        assert len(text) <= 60
        assert text.endswith("..." if length > 58 else "'")


class TestCount:
    @pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(3)])
    def test_gives_an_int(self, value):
        result = check_count("draws", value)
        assert result == value
        assert type(result) is int

    @pytest.mark.parametrize("value", [True, 1.0, "1", None, np.float64(2), torch.tensor(2), [1], Fraction(4, 2)])
    def test_refuses_other_types(self, value):
        with pytest.raises(TypeError, match="draws must be an integer; received"):
            check_count("draws", value)

    @pytest.mark.parametrize(("value", "minimum"), [(0, 1), (-3, 1), (-1, 0), (19, 20)])
    def test_refuses_too_few(self, value, minimum):
        with pytest.raises(ValueError, match=f"draws must be at least {minimum}; received {value}"):
            check_count("draws", value, minimum)

    def test_minimum_itself_is_enough(self):
        assert check_count("warmup", 0, 0) == 0
        assert check_count("warmup", 20, 20) == 20


class TestPositive:
    @pytest.mark.parametrize("value", [1, 0.25, np.float32(0.25), np.int64(2), torch.tensor(0.25), Fraction(1, 4)])
    def test_gives_a_float(self, value):
        result = check_positive("step_size", value)
        assert type(result) is float
        assert result == float(value)

    @pytest.mark.parametrize(
        "value", [True, "0.1", None, [0.1], 1j, torch.tensor([0.1]), torch.tensor(True), np.array([0.1])]
    )
    def test_refuses_other_types(self, value):
        with pytest.raises(TypeError, match="step_size must be a positive number; received"):
            check_positive("step_size", value)

    @pytest.mark.parametrize("value", [0, -1, 0.0, -0.0, math.nan, math.inf, -math.inf, torch.tensor(-1.0)])
    def test_refuses_what_is_not_finite_and_positive(self, value):
        with pytest.raises(ValueError, match=f"step_size must be finite and greater than 0; received {float(value)}"):
            check_positive("step_size", value)


class TestFraction:
    @pytest.mark.parametrize("value", [0.8, 1e-9, 1 - 1e-9, torch.tensor(0.5)])
    def test_gives_a_float(self, value):
        assert check_fraction("target_accept", value) == float(value)

    @pytest.mark.parametrize("value", [1, 1.0, 80])
    def test_refuses_one_and_above(self, value):
        with pytest.raises(ValueError, match="target_accept must lie strictly between 0 and 1; received"):
            check_fraction("target_accept", value)

    @pytest.mark.parametrize("value", [0, -0.5, math.nan])
    def test_refuses_zero_and_below(self, value):
        with pytest.raises(ValueError, match="target_accept must"):
            check_fraction("target_accept", value)

    def test_refuses_text(self):
        with pytest.raises(TypeError, match="target_accept must"):
            check_fraction("target_accept", "0.8")


class TestChoice:
    @pytest.mark.parametrize("value", ["auto", True, False])
    def test_gives_the_choice(self, value):
        assert check_choice("compile", value, ("auto", True, False)) is value

    # 1 == True and 0 == False, but they are not what was asked for; tensors must not be compared at all.
    @pytest.mark.parametrize("value", ["Auto", "", 1, 0, 1.0, None, torch.ones(2), np.ones(2)])
    def test_refuses_the_rest(self, value):
        with pytest.raises(ValueError, match="compile must be one of 'auto', True, False; received"):
            check_choice("compile", value, ("auto", True, False))


class TestFinite:
    @pytest.mark.parametrize(
        "tensor", [torch.zeros(3), torch.zeros(()), torch.zeros(0, 2), torch.tensor([1, 2]), torch.tensor([3e38])]
    )
    def test_lets_numbers_through(self, tensor):
        assert check_finite("inputs", tensor) is None

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_counts_and_locates(self, bad):
        tensor = torch.zeros(4, 3)
        tensor[2, 1] = tensor[3, 0] = bad
        with pytest.raises(ValueError, match=r"inputs must be finite; received 2 .* of 12 values.* index \(2, 1\)"):
            check_finite("inputs", tensor)
