"""How the layers of a network begin, by their functions and the loss."""

import numpy as np
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


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("activation", ["relu", "gelu,tanh"])
def test_bytes_of_buffers_are_known_without_them(loss: str, activation: str) -> None:
    """To the byte those of buffers that are made, on both sides of the few examples that are turned."""
    targets = Targets(loss, (), ("a", "b"), (0.0, 0.0), (1.0, 1.0))
    if loss == "cross_entropy":
        targets = Targets(classes=("a", "b", "c"))
    network = architecture.create(7, (33, 5), targets, activation=activation)
    for m in (1, 2, 3, 63, 64, 65, 66, 4097):
        for training in (True, False):
            dtype = np.dtype(np.float32 if m % 2 else np.float64)
            assert network.group_bytes(m, dtype, training) == network.group([m], dtype, training).nbytes
