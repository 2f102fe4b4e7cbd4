"""A trained network, ready for use in Python: rows of features as they are in, classes, labels or numbers out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddp_mlp.inference.network import Network
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.nn.targets import Targets
from ddp_mlp.storage import checkpoint as checkpoints


class Model:
    """A network with what its outputs are and the standardization of its inputs. Local, picklable, never changed."""

    def __init__(
        self,
        parameters: Mapping[str, NDArray[Any]],
        classes: tuple[str, ...],
        standardization: Mapping[str, NDArray[Any]] | None = None,
        targets: Targets | None = None,
        activation: str = "relu",
        output_activation: str = "identity",
    ) -> None:
        """Copy {"W1": (n_1, n_0), …} and, if wanted, standardization {"mean": …, "scale": …}, both (n_0,).

        The outputs are the classes of these names, or the numbers that `targets` says.
        """
        self.network = Network(parameters, classes, standardization, targets, activation, output_activation)

    @classmethod
    def of(cls, network: Network) -> Self:
        """Return the model of a network."""
        model = cls.__new__(cls)
        model.network = network
        return model

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled; version 0.1 kept the network's attributes here."""
        if "network" not in state:
            network = Network.__new__(Network)
            network.__setstate__(dict(state))
            state = {"network": network}
        self.__dict__.update(state)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the n_L classes, whose numbers `predict` returns; none where the outputs are numbers."""
        return self.network.classes

    @property
    def targets(self) -> Targets:
        """What the outputs are: classes, or numbers with their names and the map into their units."""
        return self.network.targets

    @property
    def loss(self) -> str:
        """The loss that the network was trained with."""
        return self.network.targets.loss

    @property
    def activation(self) -> str:
        """That of the hidden layers: one name for all, or one each with commas."""
        return self.network.architecture.activation

    @property
    def output_activation(self) -> str:
        """That of numbers: one name for all, or one each with commas."""
        return self.network.output_activation

    def output(self, z: ArrayLike) -> NDArray[Any]:
        """Return what the output layer makes of its z (m, n_L): probabilities (m, n_L), or values in units (float64).

        What stands behind the last product, for whoever writes the network in another language.
        """
        return self.network.output(np.asarray(z, self.dtype))

    @property
    def features(self) -> int:
        """The number of features, n_0."""
        return self.network.features

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of parameters and probabilities."""
        return self.network.dtype

    @property
    def layout(self) -> Layout:
        """The shapes of the parameters."""
        return self.network.layout

    @property
    def standardization(self) -> Standardization:
        """The map of the inputs."""
        return self.network.standardization

    @property
    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters {"W1": (n_1, n_0), "b1": (n_1,), …}, read-only."""
        return self.network.parameters

    @property
    def parameters_sha256(self) -> str:
        """The SHA-256 of the parameters by which two runs are compared."""
        return self.network.parameters_sha256

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probabilities (m, n_L) of all classes or labels for the rows X (m, n_0), standardized here.

        Raises ValueError where X has another shape, is not of real numbers, or has some that are not finite; and
        TypeError where the outputs are numbers.
        """
        if not self.targets.probabilities:
            raise TypeError(f"loss = {self.loss}: the outputs are numbers, which predict returns")
        return self.network.outputs(self._checked(np.asarray(X)))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the number of the most probable class (m,) of each row of X (m, n_0); of equals, the first.

        Of labels whether each is above ½, (m, n_T) of 0 and 1; of numbers the values in their own units, float64:
        (m,) for one, (m, n_T) for several, (m, Q) or (m, n_T, Q) for quantiles. Raises ValueError as predict_proba.
        """
        rows, targets = self._checked(np.asarray(X)), self.targets
        found = self.network.outputs(rows)
        if targets.classes:
            return np.asarray(np.argmax(found, axis=1))
        if targets.probabilities:
            return (found > 0.5).astype(np.int64)
        values = targets.in_units(found).reshape(len(rows), targets.count, -1)
        return values.squeeze(axis=tuple(axis for axis in (1, 2) if values.shape[axis] == 1))

    def _checked(self, X: NDArray[Any]) -> NDArray[Any]:
        if X.ndim != 2 or X.shape[1] != self.features:
            raise ValueError(f"X has shape {X.shape}: must be (rows, {self.features})")
        if X.dtype.kind not in "fiub":
            raise ValueError(f"X is {X.dtype}: must be real numbers")
        if not np.isfinite(X).all():
            row, column = np.argwhere(~np.isfinite(X))[0]
            raise ValueError(f"X[{row}, {column}] is {X[row, column]}: must be a finite number")
        return np.ascontiguousarray(X.view(np.uint8) if X.dtype.kind == "b" else X)


def load(path: str | Path) -> Model:
    """Return the model in a checkpoint file, or the one that a run's folder has kept.

    Raises DataError where it is damaged or no checkpoint, StorageError where it cannot be read.

    >>> import ddp_mlp, numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> final = ddp_mlp.train(ddp_mlp.Config(epochs=2, run_dir=folder.name, quiet=True))  # doctest: +ELLIPSIS
    test loss 0..., parameters_sha256 ...
    >>> model = ddp_mlp.load(folder.name)
    >>> model.classes
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    >>> X = np.zeros((3, 64))
    >>> model.predict_proba(X).shape, model.predict(X).shape
    ((3, 10), (3,))
    >>> {name: array.shape for name, array in model.parameters.items() if name.startswith("W")}
    {'W1': (128, 64), 'W2': (64, 128), 'W3': (10, 64)}
    >>> folder.cleanup()
    """
    return Model.of(Network.of(checkpoints.find(Path(path))))
