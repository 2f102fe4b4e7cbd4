"""Portable maths on NumPy alone, 1.24 or later: elementary functions, draws, and a few steps; prints their SHA-256."""

import hashlib
import platform
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddp_mlp.nn import cosine, elementary, optimizers, products
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.arithmetic import PORTABLE
from ddp_mlp.nn.lines import Limbs, Lines, sample
from ddp_mlp.nn.outputs import SoftmaxCrossEntropy
from ddp_mlp.nn.parameters import Layout, parameters_sha256
from ddp_mlp.nn.portable import Pass, RoundedWeights
from ddp_mlp.nn.randomness import Purpose, kept, words

LAYOUT = Layout((64, 48, 32, 10))
M, STEPS = 64, 10


def trained() -> str:
    """Return the hash of a network after some steps of momentum on a batch that is cut into two uneven shares."""
    network = Architecture(LAYOUT, output=SoftmaxCrossEntropy(0.1)).portable
    flat = np.zeros(LAYOUT.length, np.float32)
    LAYOUT.initialize(flat, 5, arithmetic=PORTABLE)
    W, b = LAYOUT.views(flat)
    drawn = words(0, Purpose.CANARY, 8, count=M * 65).reshape(M, 65)
    X, y = (
        (drawn[:, :64] >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1,
        (drawn[:, 64] % np.uint64(10)).astype(int),
    )
    weights = RoundedWeights(LAYOUT.widths)
    momentum = optimizers.create("momentum", power=PORTABLE.power)
    state, scratch = momentum.init(LAYOUT.length, np.dtype(np.float32)), np.empty(LAYOUT.length, np.float32)
    for step in range(1, STEPS + 1):
        weights.look(W)
        weights.set(W)
        shares = []
        for rows in (slice(0, 23), slice(23, M)):
            group = network.group([rows.stop - rows.start], np.dtype(np.float64))
            lines = Lines(LAYOUT.widths)
            group.A[0].whole[...], group.y[...] = X[rows].T, y[rows]
            way = Pass(group, weights, lines)
            way.forward(b)
            network.output.gradient(group)
            way.backward(sample(rows.start, group.m, M))
            lines.end()
            shares.append((way, lines))
        table = np.maximum(shares[0][1].table, shares[1][1].table)
        table[1:] = shares[0][1].table[1:] + shares[1][1].table[1:]
        gradient, total = np.zeros(LAYOUT.length), np.zeros(LAYOUT.length)
        for way, lines in shares:
            lines.table[...] = table
            limbs = Limbs(lines, M)
            more = np.zeros(limbs.length)
            way.weight_gradient(limbs, *LAYOUT.views(gradient), more)
            limbs.spread_out(more, *LAYOUT.views(gradient))
            total += gradient
        momentum.update(flat, (total / M).astype(np.float32), state, step, 0.05, scratch)
    return parameters_sha256(LAYOUT.arrays(flat).values())


def functions() -> str:
    """Return the hash of the elementary functions and of the draws."""
    drawn = words(0, Purpose.CANARY, 9, count=4000)
    x = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-49 - 8
    digest = hashlib.sha256()
    for name in ("exp", "expm1", "tanh", "erf", "cos", "log", "log1p"):
        function = cosine.cos if name == "cos" else getattr(elementary, name)
        digest.update(function(np.abs(x) if name.startswith("log") else x).astype("<f8").tobytes())
    digest.update(PORTABLE.permutation(1000, 1, Purpose.ORDER, 2).astype("<i8").tobytes())
    digest.update(PORTABLE.normal((30, 7), 1, Purpose.WEIGHTS, 2).astype("<f8").tobytes())
    digest.update(kept(range(5, 50), 33, 0.3, 1, Purpose.DROPOUT, 2, 3).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    products.check_rounding()
    print(f"{platform.machine()}, {sys.byteorder}-endian, NumPy {np.__version__}", file=sys.stderr)
    print(functions())
    print(trained())
