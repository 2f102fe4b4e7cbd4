"""Tests of the flat parameter vector."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from ddp_mlp.nn.parameters import ALIGNMENT, Layout, parameters_sha256


@pytest.mark.parametrize("widths", [(3, 2), (64, 33, 17, 10)])
def test_views_cover_the_vector_without_overlap(widths: tuple[int, ...]) -> None:
    """Every parameter has its own element, and the rest is padding."""
    layout = Layout(widths)
    flat = np.zeros(layout.length)
    W, b = layout.views(flat)
    for l in range(1, len(widths)):
        assert W[l].shape == (widths[l], widths[l - 1])
        assert b[l].shape == (widths[l], 1)
        W[l] += 1
        b[l] += 1
    assert flat.sum() == layout.count == sum(n * p + n for p, n in pairwise(widths))
    assert flat.max() == 1


def test_every_part_starts_on_a_cache_line() -> None:
    """W[l] and b[l] start on multiples of 16 elements, and W is Fortran-ordered."""
    flat = np.zeros(Layout((5, 7, 3)).length, np.float32)
    W, b = Layout((5, 7, 3)).views(flat)
    for part in (*W.values(), *b.values()):
        assert (part.ctypes.data - flat.ctypes.data) % (4 * ALIGNMENT) == 0
    assert all(part.flags.f_contiguous for part in W.values())


def test_fill_is_the_inverse_of_arrays() -> None:
    """What `arrays` shows, `fill` restores."""
    layout = Layout((4, 3, 2))
    flat = np.zeros(layout.length)
    layout.initialize(flat, 5)
    copies = {name: array.copy() for name, array in layout.arrays(flat).items()}
    again = np.zeros(layout.length)
    layout.fill(again, copies)
    assert again.tobytes() == flat.tobytes()


def test_initialization_is_he() -> None:
    """Weights have mean 0 and variance 2/n_{l−1}; biases are 0; a layer's draw does not depend on the others."""
    layout = Layout((400, 300, 200))
    flat = np.zeros(layout.length)
    layout.initialize(flat, seed=3)
    W, b = layout.views(flat)
    for l, n_prev in ((1, 400), (2, 300)):
        # 60,000 draws and more: the mean is within 4 of its standard errors, the variance within 3 %.
        assert abs(W[l].mean()) < 4 * np.sqrt(2 / n_prev / W[l].size)
        assert W[l].var() == pytest.approx(2 / n_prev, rel=0.03)
        assert not b[l].any()
    wider = Layout((400, 300, 500))
    other = np.zeros(wider.length)
    wider.initialize(other, seed=3)
    assert wider.views(other)[0][1].tobytes() == W[1].tobytes()


def test_other_layers_begin_as_they_are_told() -> None:
    """Glorot's and Yang's variances on the same draw as He's; a layer that nothing is said of begins as He has it."""
    layout = Layout((400, 300, 200, 100))
    flat, as_he = np.zeros(layout.length), np.zeros(layout.length)
    layout.initialize(flat, 3, {1: "Glorot", 3: "Yang"})
    layout.initialize(as_he, 3)
    (W, _), (he, _) = layout.views(flat), layout.views(as_he)
    np.testing.assert_allclose(W[1] / he[1], np.sqrt(400 / 700), rtol=1e-14)  # 2 / (400 + 300) for 2 / 400
    assert W[2].tobytes() == he[2].tobytes()
    np.testing.assert_allclose(W[3] / he[3], np.sqrt(1 / 400), rtol=1e-14)  # 1 / 200² for 2 / 200


def test_float32_start_is_the_rounded_float64_start() -> None:
    """Both dtypes start from the same draw."""
    layout = Layout((6, 5))
    flat64, flat32 = np.zeros(layout.length), np.zeros(layout.length, np.float32)
    layout.initialize(flat64, 0)
    layout.initialize(flat32, 0)
    assert flat64.astype(np.float32).tobytes() == flat32.tobytes()


def test_hash_is_of_little_endian_bytes_in_c_order() -> None:
    """The figure can be computed by anyone from the arrays alone, whatever their memory order."""
    W, b = np.arange(6.0).reshape(2, 3), np.array([7.0, 8.0])
    expected = hashlib.sha256(W.astype("<f8").tobytes("C") + b.astype("<f8").tobytes("C")).hexdigest()
    assert parameters_sha256([np.asfortranarray(W), b.astype(">f8")]) == expected


def test_weights_mask_marks_weights_only() -> None:
    """Biases and padding are 0 in the mask."""
    layout = Layout((3, 2))
    mask = layout.weights_mask(np.dtype(np.float32))
    W, b = layout.views(mask)
    assert W[1].all()
    assert not b[1].any()
    assert mask.sum() == 6
