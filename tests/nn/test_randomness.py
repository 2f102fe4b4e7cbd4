"""Tests of random numbers as functions."""

import numpy as np

from ddp_mlp.nn.randomness import Purpose, generator


def test_a_draw_is_a_function_of_its_indices() -> None:
    """The same indices give the same numbers, in any order of asking."""
    first = generator(1, Purpose.DROPOUT, 5, 6, 7).random(8)
    generator(1, Purpose.DROPOUT, 9).random(100)
    assert generator(1, Purpose.DROPOUT, 5, 6, 7).random(8).tobytes() == first.tobytes()


def test_every_index_matters() -> None:
    """Seed, purpose and each index lead to other numbers."""
    draws = [
        generator(seed, purpose, *indices).random(4).tobytes()
        for seed in (0, 1, 2**63 - 1)
        for purpose in Purpose
        for indices in ((), (1,), (0, 1), (0, 0, 1), (2**40, 0, 0))
    ]
    assert len(set(draws)) == len(draws)


def test_a_draw_can_be_entered_anywhere() -> None:
    """The numbers after `skip` others are those of the whole draw: a mask does not depend on where it is cut."""
    whole = generator(3, Purpose.DROPOUT, 1, 2, 3).random(100, np.float32)
    for skip in range(40):
        part = generator(3, Purpose.DROPOUT, 1, 2, 3, skip=skip).random(100 - skip, np.float32)
        assert part.tobytes() == whole[skip:].tobytes()


def test_neighbouring_draws_do_not_overlap() -> None:
    """Draws with neighbouring indices are not shifted copies of one another: the low counter word is their own."""
    a, b = (generator(0, Purpose.ORDER, i).integers(0, 2**63, 1000) for i in (0, 1))
    assert not np.intersect1d(a, b).size
