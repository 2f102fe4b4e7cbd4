"""A trained network, ready for use in Python: rows of features as they are in, classes, labels or numbers out."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.inference.apply import first_not_finite
from ddp_mlp.inference.ensemble import Answer, Ensemble
from ddp_mlp.inference.keeping import figures, save
from ddp_mlp.inference.network import Network
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.activations import ACTIVATIONS
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.nn.targets import Targets
from ddp_mlp.run_dir import journal
from ddp_mlp.run_dir.journal import Event
from ddp_mlp.storage import checkpoints


class Model:
    """A network with what its outputs are and the standardization of its inputs. Local, picklable, never changed."""

    def __init__(
        self,
        parameters: Mapping[str, ArrayLike],
        classes: Sequence[str],
        standardization: Mapping[str, ArrayLike] | None = None,
        targets: Targets | None = None,
        activation: str = "relu",
        output_activation: str = "identity",
        arithmetic: str = "native",
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy {"W1": (n_1, n_0), …} and, if wanted, standardization {"mean": …, "scale": …}, both (n_0,).

        The outputs are the classes of these names, or the numbers that `targets` says. `inputs` is what a checkpoint
        knows of the inputs: the names of the features, their shape, a recipe. Raises ValueError for what makes no
        network.
        """
        layers = _layers_of(parameters)
        n, names = layers["W1"].shape[1], tuple(map(str, classes))
        if len(set(names)) < len(names):
            raise ValueError(f"classes are {', '.join(names[:20])}: must each have a name of its own")
        features = (inputs or {}).get("features")
        if features is not None and (isinstance(features, str) or len(features) != n):
            raise ValueError(f"inputs: features are {features!r}, must be {n} names")
        for name in activation.split(","):
            if name.strip() not in ACTIVATIONS:
                raise ValueError(f"activation = {name!r}: must be one of {', '.join(ACTIVATIONS)}")
        if arithmetic not in (known := (arithmetics.NATIVE.name, arithmetics.PORTABLE.name)):
            raise ValueError(f"arithmetic = {arithmetic!r}: must be {' or '.join(known)}")
        functions = activation, output_activation, arithmetics.called(arithmetic)
        self.network = Network(layers, names, _map_of(standardization, n), targets, *functions, inputs)

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

        What stands behind the last product, for whoever writes the network in another language. Raises ValueError for
        another shape.
        """
        z = np.asarray(z, self.dtype)
        if z.ndim != 2 or z.shape[1] != self.layout.widths[-1]:
            raise ValueError(f"z has shape {z.shape}: must be (rows, {self.layout.widths[-1]})")
        return self.network.output(z)

    @property
    def features(self) -> int:
        """The number of features, n_0."""
        return self.network.features

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the features, where training's data had them; predict_proba takes columns in this order."""
        return self.network.feature_names

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
    def target_names(self) -> tuple[str, ...]:
        """The names of the outputs that are numbers or labels; with quantiles, such as "T at 0.9"."""
        return () if self.classes else self.targets.output_names

    @property
    def metrics(self) -> dict[str, float]:
        """How good the network was in training, such as {"train_loss": …, "valid_accuracy": …}; empty if unknown."""
        return figures(self.network)

    @property
    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters {"W1": (n_1, n_0), "b1": (n_1,), …}, read-only."""
        return self.network.parameters

    @property
    def parameters_sha256(self) -> str:
        """The SHA-256 of the parameters by which two runs are compared."""
        return self.network.parameters_sha256

    def save(self, path: str | Path) -> None:
        """Write a checkpoint file, OUT.h5, which predict, export, report, `load` and `--init_from` take. Local.

        Raises ConfigError for another suffix, DataError for parameters that are not finite, StorageError.
        """
        save(self.network, Path(path))

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probabilities (m, n_L) of all classes or labels for the rows X (m, n_0), standardized here.

        Where training's features have names, the columns of a data frame are taken by theirs, in any order.
        Raises ValueError where X has another shape, is not of real numbers, or has some that are not finite, or not the
        columns; and TypeError where the outputs are numbers.
        """
        if not self.targets.probabilities:
            raise TypeError(f"loss = {self.loss}: the outputs are numbers, which predict returns")
        return _answered(self.network, _checked(_by_name(X, self.feature_names), self.features))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the number of the most probable class (m,) of each row of X (m, n_0); of equals, the first.

        Of labels whether each is above ½, (m, n_T) of 0 and 1; of numbers the values in their own units, float64:
        (m,) for one, (m, n_T) for several, (m, Q) or (m, n_T, Q) for quantiles. Raises ValueError as predict_proba.
        """
        rows, targets = _checked(_by_name(X, self.feature_names), self.features), self.targets
        found = _answered(self.network, rows)
        return _named(found if targets.probabilities else targets.in_units(found), targets)


class EnsembleModel:
    """Networks that answer together, such as the members of a search. Local, picklable, never changed."""

    def __init__(self, networks: Sequence[Network]) -> None:
        """Take networks with the same features and targets; raises ValueError where they have not."""
        self.ensemble = Ensemble(networks)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the n_L classes; `predict` returns their numbers. None where the outputs are numbers."""
        return self.ensemble.classes

    @property
    def members(self) -> int:
        """How many networks there are."""
        return len(self.ensemble.networks)

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the mean probabilities (m, n_L) for the rows X (m, n_0). Raises ValueError, TypeError as `Model`."""
        if not self.ensemble.targets.probabilities:
            raise TypeError(f"loss = {self.ensemble.targets.loss}: the outputs are numbers, which predict returns")
        return self._answer(X).mean

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the number of the most probable class (m,) of each row of X (m, n_0); of equals, the first.

        Of labels whether each is above ½, and of numbers the mean values in their own units, shaped as `Model`'s.
        """
        return _named(self._answer(X).mean, self.ensemble.targets)

    def spread(self, X: ArrayLike) -> NDArray[Any]:
        """Return the standard deviation (m, n_L) of the members' probabilities or values."""
        return self._answer(X).deviation

    def quantiles(self, X: ArrayLike) -> NDArray[Any]:
        """Return the members' probabilities or values (m, n_L, 3) at the levels 0.05, 0.5 and 0.95."""
        return self._answer(X).quantiles

    def _answer(self, X: ArrayLike) -> Answer:
        names = self.ensemble.networks[0].feature_names
        rows = _checked(_by_name(X, names), self.ensemble.features)
        with np.errstate(over="ignore", invalid="ignore"):
            answer = self.ensemble.answer(rows)
        _check_answers(answer.mean)
        return answer


def _answered(network: Network, X: NDArray[Any]) -> NDArray[Any]:
    """Return a network's outputs (m, n_L). Raises ValueError where one is no number."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = network.outputs(X)
    _check_answers(found)
    return found


def _check_answers(found: NDArray[Any]) -> None:
    if (row := first_not_finite(found)) is not None:
        raise ValueError(f"the answer to row {row} of X is no number: its features are too large")


def _named(found: NDArray[Any], targets: Targets) -> NDArray[Any]:
    """Return what is named of probabilities (m, n_L): class numbers (m,), or labels; or values, by number and level."""
    if targets.classes:
        return np.asarray(np.argmax(found, axis=1))
    if targets.probabilities:
        return (found > 0.5).astype(np.int64)
    values = found.reshape(len(found), targets.count, -1)
    return values.squeeze(axis=tuple(axis for axis in (1, 2) if values.shape[axis] == 1))


def _layers_of(parameters: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Return the parameters in this machine's order of bytes. Raises ValueError where their shapes make no layers."""
    found = {name: np.asarray(array) for name, array in parameters.items()}
    dtypes, before = {array.dtype.newbyteorder("=") for array in found.values()}, None
    if len(dtypes) != 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        kinds = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"parameters are of {kinds or 'no dtype'}: must all be float32, or all float64")
    for l in range(1, max(2, (len(found) + 1) // 2 + 1)):
        W, b = (found.get(f"{kind}{l}", np.zeros(())) for kind in "Wb")
        if W.ndim != 2 or b.shape != W.shape[:1] or 0 in W.shape or before not in (None, W.shape[1]):
            shapes = ", ".join(f"{name} {array.shape}" for name, array in found.items())
            raise ValueError(f"parameters are {shapes}: must be W1 (n_1, n_0), b1 (n_1,), W2 (n_2, n_1), …")
        before = len(b)
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in found.items()}


def _map_of(standardization: Mapping[str, ArrayLike] | None, n: int) -> dict[str, NDArray[Any]] | None:
    """Return a copy of mean and scale, float64. Raises ValueError for other shapes, and for what divides by nothing."""
    if standardization is None:
        return None
    found = {name: np.array(standardization.get(name, ()), np.float64) for name in ("mean", "scale")}
    for name, array in found.items():
        if array.shape != (n,) or not np.isfinite(array).all() or (name == "scale" and (array <= 0).any()):
            what = "positive finite numbers" if name == "scale" else "finite numbers"
            raise ValueError(f"standardization: {name} has shape {array.shape}, must be {what}, ({n},)")
    return found


def _by_name(X: Any, names: tuple[str, ...] | None) -> NDArray[Any]:
    """Return rows whose columns are in the order of training: those of a data frame that has names, by name.

    Columns that are called by numbers have names where one of them is a feature's. Raises ValueError for a name that it
    has not, or twice, and for rows of which some numbers are masked; warns of columns that take no part.
    """
    if hasattr(X, "toarray"):
        raise ValueError("X is sparse: must be rows of all numbers, as X.toarray() gives")
    if np.ma.is_masked(X):
        raise ValueError("X has numbers that are masked: must be a finite number each")
    labels = list(getattr(X, "columns", ()))
    found = list(map(str, labels))
    named = any(isinstance(label, str) for label in labels) or not {*found}.isdisjoint(names or ())
    if names is None or not named or found == list(names):
        return np.asarray(X)
    there = Counter(found)
    for name in names:
        if (count := there[name]) != 1:
            raise ValueError(f"X has {count or 'no'} columns called {name!r}: must have each that training had, once")
    known = set(names)
    if others := [name for name in found if name not in known]:
        warnings.warn(f"columns of X that take no part: {', '.join(others[:20])}", stacklevel=3)
    places = dict(zip(found, labels, strict=True))
    return np.asarray(X[[places[name] for name in names]])


def _checked(X: NDArray[Any], features: int) -> NDArray[Any]:
    """Return rows that a network can take. Raises ValueError."""
    if X.ndim != 2 or X.shape[1] != features:
        raise ValueError(f"X has shape {X.shape}: must be (rows, {features})")
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
    network = Network.of(checkpoints.find(Path(path)))
    if not network.origin["events"]:
        network.origin = {**network.origin, "events": _told(Path(path), network.origin["step"])}
    return Model.of(network)


def _told(path: Path, step: int) -> list[Event]:
    """Return what a run's journal tells until a step; nothing where there is none that can be read."""
    folder = path if path.is_dir() else path.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    try:
        events, _ = journal.parse((folder / journal.JOURNAL).read_bytes())
    except (OSError, ValueError):
        return []
    return [event for event in events if event["step"] <= step or event.get("event") == "final"]


def load_ensemble(path: str | Path) -> EnsembleModel:
    """Return the members of the search in a folder as one model; of anything that `load` takes, one network.

    Raises DataError where one is damaged or has not been trained to its end, StorageError where it cannot be read.
    """
    from ddp_mlp.trials.files import trained_members

    networks = [Network.of(checkpoints.find(member)) for member in trained_members(Path(path))]
    try:
        return EnsembleModel(networks)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
