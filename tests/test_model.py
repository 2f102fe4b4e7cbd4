"""A model made of arrays: a copy of them, or one line that says what makes no network."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp import Model

X = np.random.default_rng(1).normal(size=(5, 3))


def arrays() -> dict[str, NDArray[Any]]:
    """Return the parameters of a 3-4-2 network, float32."""
    rng = np.random.default_rng(0)
    shapes = {"W1": (4, 3), "b1": (4,), "W2": (2, 4), "b2": (2,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_model_keeps_no_array_of_its_makers() -> None:
    """What they do with parameters and standardization afterwards does not change its answers."""
    parameters, used = arrays(), {"mean": np.ones(3), "scale": np.full(3, 2.0)}
    model = Model(parameters, ("a", "b"), used)
    before = model.predict_proba(X)
    for array in (*parameters.values(), *used.values()):
        array[...] = 9
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_numbers_may_be_lists_and_in_the_other_order_of_bytes() -> None:
    """The same model, with the same hash."""
    plain = Model(arrays(), ("1", "2"), {"mean": np.arange(3.0), "scale": np.full(3, 2.0)})
    swapped = {name: array.astype(">f4") for name, array in arrays().items()}
    for given in (arrays(), swapped):
        model = Model(given, [1, 2], {"mean": [0, 1, 2], "scale": [2, 2, 2]})  # type: ignore[list-item] # as users do
        assert (model.classes, model.dtype, model.dtype.isnative) == (("1", "2"), np.dtype(np.float32), True)
        assert model.parameters_sha256 == plain.parameters_sha256
        np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"W2": np.ones((2, 1), np.float32)}, r"W2 \(2, 1\).*: must be W1"),
        ({"W1": np.ones((3, 4), np.float32)}, r"W1 \(3, 4\).*: must be W1"),
        ({"W4": np.ones((2, 4), np.float32)}, r"W4 \(2, 4\): must be W1"),
        ({"b1": np.ones(4)}, "are of float32, float64: must all be float32, or all float64"),
    ],
)
def test_parameters_that_make_no_layers_are_refused(changed: dict[str, Any], words: str) -> None:
    """A column was repeated to fill a layer, an array of another name left out, float64 rounded: without a word."""
    with pytest.raises(ValueError, match=words):
        Model({**arrays(), **changed}, ("a", "b"))
    with pytest.raises(ValueError, match=r"are of no dtype"):
        Model({}, ("a", "b"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"classes": ("a", "a")}, "classes are a, a: must each have a name of its own"),
        ({"standardization": {"mean": np.zeros(3), "scale": np.zeros(3)}}, "scale has .* must be positive"),
        ({"standardization": {"mean": np.zeros(1), "scale": np.ones(3)}}, r"mean has shape \(1,\)"),
        ({"standardization": {"mean": np.zeros(3)}}, "scale has shape"),
        ({"inputs": {"features": ["x", "y"]}}, "must be 3 names"),
        ({"inputs": {"features": "xyz"}}, "must be 3 names"),
        ({"activation": "logistic"}, "activation = 'logistic': must be one of relu"),
        ({"arithmetic": "exact"}, "must be native or portable"),
    ],
)
def test_what_makes_no_network_is_refused(given: dict[str, Any], words: str) -> None:
    """When it is made, and not when it is used or written."""
    with pytest.raises(ValueError, match=words):
        Model(arrays(), **{"classes": ("a", "b"), **given})


def test_outputs_of_another_width_are_refused() -> None:
    """One number for each output, in rows."""
    model = Model(arrays(), ("a", "b"))
    assert model.output(np.zeros((0, 2))).shape == (0, 2)
    np.testing.assert_array_equal(model.output([[0, 0]]), [[0.5, 0.5]])
    for shape in ((2,), (1, 1), (1, 3)):
        with pytest.raises(ValueError, match=r"must be \(rows, 2\)"):
            model.output(np.zeros(shape))
