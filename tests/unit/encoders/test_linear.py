"""Products of 8-bit numbers against exact integer products, and what older processors make of them."""

import numpy as np
import pytest

from agent_memory.encoders.static import linear
from agent_memory.encoders.static.linear import make_linear, quantise_rows, quantise_weight


def signs(kind, count, width, seed):
    """Signs (count, width) that make neighbouring products add up, cancel out, or neither."""
    result = np.ones((count, width), np.int64)
    if kind == "rows":
        result[1::2] = -1
    elif kind == "halves":
        result[:, width // 2 :] = -1
        result[1::2] *= -1
    elif kind == "alternating":
        result[:, 1::2] = -1
        result[1::2] *= -1
    elif kind == "random":
        result = np.random.default_rng(seed).choice([-1, 1], (count, width))
    return result


def whole_numbers(kind, count, width, peak, seed):
    """Whole numbers (count, width) that reach the peak in every row, everywhere but for ``mixed``."""
    if kind != "mixed":
        return signs(kind, count, width, seed) * peak
    result = np.random.default_rng(seed).integers(-peak, peak + 1, (count, width))
    result[:, 0] = peak
    return result


def add_pairs_in_16_bits(rows, weight):
    """Multiply as AVX2 does (vpmaddubsw): rows + 128 are unsigned, sums of two terms are cut to int16."""
    pairs = (rows[:, None] + 128) * weight[None]
    pairs = np.clip(pairs[..., ::2] + pairs[..., 1::2], -32_768, 32_767)
    return pairs.sum(2) - 128 * weight.sum(1)


KINDS = ["same", "rows", "halves", "alternating", "random", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "width"), [(1, 384), (70, 384), (1, 1536), (70, 1536)])
def test_int8_products_are_exact_on_this_processor(kind, count, width):
    import torch

    # With these peaks all scales are 1, so that nothing is rounded and whole sums come out.
    rows = whole_numbers(kind, count, width, 127, seed=1)
    weight = whole_numbers(kind, 96, width, 64, seed=2)
    bias = np.arange(96) - 48
    product = make_linear(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), "int8")
    np.testing.assert_array_equal(product(torch.from_numpy(rows).float()).numpy(), rows @ weight.T + bias)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_operands_are_small_enough_for_every_processor(kind):
    import torch

    rows, _ = quantise_rows(torch.from_numpy(0.3 * whole_numbers(kind, 9, 384, 101, seed=1)).float())
    weight, _ = quantise_weight(torch.from_numpy(0.7 * whole_numbers(kind, 96, 384, 103, seed=2)).float())
    rows, weight = rows.numpy().astype(np.int64), weight.numpy().astype(np.int64)
    assert np.abs(rows).max() == 127
    assert np.abs(weight).max() == 64
    np.testing.assert_array_equal(add_pairs_in_16_bits(rows, weight), rows @ weight.T)


def test_wider_weights_would_be_cut_off():
    rows, weight = np.full((1, 384), 127), np.full((1, 384), 127)
    assert (rows @ weight.T - add_pairs_in_16_bits(rows, weight)).item() > 0.4 * (rows @ weight.T).item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_product_that_cuts_off_is_not_used(kind, monkeypatch):
    import torch

    monkeypatch.setattr(linear, "_WEIGHT_STEPS", 127)
    rows, weight = (whole_numbers(kind, count, 1536, 127, seed=count) for count in (5, 96))
    product = make_linear(torch.from_numpy(weight).float(), torch.zeros(96), "int8")
    np.testing.assert_array_equal(product(torch.from_numpy(rows).float()), (rows @ weight.T).astype(np.float32))


def test_int8_without_packed_products_gives_the_same_bits(monkeypatch):
    import torch

    def missing(*_):
        raise RuntimeError("no such operator")

    torch.manual_seed(0)
    weight, bias, x = torch.randn(96, 384), torch.randn(96), torch.randn(4, 9, 384)
    packed = make_linear(weight, bias, "int8")(x)
    monkeypatch.setattr(torch.ops.quantized, "linear_prepack", missing)
    plain = make_linear(weight, bias, "int8")(x)
    assert torch.equal(packed, plain)
    expected = torch.nn.functional.linear(x, weight, bias)
    assert torch.nn.functional.cosine_similarity(plain, expected, dim=2).min() > 0.999


def test_an_int8_row_does_not_depend_on_the_rows_beside_it():
    import torch

    torch.manual_seed(0)
    x = torch.randn(7, 384) * torch.tensor([1e-3, 1, 1e3, 1, 0, 1, 30])[:, None]
    product = make_linear(torch.randn(96, 384), torch.randn(96), "int8")
    together = product(x)
    for number in range(7):
        assert torch.equal(product(x[number : number + 1])[0], together[number])


def test_zeros_give_the_bias():
    import torch

    bias = torch.randn(8)
    assert torch.equal(make_linear(torch.zeros(8, 16), bias, "int8")(torch.randn(3, 16)), bias.expand(3, 8))
    assert torch.equal(make_linear(torch.randn(8, 16), bias, "int8")(torch.zeros(3, 16)), bias.expand(3, 8))
