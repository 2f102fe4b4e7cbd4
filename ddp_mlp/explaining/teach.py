"""One step of a tiny network in words, for `--teach`: what each rank has and forms, the sums, the one division.

The numbers come from the code that trains: `backprop`, the shards' tree and `ExactSum`. Beside the result stands what a
mean of the ranks' means would have given, which is wrong as soon as ranks have different numbers of examples.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.nn import architecture, backprop
from ddp_mlp.nn.architecture import Architecture
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.nn.targets import Targets
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.summing.between import ExactSum
from ddp_mlp.summing.tree import Subtree, children, cut

LAYOUT = Layout((2, 2, 2))
PARAMETERS = {
    "W1": np.array([[1.0, -1.0], [0.5, 1.0]]),
    "b1": np.array([0.5, 0.0]),
    "W2": np.array([[1.0, 0.0], [-1.0, 1.0]]),
    "b2": np.zeros(2),
}
INPUTS = np.array([[1.0, 2.0], [2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [1.0, 1.0]])
LABELS = np.array([0, 1, 1, 0, 1])
"""Repeated for as many examples as it takes; as the inputs, and the numbers."""
NUMBERS = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
"""Targets of the other losses; for labels, yes where they are above 0."""
DZ = {"huber": "clip(A − Y, −1, 1)", "absolute_error": "sign(A − Y)", "quantile": "[A > Y] − ½"}
"""At the output, of the losses for which it is not A − Y."""
ALONE = 3
"""Shards where there is one process: it plays as many ranks, one after the other."""
SHOWN = 4
"""Ranks whose numbers are printed."""


class Local(NamedTuple):
    """What comes of some rows: sums over these examples alone."""

    rows: range
    dz: dict[int, NDArray[np.float64]]
    """(n_l, m_local), by layer."""
    gradient: NDArray[np.float64]
    """dW and db as a flat vector (length,)."""
    loss_sum: float


def teach(communicator: Communicator, loss: str = "cross_entropy") -> None:
    """Work one step with this loss through on all ranks, in words, printed by rank 0. Collective."""
    network = network_of(loss)
    K = communicator.size if communicator.size > 1 else ALONE
    m = 2 * K - 1
    theta = np.zeros(LAYOUT.length)
    LAYOUT.fill(theta, PARAMETERS)
    owned, bounds = cut(K, communicator.size), cut(m, K)
    mine = range(owned[communicator.rank], owned[communicator.rank + 1])
    local = {shard: _pass(network, theta, range(bounds[shard], bounds[shard + 1])) for shard in mine}

    def tree_sum(subtree: Subtree) -> NDArray[np.float64]:
        if subtree[1] - subtree[0] == 1:
            return local[subtree[0]].gradient
        left, right = map(tree_sum, children(subtree))
        return left + right

    with communicator:
        reduction = ExactSum(communicator, LAYOUT.length, theta.dtype, K)
        for subtree, partial in zip(reduction.subtrees, reduction.partials, strict=True):
            partial[...] = tree_sum(subtree)
        for shard, found in local.items():
            reduction.tallies.add(shard, found.loss_sum, len(found.rows), 0)
        loss_sum, m_global, _ = reduction.collect(m).shards.sum(axis=0)
        for lo, hi, gradient in reduction.sums(m):
            reduction.parameters[lo:hi] = gradient
        reduction.publish()
        total = reduction.parameters.copy()
        everyone = [found for part in communicator.allgather(list(local.values())) for found in part]
    if communicator.rank == 0:
        whole = _pass(network, theta, range(m))
        print("\n".join(_words(loss, everyone, total, loss_sum, int(m_global), whole, communicator.size)))


def network_of(loss: str) -> Architecture:
    """Return the lesson's network, with the output layer of a loss."""
    targets = Targets(classes=("0", "1"))
    if loss != "cross_entropy":
        targets = Targets(loss, (), ("a", "b"), (0.0, 0.0), (1.0, 1.0), (0.5,) if loss == "quantile" else ())
    return architecture.create(2, (2,), targets)


def _pass(network: Architecture, theta: NDArray[np.float64], rows: range) -> Local:
    """Return the sums over some rows, forward and back, as a training step forms them. Local."""
    group = network.group((len(rows),), theta.dtype)
    group.A[0].whole[...] = _inputs(rows).T
    if network.targets:
        group.Y.whole[...] = example_targets(network.output.loss, rows)
    else:
        group.y[...] = example_targets(network.output.loss, rows)[0]
    W, b = LAYOUT.views(theta)
    gradient = np.zeros(LAYOUT.length)
    dW, db = LAYOUT.views(gradient)
    loss_sum, _ = backprop.gradient_sum(W, b, group, network.output, dW, db)
    return Local(rows, {l: dz.whole for l, dz in group.dz.items()}, gradient, loss_sum)


def _inputs(rows: range) -> NDArray[np.float64]:
    return INPUTS[np.arange(rows.start, rows.stop) % len(INPUTS)]


def example_targets(loss: str, rows: range) -> NDArray[Any]:
    """Return what some rows are to be mapped to: class numbers (1, m), or numbers (2, m)."""
    places = np.arange(rows.start, rows.stop) % len(LABELS)
    if loss == "cross_entropy":
        return LABELS[places][None, :]
    numbers = NUMBERS[places].T
    return (numbers > 0).astype(np.float64) if loss == "binary_cross_entropy" else numbers


def _words(
    loss: str, everyone: list[Local], total: NDArray[Any], loss_sum: float, m: int, whole: Local, size: int
) -> Iterator[str]:
    """Yield the lines of the lesson."""
    K = len(everyone)
    name = "y" if loss == "cross_entropy" else "Y"
    yield f"One step of a 2-2-2 network on m = {m} examples, shared out among {K} ranks"
    if size == 1:
        yield f"(there is one process: it plays {K} ranks in turn; mpirun -n {K} gives the same numbers)"
    yield "Columns are examples. Every rank has the same W and b:"
    yield ""
    yield from _matrices({name: np.atleast_2d(a.T).T for name, a in PARAMETERS.items()})

    for rank, found in enumerate(everyone):
        if rank == SHOWN:
            yield f"\n… and so on, to rank {K - 1}"
            break
        rows = list(found.rows)
        yield f"\nRANK {rank} has m_local = {len(rows)} of them, number {', '.join(map(str, rows))}"
        yield ""
        yield from _matrices({"X": _inputs(found.rows).T, name: example_targets(loss, found.rows)})
        yield "  its loss, a sum over its examples: " + f"{found.loss_sum:.4f}"
        yield f"  dz = {DZ.get(loss, 'A − Y')} at the output, dA ⊙ [z > 0] below; not divided by anything:"
        yield from _matrices({f"dz{l}": found.dz[l] for l in sorted(found.dz, reverse=True)})
        yield "  dW = dz A_prevᵀ and db = Σ dz, sums over its own examples:"
        yield from _gradient(found.gradient)

    yield f"\nTHE SUM over all ranks, in the fixed order {_order((0, K))}"
    yield ""
    yield from _gradient(total)
    yield f"  and of their numbers of examples: m = {' + '.join(str(len(found.rows)) for found in everyone)} = {m}"

    yield f"\nTHE ONE DIVISION, by the global m = {m}: the gradient of the mean loss, {loss_sum / m:.4f}"
    yield ""
    yield from _gradient(total / m)
    error = float(np.abs(total - whole.gradient).max()) / m
    yield f"  One process with all {m} examples gets the same; the largest difference is {error:.0e}, rounding."

    means = np.mean([found.gradient / len(found.rows) for found in everyone], axis=0)
    yield "\nA MEAN OF THE RANKS' MEANS, each divided by its own m_local, would have given"
    yield ""
    yield from _gradient(means)
    wrong = float(np.linalg.norm(means - total / m) / np.linalg.norm(total / m))
    yield f"  That is off by {wrong:.0%} of the gradient's length, and it is no rounding:"
    counts = [len(found.rows) for found in everyone]
    few, many = min(counts), max(counts)
    yield f"  where a rank has {few}, an example counts 1/({K}·{few}), where it has {many}, 1/({K}·{many});"
    yield f"  it should count 1/{m} anywhere."
    yield "  Both agree only where all ranks have equally many examples, and a last batch seldom lets them."


def _gradient(flat: NDArray[Any]) -> Iterator[str]:
    dW, db = LAYOUT.views(flat)
    return _matrices({name: a for l in sorted(dW, reverse=True) for name, a in ((f"dW{l}", dW[l]), (f"db{l}", db[l]))})


def _matrices(named: dict[str, NDArray[Any]]) -> Iterator[str]:
    """Yield the lines that show matrices side by side."""
    blocks = []
    for name, matrix in named.items():
        whole = np.issubdtype(matrix.dtype, np.integer)
        cells = [[f"{value:d}" if whole else f"{round(value, 4) + 0.0:g}" for value in row] for row in matrix]
        width = max(len(cell) for row in cells for cell in row)
        lines = ["[ " + "  ".join(cell.rjust(width) for cell in row) + " ]" for row in cells]
        blocks.append([f"{name} = {lines[0]}", *(" " * (len(name) + 3) + line for line in lines[1:])])
    for i in range(max(map(len, blocks))):
        row = (block[i] if i < len(block) else " " * len(block[0]) for block in blocks)
        yield f"  {'   '.join(row)}".rstrip()


def _order(subtree: Subtree) -> str:
    if subtree[1] - subtree[0] == 1:
        return str(subtree[0])
    return "({} + {})".format(*map(_order, children(subtree)))
