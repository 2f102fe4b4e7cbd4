"""A trained network: its parameters, what stands before them (standardization) and behind them (names of classes).

Rows are computed in fixed blocks with one BLAS thread, as training evaluates them, so that a row's probabilities have
the same bits whoever computes its block, and however many rows are held in memory at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.data.memory import MemorySource
from ddp_mlp.data.targets import standardization_of_targets
from ddp_mlp.inference.evaluate import ForwardPass, forward_blocks
from ddp_mlp.nn import architecture
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.nn.buffers import Group
from ddp_mlp.nn.parameters import Layout, parameters_sha256
from ddp_mlp.nn.standardization import Standardization
from ddp_mlp.nn.targets import OWN_FUNCTIONS, Targets
from ddp_mlp.nn.threads import blas_threads
from ddp_mlp.storage import weights
from ddp_mlp.storage.checkpoint import Checkpoint


class Network:
    """A trained network with its class names and the standardization of its inputs. Local, picklable, never changed."""

    arithmetic: Arithmetic = NATIVE
    """That of its training; pickles of version 0.1 say nothing of it."""
    origin: Mapping[str, Any] = MappingProxyType({})
    """What it was made of, as `inference/keeping.py` has it; nothing where that is not known."""
    scored_by: Mapping[str, Any] = MappingProxyType({})
    """How training forms the loss of rows whose targets are known, as `architecture.create` has it: huber_delta and the
    weight (n_T,) of each number, where they are not its defaults."""

    def __init__(
        self,
        parameters: Mapping[str, NDArray[Any]],
        classes: tuple[str, ...],
        standardization: Mapping[str, NDArray[Any]] | None = None,
        targets: Targets | None = None,
        activation: str = "relu",
        output_activation: str = "identity",
        arithmetic: Arithmetic = NATIVE,
        inputs: Mapping[str, Any] | None = None,
        scored_by: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy {"W1": (n_1, n_0), …} and, if wanted, standardization {"mean": …, "scale": …}, both (n_0,).

        `classes` are those of the outputs, or they are the numbers of `targets`; the functions of the layers are as the
        configuration has them. `inputs` is what a checkpoint knows of the inputs: the names of the features, their
        shape, a recipe.
        """
        widths = weights.widths(parameters)
        self.arithmetic = arithmetic
        self.inputs = dict(inputs or {})
        self.targets = Targets(classes=classes) if targets is None else targets
        self.output_activation = output_activation
        self.scored_by = dict(scored_by or {})
        self.architecture = self._architecture_of(widths, activation)
        if self.layout.widths != widths:
            raise ValueError(f"a network of {widths[-1]} outputs, but {self.layout.widths[-1]} are named")
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
        targets = Targets.from_dict(found.targets, found.classes)
        functions = weights.of_checkpoint(found).functions or {}
        arithmetic = arithmetics.called(found.config.get("arithmetic", NATIVE.name))
        network = cls(
            found.parameters,
            found.classes,
            found.standardization,
            targets,
            **functions,
            arithmetic=arithmetic,
            inputs=found.inputs,
            scored_by=_scored_by(found.config, targets),
        )
        origin = {name: getattr(found, name) for name in ("config", "epoch", "step", "data", "versions")}
        events = found.progress.get("events")
        told = [event for event in events if _is_event(event)] if isinstance(events, list) else []
        network.origin = origin | {"events": told}
        return network

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: of the architecture what it is made from, since it holds functions."""
        return {**self.__dict__, "architecture": (self.layout.widths, self.architecture.activation)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled; version 0.1 had networks of ReLU and classes alone."""
        state = {"inputs": {}, **state}
        if "architecture" not in state:
            classes = state.pop("classes")
            of_0_1 = {"targets": Targets(classes=classes), "output_activation": "identity", "arithmetic": NATIVE}
            state = {**state, **of_0_1, "architecture": (state.pop("layout").widths, "relu")}
        self.__dict__.update(state)
        self.architecture = self._architecture_of(*state["architecture"])

    def _architecture_of(self, widths: Sequence[int], activation: str) -> Architecture:
        """Return the architecture of a network of these widths (n_0, …, n_L), for its targets and arithmetic."""
        functions: dict[str, Any] = {"activation": activation, "output_activation": self.output_activation}
        whole = architecture.create(widths[0], widths[1:-1], self.targets, **functions, **self.scored_by)
        return whole.portable if self.arithmetic.is_portable else whole

    @property
    def layout(self) -> Layout:
        """Where the parameters lie."""
        return self.architecture.layout

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the n_L classes; none where the outputs are numbers."""
        return self.targets.classes

    @property
    def output_functions(self) -> tuple[str, ...]:
        """The name of f_L for each output (n_L,): softmax, sigmoid, exp, identity, softplus or relu."""
        if self.targets.loss in OWN_FUNCTIONS:
            return (OWN_FUNCTIONS[self.targets.loss],) * self.targets.outputs
        names = architecture.one_for_each(self.output_activation, self.targets.count)
        return tuple(name for name in names for _ in range(len(self.targets.quantiles) or 1))

    @property
    def features(self) -> int:
        """The number of features, n_0."""
        return self.layout.widths[0]

    @property
    def flat(self) -> NDArray[Any]:
        """The flat parameter vector (length,), read-only."""
        return self._flat

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the features, where training's data had them."""
        names = self.inputs.get("features")
        return None if names is None else tuple(names)

    @property
    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters {"W1": (n_1, n_0), "b1": (n_1,), …}, read-only."""
        return self.layout.arrays(self._flat)

    @property
    def parameters_sha256(self) -> str:
        """The SHA-256 of the parameters by which two runs are compared."""
        return parameters_sha256(self.parameters.values())

    def outputs(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return A (m, n_L) for the rows X (m, n_0), which are standardized here: numbers in the network's units.

        Probabilities where the outputs are classes or labels.
        """
        n = self.targets.count
        source = self.source(X, np.zeros((len(X), n)) if n else np.zeros(len(X), np.int64))
        found = np.empty((len(X), self.layout.widths[-1]), self.dtype)
        with blas_threads(1):
            for block, group in self.forward(source):
                self.architecture.scoring.values(group, found[block])
        return found

    def predictions(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return (m, n_L) float64 for the rows X (m, n_0): probabilities, or values in their own units."""
        found = self.outputs(X)
        return found.astype(np.float64) if self.targets.probabilities else self.targets.in_units(found)

    def output(self, z: NDArray[Any]) -> NDArray[Any]:
        """Return what the output layer makes of z (m, n_L): probabilities, or values in their units, float64."""
        group = self.architecture.group((len(z),), z.dtype, training=False)
        group.A[group.L].whole.T[...] = z
        found = np.empty_like(z)
        self.architecture.scoring.values(group, found)
        return found if self.targets.probabilities else self.targets.in_units(found)

    def source(self, X: NDArray[Any], y: NDArray[Any], w: NDArray[np.float64] | None = None) -> MemorySource:
        """Return rows as this network takes them: X (m, n_0) C-contiguous, weights w (m,).

        y (m,) are class numbers, or y (m, n_T) numbers in their own units.
        """
        maps = self.standardization, standardization_of_targets(self.targets) if self.targets.count else None
        return MemorySource(X, y, w, self.arithmetic.working(self.dtype), *maps)

    def forward(self, source: MemorySource) -> Iterator[tuple[slice, Group]]:
        """Compute the rows of a source block by block; yield each block, and its group with z in A[L]. Local.

        The group is overwritten by the next block. BLAS must have one thread.
        """
        return forward_blocks(ForwardPass(self.architecture, self._flat, self.arithmetic), source)


def _scored_by(config: Mapping[str, Any], targets: Targets) -> dict[str, Any]:
    """Return what a run's configuration says of the loss of numbers."""
    weights = config.get("target_weight") or {}
    weight = tuple(float(weights.get(name, 1.0)) for name in targets.names)
    delta = float(config.get("huber_delta", 1.0))
    return {"huber_delta": delta, "weight": weight if any(w != 1 for w in weight) else None}


def _is_event(value: Any) -> bool:
    """Tell whether a value of a file is an event of a journal, and not anything else that anybody may write there."""
    return isinstance(value, dict) and isinstance(value.get("event"), str) and isinstance(value.get("step"), int)
