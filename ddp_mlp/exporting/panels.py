"""Weights as generated code holds them: in panels of outputs, in the source or in a file beside it.

Invariants:
- a panel is W's rows for LANES outputs, stored input by input, (n_{l-1}, LANES); the last one is filled up with zeros,
  and so is b: one vector register takes a panel's row, and every part begins on a multiple of 64 bytes;
- the file is W1, b1, W2, b2, … in that form, little-endian, and nothing else: its SHA-256 is what `sha256sum` prints.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.exporting import exact
from ddp_mlp.exporting.description import Description
from ddp_mlp.exporting.literals import comment
from ddp_mlp.units import byte_size

VECTOR_BYTES = 64
"""Of a panel's row: the widest vector register."""
EMBEDDED = 200_000
"""Parameters that stand in the source; more go into a file beside it."""
ROWS = 8
"""Rows that a panel is multiplied by at a time."""
STACK_BYTES = 256 << 10
"""A block of rows takes about this much of a thread's stack, unless one group of ROWS rows takes more."""
GROUPS = 8
"""Groups of ROWS rows that a block has, at most."""
CHUNK = 32
"""Inputs whose products are added up one after the other: short chains keep rounding errors small."""


@dataclass(frozen=True)
class Panels:
    """A network's parameters in panels, and the sizes that the code around them needs."""

    parts: dict[str, NDArray[Any]]
    """`W1` (panels, n_0, LANES), `b1` (panels, LANES), …"""
    lanes: int
    widest: int
    """The largest width, rounded up to whole panels."""
    groups: int
    bits: tuple[int, ...] = ()
    """(L,): to which what a layer multiplies is rounded; of exact networks alone."""

    @property
    def size(self) -> int:
        """The numbers of all parts, zeros included."""
        return sum(part.size for part in self.parts.values())

    def offset(self, name: str) -> int:
        """Return where a part begins, in numbers, if all parts follow one another."""
        names = list(self.parts)
        return sum(self.parts[before].size for before in names[: names.index(name)])

    def flat(self) -> NDArray[Any]:
        """Return all parts, one behind the other, (size,)."""
        return np.concatenate([part.ravel() for part in self.parts.values()])

    def image(self) -> bytes:
        """Return the bytes of the file beside the source."""
        flat = self.flat()
        return flat.astype(flat.dtype.newbyteorder("<")).tobytes()

    def sha256(self) -> str:
        """Return the hash (hex) of that file."""
        return hashlib.sha256(self.image()).hexdigest()

    def about(self, beside: str | None, load: str) -> list[str]:
        """Return what a user of the code must know of memory, and of a file `beside` it that `load` reads."""
        one = 2 * self.widest * self.parts["b1"].itemsize
        many = self.groups * ROWS * (one + VECTOR_BYTES)
        lines = [f"A thread needs about {byte_size(many)} of stack for predict_many, {byte_size(one)} for predict_one."]
        if beside is not None:
            lines.append(f"The weights are in {comment(beside)}: a program calls {load} once, before it predicts.")
        return lines


def in_panels(network: Description) -> Panels:
    """Return the network's parameters in panels."""
    lanes = VECTOR_BYTES // network.dtype.itemsize
    parts: dict[str, NDArray[Any]] = {}
    layers, bits = exact.rounded(network.layers) if network.exact else (network.layers, [])
    for l, (W, b) in enumerate(layers, start=1):
        n, n_prev = W.shape
        count = -(-n // lanes)
        padded = np.zeros((count * lanes, n_prev + 1), network.dtype)
        padded[:n, :-1], padded[:n, -1] = W, b
        parts[f"W{l}"] = np.ascontiguousarray(padded[:, :-1].reshape(count, lanes, n_prev).swapaxes(1, 2))
        parts[f"b{l}"] = padded[:, -1].reshape(count, lanes).copy()
    widest = -(-max(network.widths) // lanes) * lanes
    group_bytes = 2 * widest * ROWS * network.dtype.itemsize
    groups = max(1, min(GROUPS, STACK_BYTES // group_bytes))
    return Panels(parts, lanes, widest, groups, tuple(bits))


def in_a_file(network: Description) -> bool:
    """Tell whether the weights are too many for the source, and go into a file beside it."""
    return network.count > EMBEDDED
