"""How the layers of a network begin, by their functions and the loss."""

import pytest

from ddp_mlp.nn import architecture
from ddp_mlp.nn.targets import LOSSES, Targets


@pytest.mark.parametrize("loss", LOSSES)
def test_layers_begin_as_their_functions_ask(loss: str) -> None:
    """He before ReLU's family, Glorot before tanh; an output of classes as the last hidden layer, of numbers near 0."""
    targets = Targets(loss, (), ("a", "b"), (0.0, 0.0), (1.0, 1.0), (0.5,) if loss == "quantile" else ())
    if loss == "cross_entropy":
        targets = Targets(classes=("a", "b"))
    last = {"cross_entropy": {"relu": "He", "tanh": "Glorot"}}.get(loss, {"relu": "Yang", "tanh": "Yang"})
    found = architecture.create(3, (4, 5), targets, activation="tanh,relu")
    assert found.starts == {1: "Glorot", 2: "He", 3: last["relu"]}
    found = architecture.create(3, (4, 5), targets, activation="gelu,tanh")
    assert found.starts == {1: "He", 2: "Glorot", 3: last["tanh"]}
    assert architecture.create(3, (), targets).starts == {1: last["relu"]}
