"""A trained network: its parameters, what stands before them (standardization) and behind them (names of classes).

Rows are computed in fixed blocks with one BLAS thread, as training evaluates them, so that a row's probabilities have
the same bits whoever computes its block, and however many rows are held in memory at a time.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.memory import MemorySource
from ddp_mlp.inference.evaluate import ForwardPass, forward_blocks
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.nn.parameters import Layout, parameters_sha256
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.nn.threads import blas_threads
from ddp_mlp.storage import weights
from ddp_mlp.storage.checkpoint import Checkpoint


class Network:
    """A trained network with its class names and the standardization of its inputs. Local, picklable, never changed."""

    arithmetic: Arithmetic = NATIVE
    """That of its training; pickles of version 0.1 say nothing of it."""

    def __init__(
        self,
        parameters: Mapping[str, NDArray[Any]],
        classes: tuple[str, ...],
        standardization: Mapping[str, NDArray[Any]] | None = None,
        arithmetic: Arithmetic = NATIVE,
    ) -> None:
        """Copy {"W1": (n_1, n_0), …} and, if wanted, standardization {"mean": …, "scale": …}, both (n_0,)."""
        self.arithmetic = arithmetic
        self.layout = Layout(weights.widths(parameters))
        self.classes = classes
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

    @classmethod
    def of(cls, found: Checkpoint) -> Self:
        """Return the network of a checkpoint."""
        arithmetic = arithmetics.called(found.config.get("arithmetic", NATIVE.name))
        return cls(found.parameters, found.classes, found.standardization, arithmetic)

    @property
    def output(self) -> SoftmaxCrossEntropy:
        """The output layer."""
        return SoftmaxCrossEntropy(functions=self.arithmetic.functions)

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

    def probabilities(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return the probabilities (m, n_L) of all classes for the rows X (m, n_0), which are standardized here."""
        source = self.source(X, np.zeros(len(X), np.int64))
        found = np.empty((len(X), self.layout.widths[-1]), self.dtype)
        with blas_threads(1):
            for block, group in self.forward(source):
                self.output.values(group, found[block])
        return found

    def source(self, X: NDArray[Any], y: NDArray[np.int64], w: NDArray[np.float64] | None = None) -> MemorySource:
        """Return rows as this network takes them: X (m, n_0) C-contiguous, class numbers y (m,), weights w (m,)."""
        return MemorySource(X, y, w, self.arithmetic.working(self.dtype), self.standardization)

    def forward(self, source: MemorySource) -> Iterator[tuple[slice, Group]]:
        """Compute the rows of a source block by block; yield each block, and its group with z in A[L]. Local.

        The group is overwritten by the next block. BLAS must have one thread.
        """
        return forward_blocks(ForwardPass(self.layout, self._flat, self.arithmetic), source)
