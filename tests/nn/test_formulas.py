"""A formula that was noted gives the bits of the function itself, whatever it is made of."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.nn.formulas import BlockRoom, Formula

OPERATIONS = (operator.add, operator.sub, operator.mul, operator.truediv)
BITS = np.array(3)


def room(formula: Formula, n: int) -> BlockRoom:
    """Return as many vectors (n,) as the formula says that it needs, full of what must not matter."""
    vectors = [np.full(n, np.nan) for _ in range(formula.vectors)]
    return BlockRoom(vectors, [vector.view(np.int64) for vector in vectors])


def at_random(seed: int) -> Callable[..., Any]:
    """Return a function: some thirty operations on its vector, on constants, and on earlier results."""

    def function(x: Any) -> Any:
        random = np.random.default_rng(seed)
        values = [x, x + np.array(0.7), np.array(0.5), np.array(3.0)]
        for _ in range(random.integers(1, 30)):
            i, j = random.integers(0, len(values), 2)
            if random.random() < 0.2:  # as whole numbers
                values.append(((x if i % 2 else values[-1] + x).view(np.int64) ^ BITS).view(np.float64))
            else:
                values.append(OPERATIONS[random.integers(4)](values[i] if i > 3 else x, values[j]))
        return values[-1] - values[random.integers(len(values))]

    return function


@pytest.mark.parametrize("seed", range(300))
def test_a_random_formula_has_the_bits_of_its_function(seed: int) -> None:
    """Each result keeps its place until nothing reads it any more, also where `out` is x."""
    function, random = at_random(seed), np.random.default_rng(seed)
    x = random.uniform(0.5, 2, 17)
    formula = Formula(function)
    with np.errstate(all="ignore"):
        expected = function(x).tobytes()
        out = np.empty(17)
        formula(x, out, room(formula, 17))
        assert out.tobytes() == expected
        for call in formula.on(x, x, room(formula, 17)):
            call[0](*call[1:])
    assert x.tobytes() == expected


def test_a_place_that_is_given_away_too_soon_would_be_seen() -> None:
    """Planted: one vector for everything."""
    wrong = 0
    for seed in range(20):
        function = at_random(seed)
        formula = Formula(function)
        x, out = np.full(3, 1.5), np.empty(3)
        few = room(formula, 3)
        one = BlockRoom([few.vectors[0]] * formula.vectors, [few.whole[0]] * formula.vectors)
        with np.errstate(all="ignore"):
            formula(x, out, one)
            wrong += out.tobytes() != function(x).tobytes()
    assert wrong > 0


def test_results_share_few_places() -> None:
    """A sum of many products needs two vectors, one of them for the product."""

    def sum_of_products(x: NDArray[np.float64]) -> NDArray[np.float64]:
        value = x * x
        for _ in range(50):
            value = value + x * x
        return value

    assert Formula(sum_of_products).vectors == 2


@pytest.mark.parametrize(
    "function", [np.add.reduce, np.exp, lambda x: np.add(x, x, out=x), lambda x: (x + x, x * x)[0]], ids=range(4)
)
def test_what_is_no_formula_is_refused(function: Callable[[Any], Any]) -> None:
    """Reductions, functions of one operand, results in place, and calls after the last."""
    with pytest.raises(AssertionError):
        Formula(function)
