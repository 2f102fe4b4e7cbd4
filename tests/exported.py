"""What tests of exports share: networks with random parameters, their answers by plain arithmetic, compilers."""

import ctypes
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ddp_mlp.exporting.c_code import c_source
from ddp_mlp.exporting.description import Description, example_rows
from ddp_mlp.exporting.fortran_code import fortran_source
from ddp_mlp.exporting.literals import identifier
from ddp_mlp.exporting.panels import in_a_file, in_panels

Rows = NDArray[np.float64]

C_WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
FORTRAN_WARNINGS = ("-std=f2008", "-Wall", "-Werror")

erf = np.vectorize(math.erf, otypes=[np.float64])

FUNCTIONS: dict[str, Callable[[Rows], Rows]] = {
    "relu": lambda z: np.where(z > 0, z, 0.0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "tanh": np.tanh,
    "sigmoid": lambda z: (1 + np.tanh(z / 2)) / 2,
    "softplus": lambda z: np.logaddexp(0, z),
    "gelu": lambda z: z * (1 + erf(z / math.sqrt(2))) / 2,
    "silu": lambda z: z * (1 + np.tanh(z / 2)) / 2,
    "identity": lambda z: z,
    "exp": np.exp,
    "softmax": lambda z: np.exp(z - np.logaddexp.reduce(z, axis=1)[:, None]),
}
"""The definitions, in other words than the exports'."""


def described(
    widths: tuple[int, ...] = (7, 20, 33, 3),
    activation: str | tuple[str, ...] = "relu",
    output: str | tuple[str, ...] = "softmax",
    dtype: str = "float32",
    seed: int = 0,
    **changes: Any,
) -> Description:
    """Return a network with random parameters and names that need care."""
    rng = np.random.default_rng(seed)
    parameters = {}
    for l in range(1, len(widths)):
        parameters[f"W{l}"] = (rng.normal(size=(widths[l], widths[l - 1])) * math.sqrt(2 / widths[l - 1])).astype(dtype)
        parameters[f"b{l}"] = (0.1 * rng.normal(size=widths[l])).astype(dtype)
    n, n_L = widths[0], widths[-1]
    activations = (activation,) * (len(widths) - 2) if isinstance(activation, str) else activation
    outputs = (output,) * n_L if isinstance(output, str) else output
    numbers = not {"softmax", "sigmoid", "exp"} & set(outputs)
    found: dict[str, Any] = {
        "mean": 10 * rng.normal(size=n),
        "scale": rng.uniform(0.5, 20, n),
        "target_mean": rng.normal(size=n_L) if output == "identity" else None,
        "target_scale": rng.uniform(0.5, 3, n_L) if numbers else None,
        "feature_names": tuple(f"f{i} */ /* ??/ %s \\ \\n" for i in range(n)),
        "output_names": tuple(f'o{k} "it\'s" ç犬\n' for k in range(n_L)),
        "classes": output == "softmax",
        "exact": False,
    }
    found |= changes
    X = example_rows(found["mean"], found["scale"], n)
    network = Description(parameters, activations, outputs, "0" * 64, **{"examples": None, **found})
    return replace(network, examples=(X, answers(network, X)))


def answers(network: Description, X: Rows) -> Rows:
    """Return what the network gives for the rows X (m, n_0), in float64 throughout."""
    A = X if network.mean is None else X - network.mean
    A = A if network.scale is None else A / network.scale
    for l, (W, b) in enumerate(network.layers, start=1):
        z = A @ W.astype(np.float64).T + b
        A = FUNCTIONS[network.activations[l - 1]](z) if l < len(network.layers) else _outputs(network, z)
    A = A if network.target_scale is None else A * network.target_scale
    return A if network.target_mean is None else A + network.target_mean


def _outputs(network: Description, z: Rows) -> Rows:
    if network.softmax:
        return FUNCTIONS["softmax"](z)
    return np.stack([FUNCTIONS[name](z[:, k]) for k, name in enumerate(network.outputs)], axis=1)


def difference(network: Description, found: Rows, expected: Rows) -> float:
    """Return the largest difference, as a part of the largest value of its output, or of its scale (1 without one)."""
    assert np.isfinite(found).all()
    scale = 1 if network.target_scale is None else network.target_scale
    return float(np.max(np.abs(found - expected) / np.maximum(scale, np.abs(expected).max(axis=0))))


def compiler(name: str) -> str:
    """Return the name of a compiler (or checker) that is there; skip, or fail where all of them must be."""
    if shutil.which(name) is None:
        if os.environ.get("DDP_MLP_COMPILERS") == "required":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return name


def run(folder: Path, *command: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and return its exit code and output."""
    return subprocess.run([*command], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)


def build(folder: Path, *command: str | Path) -> None:
    """Run a compiler in a folder: it succeeds and says nothing."""
    outcome = run(folder, *command)
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome.stderr[:2000]


class Compiled:
    """A network in a shared library, called as C and Fortran programs call it."""

    def __init__(self, network: Description, folder: Path, language: str, cc: str, *flags: str) -> None:
        """Generate the source of a language ("c" or "f90"), compile it without a warning, and load it."""
        source = c_source(network, "model") if language == "c" else fortran_source(network, "model")
        folder.mkdir(exist_ok=True)
        (folder / f"model.{language}").write_text(source, encoding="utf-8")
        warnings = C_WARNINGS if language == "c" else FORTRAN_WARNINGS
        libraries = ["-lm"] if language == "c" else []
        out = "model.so"
        build(folder, compiler(cc), *warnings, *flags, "-shared", "-fPIC", "-o", out, f"model.{language}", *libraries)
        self._library = ctypes.CDLL(str(folder / out))
        self._language = language
        self._outputs = network.widths[-1]
        if in_a_file(network):
            (folder / "model.bin").write_bytes(in_panels(network).image())

    def load(self, path: Path) -> int:
        """Read the weights and return the status."""
        name = str(path).encode()
        if self._language == "c":
            return int(self._library.model_load(name))
        status = ctypes.c_int()
        self._procedure("load_weights")(name, ctypes.byref(status), ctypes.c_size_t(len(name)))
        return status.value

    def one(self, x: Rows) -> Rows:
        """Return the outputs of one row."""
        y = np.empty(self._outputs)
        self._procedure("predict_one")(_pointer(np.ascontiguousarray(x)), _pointer(y))
        return y

    def many(self, X: Rows) -> Rows:
        """Return the outputs of all rows."""
        Y = np.empty((len(X), self._outputs))
        rows = ctypes.c_size_t(len(X)) if self._language == "c" else ctypes.byref(ctypes.c_int(len(X)))
        self._procedure("predict_many")(rows, _pointer(np.ascontiguousarray(X)), _pointer(Y))
        return Y

    def _procedure(self, name: str) -> Any:
        return self._library[f"model_{name}" if self._language == "c" else f"__{identifier('model')}_MOD_{name}"]


def _pointer(array: NDArray[Any]) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)
