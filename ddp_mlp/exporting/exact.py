"""Portable arithmetic in C and Fortran: the same bits as this program's, with any compiler and any of its options.

Invariants:
- products of matrices are exact (nn/products.py): their order, and what a compiler contracts, cannot matter;
- every other product that is followed by an addition is kept apart from it by a volatile variable: compilers contract
  across statements, and gfortran across parentheses too, where it vectorises;
- functions are those of nn/elementary.py, operation by operation, with its constants.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError
from ddp_mlp.exporting.literals import c_numbers, fill_template, fortran_numbers, template, wrapped
from ddp_mlp.nn import elementary, products
from ddp_mlp.nn.activations import LEAK

Layers = list[tuple[NDArray[np.float64], NDArray[np.float64]]]

NEEDED = {
    "product": (),
    "polynomial": ("product",),
    "exp_in_two": ("product", "polynomial"),
    "exp": ("exp_in_two",),
    "log1p": ("product", "polynomial"),
    "tanh": ("product", "polynomial", "exp_in_two"),
    "erf": ("product", "polynomial", "exp_in_two"),
    "leaky_relu": ("product",),
    "elu": ("tanh",),
    "sigmoid": ("exp",),
    "softplus": ("exp", "log1p"),
    "gelu": ("product", "erf"),
    "silu": ("product", "exp"),
    "softmax": ("exp",),
}
"""What each function is made of; the first seven have a template each, in this order."""
PIECES = tuple(NEEDED)[:7]

C = {
    "relu": "z < 0 ? 0 : z",
    "leaky_relu": f"z < 0 ? product(z, {LEAK}) : z",
    "elu": "(z < 0 ? 0 : z) + 2 * (exact_tanh(0.5 * (z < 0 ? z : 0)) / (1 - exact_tanh(0.5 * (z < 0 ? z : 0))))",
    "tanh": "exact_tanh(z)",
    "sigmoid": "(z < 0 ? exact_exp(-fabs(z)) : 1) / (1 + exact_exp(-fabs(z)))",
    "softplus": "(z < 0 ? 0 : z) + exact_log1p(exact_exp(-fabs(z)))",
    "gelu": f"product(z, 0.5 * (1 + exact_erf(product(z, {elementary.SQRT_HALF!r}))))",
    "silu": "product(z, (z < 0 ? exact_exp(-fabs(z)) : 1) / (1 + exact_exp(-fabs(z))))",
    "identity": "z",
    "exp": "exact_exp(z)",
}
"""As in nn/activations.py; a product by 2 or ½ is exact and may stand anywhere."""

FORTRAN = {
    "relu": ["f = merge(0.0_wp, z, z < 0)"],
    "leaky_relu": [f"f = merge(times(z, {LEAK}_wp), z, z < 0)"],
    "elu": ["e = exact_tanh(0.5_wp * merge(z, 0.0_wp, z < 0))", "f = merge(0.0_wp, z, z < 0) + (2 * (e / (1 - e)))"],
    "tanh": ["f = exact_tanh(z)"],
    "sigmoid": ["e = exact_exp(-abs(z))", "f = merge(e, 1.0_wp, z < 0) / (1 + e)"],
    "softplus": ["e = exact_exp(-abs(z))", "f = merge(0.0_wp, z, z < 0) + exact_log1p(e)"],
    "gelu": [f"e = exact_erf(times(z, {elementary.SQRT_HALF!r}_wp))", "f = times(z, 0.5_wp * (1 + e))"],
    "silu": ["e = exact_exp(-abs(z))", "f = times(z, merge(e, 1.0_wp, z < 0) / (1 + e))"],
    "identity": ["f = z"],
    "exp": ["f = exact_exp(z)"],
}


def rounded(layers: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> tuple[Layers, list[int]]:
    """Return every layer's (W, b) in float64, W rounded as its products take it, and the bits of what it multiplies.

    Raises DataError for a layer whose sums are too long to be exact.
    """
    found, bits = [], []
    for W, b in layers:
        n, n_prev = W.shape
        if max(n, n_prev) > products.LONGEST:
            raise DataError(f"a layer of {n} × {n_prev} is too wide for exact code: {products.LONGEST} at most")
        wanted = products.layer_bits(n_prev, n)
        wide = W.astype(np.float64)
        products.round_to(wide, products.units(products.exponents(products.largest(wide, 1)), wanted.W), wide)
        found.append((wide, b.astype(np.float64)))
        bits.append(wanted.A)
    return found, bits


def pieces(functions: Iterable[str], more: Iterable[str] = ()) -> list[str]:
    """Return the names of the templates that these functions need, each after what it is made of itself."""
    wanted, waiting = set(more), [*functions, *more]
    while waiting:
        needed = NEEDED.get(waiting.pop(), ())
        waiting += needed
        wanted |= set(needed)
    wanted |= {name for name in functions if name in PIECES}
    return [name for name in PIECES if name in wanted]


def c_functions(functions: Iterable[str], more: Iterable[str] = ()) -> str:
    """Return the C code of rounding, and of all that these functions need."""
    constants = _constants(lambda values: ", ".join(c_numbers(values)))
    text = "".join(template(f"exact_{name}.c") for name in pieces(functions, more))
    return fill_template(template("exact_settle.c") + text, constants)


def fortran_functions(functions: Iterable[str], more: Iterable[str] = ()) -> str:
    """Return the Fortran code of rounding, and of all that these functions need."""
    constants = _constants(lambda values: wrapped(fortran_numbers(values), " " * 12, " &"))
    constants |= {name: text.strip() for name, text in constants.items() if "&" not in text and "," not in text}
    text = "".join(template(f"exact_{name}.f90") for name in pieces(functions, more))
    return fill_template(template("exact.f90"), constants | {"functions": fill_template(text, constants)})


def _constants(written: Callable[[NDArray[np.float64]], str]) -> dict[str, str]:
    names = (name for name in vars(elementary) if name.isupper())
    values = {name: np.atleast_1d(np.array(getattr(elementary, name), np.float64)) for name in names}
    values["ROUNDING"] = np.array([products.ROUNDING])
    values["HUGE"] = np.array([2.0**products.UNIT_LIMIT])
    return {name: written(value) for name, value in values.items()} | {"UNIT_LIMIT": str(products.UNIT_LIMIT)}
