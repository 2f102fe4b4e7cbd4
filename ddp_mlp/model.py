"""A trained network, ready for use: rows of features as they are in, probabilities of the classes out.

Rows are computed in fixed blocks of EVALUATION_ROWS with one BLAS thread, as training evaluates them, so that a row's
probabilities have the same bits whoever computes its block, and however many rows are held in memory at a time.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from numpy.typing import ArrayLike, NDArray

from ddp_mlp.data.memory import MemorySource
from ddp_mlp.inference.evaluate import ForwardPass, forward_blocks
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.nn.parameters import Layout, parameters_sha256
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.storage import checkpoint as checkpoints
from ddp_mlp.storage import weights


class Model:
    """A network with its class names and the standardization of its inputs. Local, picklable, never changed."""

    def __init__(
        self,
        parameters: Mapping[str, NDArray[Any]],
        classes: tuple[str, ...],
        standardization: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Copy {"W1": (n_1, n_0), …} and, if wanted, standardization {"mean": …, "scale": …}, both (n_0,)."""
        self.layout = Layout(weights.widths(parameters))
        self.classes = classes
        """The names of the n_L classes; `predict` returns their numbers."""
        self.dtype: np.dtype[Any] = parameters["W1"].dtype
        """That of parameters and probabilities."""
        if standardization is None:
            n = self.layout.widths[0]
            self.standardization = Standardization(np.zeros(n), np.ones(n), used=False)
        else:
            self.standardization = Standardization(standardization["mean"], standardization["scale"])
        self._flat = np.zeros(self.layout.length, self.dtype)
        self.layout.fill(self._flat, parameters)
        self._flat.setflags(write=False)

    @property
    def features(self) -> int:
        """The number of features, n_0."""
        return self.layout.widths[0]

    @property
    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters {"W1": (n_1, n_0), "b1": (n_1,), …}, read-only."""
        return self.layout.arrays(self._flat)

    @property
    def parameters_sha256(self) -> str:
        """The SHA-256 of the parameters by which two runs are compared."""
        return parameters_sha256(self.parameters.values())

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probabilities (m, n_L) of all classes for the rows X (m, n_0), which are standardized here.

        Raises ValueError where X has another shape, is not of real numbers, or has some that are not finite.
        """
        rows = self._checked(np.asarray(X))
        source = MemorySource(rows, np.zeros(len(rows), np.int64), None, self.dtype, self.standardization)
        probabilities = np.empty((len(rows), self.layout.widths[-1]), self.dtype)
        with _libraries().limit(limits=1, user_api="blas"):
            for block, group in self.forward(source):
                SoftmaxCrossEntropy().values(group, probabilities[block])
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the number of the most probable class (m,) of each row of X (m, n_0); of equals, the first."""
        numbers: NDArray[np.int64] = np.argmax(self.predict_proba(X), axis=1)
        return numbers

    def forward(self, source: MemorySource) -> Iterator[tuple[slice, Group]]:
        """Compute the rows of a source block by block; yield each block, and its group with z in A[L]. Local.

        The group is overwritten by the next block. BLAS must have one thread.
        """
        return forward_blocks(ForwardPass(self.layout, self._flat), source)

    def _checked(self, X: NDArray[Any]) -> NDArray[Any]:
        if X.ndim != 2 or X.shape[1] != self.features:
            raise ValueError(f"X has shape {X.shape}: must be (rows, {self.features})")
        if X.dtype.kind not in "fiub":
            raise ValueError(f"X is {X.dtype}: must be real numbers")
        if not np.isfinite(X).all():
            row, column = np.argwhere(~np.isfinite(X))[0]
            raise ValueError(f"X[{row}, {column}] is {X[row, column]}: must be a finite number")
        return np.ascontiguousarray(X.view(np.uint8) if X.dtype.kind == "b" else X)


@cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    """Return this process's BLAS libraries; to look for them takes longer than to classify a row."""
    return threadpoolctl.ThreadpoolController()


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
    found = checkpoints.find(Path(path))
    return Model(found.parameters, found.classes, found.standardization)
