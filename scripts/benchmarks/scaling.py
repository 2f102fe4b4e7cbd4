"""Predict the seconds of a training step on thousands of ranks, from messages and bytes counted in the program's plan.

Nothing here starts MPI, but for `--measure`: the plan of `ddp_mlp/summing/plan.py` is made as the program makes it,
and what every rank sends, receives, adds and updates is read off it. On the counts go costs: a message of n bytes takes
α + nβ seconds (Hockney 1994), a node's ranks share its link and its memory, a cache line costs its writer something if
another core holds it, and matrix products have a rate per core.
Beside it stands one flat MPI_Allreduce by the formulas of Thakur, Rabenseifner, Gropp, "Optimization of collective
communication operations in MPICH", IJHPCA 19(1), 2005. Computing and sending do not overlap in either.

The default costs are those of 100 Gbit/s InfiniBand: α = 1.5 µs (Koop, Jones, Panda, "MVAPICH-Aptus", IPDPS 2008),
β = 1 s / 12.5 GB, the rate of an EDR link.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ddp_mlp.nn.parameters import Layout  # noqa: E402 # the checkout need not be installed
from ddp_mlp.summing.plan import Plan, make_plan  # noqa: E402
from ddp_mlp.summing.tallies import WIDTH, rows_by_node  # noqa: E402
from ddp_mlp.summing.tree import additions, automatic_shards, cut, rows  # noqa: E402

LINE = 64
"""Bytes of a cache line."""
ITEM, WIDE = 4, 8
"""Bytes of a float32, and of a float64, in which portable arithmetic sums."""
UPDATE_BYTES = 5 * ITEM
"""Momentum reads the parameter, the gradient and the velocity, and writes two of them."""


@dataclass(frozen=True)
class Machine:
    """What things cost."""

    alpha: float = 1.5e-6
    """Seconds per message between nodes."""
    beta: float = 1 / 12.5e9
    """Seconds per byte through a node's link, each way."""
    barrier: float = 0.3e-6
    """Seconds per round of a barrier within a node; it has log2 rounds."""
    core_memory: float = 40e9
    """Bytes per second that one core moves when it adds blocks of a few megabytes, most of them from its caches."""
    node_memory: float = 204.8e9
    """Bytes per second that all cores of a node move: eight channels of DDR4-3200."""
    line: float = 20e-9
    """Seconds more to write a cache line that a core without a common cache has read: measured on an EPYC of chiplets.
    `python -m ddp_mlp.doctor` measures it; ranks that share a cache pay next to nothing."""
    gflops: float = 75.0
    """GFLOP/s of one core's forward and backward on its shard, elementwise passes included."""
    portable: float = 2.4
    """How many times as long a core takes for them in portable arithmetic."""


class Traffic(NamedTuple):
    """What a rank sends to other nodes and receives from them in a part of a step."""

    messages: int = 0
    sent: int = 0
    """Bytes."""
    received: int = 0
    """Bytes."""


# ---- counting --------------------------------------------------------------------------------------------------------


def sum_traffic(plan: Plan, node: int, column: int, item: int = ITEM) -> Traffic:
    """Count what a rank sends and receives until it has its slice of the sum; empty messages are not sent."""
    if len(plan.nodes) == 1:
        return Traffic()
    if plan.halving:
        swaps = plan.swaps(node, column)
        given, kept = [_length(swap.given) for swap in swaps], [_length(swap.kept) for swap in swaps]
        return Traffic(sum(n > 0 for n in given), item * sum(given), item * sum(kept))
    sent, received = plan.sent(node, column), plan.received(node, column)
    sent[node] = received[node] = 0
    return Traffic(sum(n > 0 for n in sent), item * sum(sent), item * sum(received))


def publish_traffic(plan: Plan, node: int, column: int) -> Traffic:
    """Count what a rank sends and receives until its node has the column's new parameters."""
    if plan.halving:
        messages, sent, received = sum_traffic(plan, node, column)
        return Traffic(messages, received, sent)
    pieces = [ITEM * (hi - lo) for lo, hi in pairwise(plan.columns[column])]
    return allgather_traffic(pieces, node)


def tally_traffic(plan: Plan, node: int) -> Traffic:
    """Count what a node's first rank sends and receives for the tallies of all shards and ranks (float64)."""
    return allgather_traffic([8 * WIDTH * (hi - lo) for lo, hi in pairwise(rows_by_node(plan.K, plan.nodes))], node)


def agreement_traffic(widths: Sequence[int], nodes: int) -> Traffic:
    """Count what the first rank of the busiest node sends for the lines' exponents: tables of int32, doubling."""
    lines = sum(widths[:-1]) + sum(widths[1:]) + 2  # rows of every A and dz, losses, weights: `nn/lines.py`
    messages = nodes.bit_length() - 1 + 2 * (nodes & (nodes - 1) > 0)
    return Traffic(messages, messages * 3 * ITEM * lines, messages * 3 * ITEM * lines)


def allgather_traffic(pieces: Sequence[int], node: int) -> Traffic:
    """Count an MPI_Allgatherv of pieces of so many bytes: all others' are received, and about as many bytes are sent.

    log2 N messages up to 80 KiB (up to 512 KiB for N a power of two), N − 1 in a ring beyond: MPICH's choice, section
    4.1 of the paper.
    """
    N, total = len(pieces), sum(pieces)
    short = total < (512 if N & (N - 1) == 0 else 80) * 1024
    others = total - pieces[node]
    return Traffic(math.ceil(math.log2(N)) if short else N - 1, others, others)


def memory_bytes(plan: Plan, node: int, column: int, item: int = ITEM) -> int:
    """Count the bytes of memory a rank moves to form its slice of the sum and update it.

    Every term is read once and every sum written once per term it ends in: what lies between stays in cache, because
    the sums are formed block by block. Portable, a rank also rounds its share of the node's weights into float64.
    """
    m = plan.K  # a row in every shard: all terms take part
    local = [subtree for p in plan.nodes[node] for subtree in plan.of_rank[p]]
    own = _length(plan.slice_of(node, column))
    moved = UPDATE_BYTES * own
    if item == WIDE:
        moved += (ITEM + WIDE) * plan.length // len(plan.nodes[node])
    if len(plan.nodes) == 1:
        return moved + item * own * _touched(additions((0, plan.K), local, m, plan.K).pairs)
    width = plan.columns[column][-1] - plan.columns[column][0]
    moved += item * width * sum(_touched(additions(s, local, m, plan.K).pairs) for s in plan.of_node[node])
    if plan.halving:
        return moved + 3 * sum_traffic(plan, node, column, item).received
    every = [subtree for subtrees in plan.of_node for subtree in subtrees]
    moved += 2 * item * width * len(plan.of_node[node])  # copied into the buffer that is sent
    return moved + item * own * _touched(additions((0, plan.K), every, m, plan.K).pairs)


def shared_bytes(plan: Plan, node: int, local_rank: int, item: int = ITEM, in_place: bool = False) -> int:
    """Count the bytes that a rank writes in a step to cache lines which another rank of its node reads or writes.

    Its partials, but for the part that it sums itself, and the parameters that it gives its node; portable, also its
    share of the node's rounded weights. With `in_place` as in version 0.1, which formed a sum in the memory of the term
    on its left: the partial of whichever rank that is.
    """
    ranks = plan.nodes[node]
    if len(ranks) == 1:
        return 0
    width = 0
    if local_rank < len(plan.columns):
        bounds = plan.columns[local_rank]
        width = bounds[-1] - bounds[0]
    own = len(plan.of_rank[ranks[local_rank]])
    written = item * own * (plan.length - width) + ITEM * width
    if item == WIDE:
        written += WIDE * plan.length // len(ranks)
    if in_place and width:
        owners = [p for p in ranks for _ in plan.of_rank[p]]
        local = [subtree for p in ranks for subtree in plan.of_rank[p]]
        left = {left for s in plan.of_node[node] for left, _ in additions(s, local, plan.K, plan.K).pairs}
        written += item * width * sum(owners[term] != ranks[local_rank] for term in left)
    return written


def _touched(pairs: Sequence[tuple[int, int]]) -> int:
    """Return how many terms these additions read, and how many they write."""
    return len({term for pair in pairs for term in pair}) + len({left for left, _ in pairs})


def _length(part: slice) -> int:
    return int(part.stop - part.start)


# ---- costs -----------------------------------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """A step's seconds, and what they are made of."""

    compute: float
    """The matrix products of the rank with the most rows."""
    memory: float
    """Adding up, and the optimizer's update."""
    latency: float
    """α per message, and barriers within the node."""
    bandwidth: float
    """β per byte of the node that sends or receives most."""
    sharing: float = 0.0
    """Writing cache lines that other ranks of the node hold."""

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self)


class Case(NamedTuple):
    """A job: so many ranks on nodes of so many, a network, and the rows of a batch over all ranks."""

    P: int
    per_node: int
    widths: tuple[int, ...]
    batch: int
    K: int
    portable: bool = False
    """In portable arithmetic: a share a rank, K = P, and sums in float64."""

    @property
    def nodes(self) -> list[range]:
        """The ranks of every node; the last node may have fewer."""
        return [range(lo, min(lo + self.per_node, self.P)) for lo in range(0, self.P, self.per_node)]

    @property
    def flop_per_row(self) -> int:
        """Floating-point operations of an example's products: forward, dW, and dA of all layers but the first."""
        products = [n * n_prev for n_prev, n in pairwise(self.widths)]
        return 6 * sum(products) - 2 * products[0]


def exact(
    case: Case, machine: Machine, halving: bool = True, in_place: bool = False
) -> tuple[Prediction, list[Traffic], bool]:
    """Predict a step with the exact sum; also return the worst rank's tallies, sum, publish, and if it is by halving.

    With `in_place` sums within a node are formed as in version 0.1 (see `shared_bytes`).

    The worst of each figure over all ranks: nobody goes on before the last.
    """
    plan = make_plan(case.K, Layout(case.widths).length, case.nodes, halving)
    N, columns = len(plan.nodes), range(len(plan.columns))
    item = WIDE if case.portable else ITEM
    parts: list[Traffic] = []
    link_bytes = 0
    for count in (partial(sum_traffic, item=item), publish_traffic):
        found = [[count(plan, node, column) for column in columns] for node in range(N)]
        parts.append(_worst([traffic for node in found for traffic in node]))
        link_bytes += max(max(sum(t.sent for t in node), sum(t.received for t in node)) for node in found)
    small = [_worst([tally_traffic(plan, node) for node in range(N)])]
    if case.portable:
        small.append(agreement_traffic(case.widths, N))
    parts.insert(0, Traffic(*map(sum, zip(*small, strict=True))))
    link_bytes += parts[0].received

    # The last column's range is the longest; of the nodes with as many partials, the one with the longest piece counts.
    moved = max(memory_bytes(plan, node, columns[-1], item) for node in _busiest(plan, columns[-1]))
    per_node = max(map(len, plan.nodes))
    lines = max(
        shared_bytes(plan, node, local_rank, item, in_place) / LINE
        for node in _busiest(plan, columns[-1])
        for local_rank in range(len(plan.nodes[node]))
    )
    rounds = (3 if N > 1 else 2) + case.portable * (4 if N > 1 else 3)  # two of weights, and of exponents
    barriers = rounds * math.ceil(math.log2(per_node)) * machine.barrier
    return (
        Prediction(
            compute(case, machine),
            moved / _memory_rate(machine, per_node),
            machine.alpha * sum(part.messages for part in parts) + barriers,
            machine.beta * link_bytes,
            machine.line * lines,
        ),
        parts,
        plan.halving,
    )


def allreduce(case: Case, machine: Machine) -> Prediction:
    """Predict a step with one flat MPI_Allreduce of the gradient, and every rank updating all parameters.

    For powers of two Rabenseifner's, 2 log2 P α + 2 (P − 1)/P n β + (P − 1)/P n γ, its first rounds within the node,
    where a message is a barrier's round, and a byte is moved in memory through lines that two ranks write and read in
    turn; a ring, 2 (P − 1) α, otherwise.
    """
    nodes, per_node = case.nodes, max(map(len, case.nodes))
    N, n = len(nodes), ITEM * Layout(case.widths).length
    inner, outer = (per_node - 1) / per_node, (N - 1) / N
    if case.P & (case.P - 1) == 0 and per_node & (per_node - 1) == 0:
        latency = 2 * math.log2(N) * machine.alpha + 2 * math.log2(per_node) * machine.barrier
    else:
        latency = 2 * (case.P - 1) * (machine.alpha if N > 1 else machine.barrier)
    tallies = allgather_traffic([8 * WIDTH * 2 * len(ranks) for ranks in nodes], 0)
    latency += tallies.messages * machine.alpha
    moved = n * ((2 * 2 + 3) * inner + 3 * outer / per_node) + UPDATE_BYTES / ITEM * n
    return Prediction(
        compute(case._replace(K=case.P, portable=False), machine),
        moved / _memory_rate(machine, per_node),
        latency,
        machine.beta * (2 * n * outer + tallies.received),
        machine.line * 2 * n * inner / LINE,
    )


def compute(case: Case, machine: Machine) -> float:
    """Return the seconds of the products of the rank with the most rows."""
    owned = cut(case.K, case.P)
    most = max(len(rows((lo, hi), case.batch, case.K)) for lo, hi in pairwise(owned))
    return most * case.flop_per_row / (1e9 * machine.gflops) * (machine.portable if case.portable else 1)


def _memory_rate(machine: Machine, per_node: int) -> float:
    return min(machine.core_memory, machine.node_memory / per_node)


def _worst(found: Sequence[Traffic]) -> Traffic:
    return Traffic(*map(max, zip(*found, strict=True)))


def _busiest(plan: Plan, column: int) -> list[int]:
    """Return the node with the longest piece among those with equally many ranks and partials, for all that occur."""
    nodes = sorted(range(len(plan.nodes)), key=lambda node: _length(plan.slice_of(node, column)))
    kinds = {
        (len(plan.nodes[node]), len(plan.of_node[node]), sum(len(plan.of_rank[p]) for p in plan.nodes[node])): node
        for node in nodes
    }
    return list(kinds.values())


# ---- measuring -------------------------------------------------------------------------------------------------------


def least_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the shortest time of so many calls: what the machine can do while nobody else uses it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def ping() -> None:
    """Print what two ranks on two pretended nodes see of each other, as JSON: run by `measure`. Collective."""
    import numpy as np

    from ddp_mlp.parallel.mpi import connect
    from ddp_mlp.summing.between import ExactSum

    with connect() as communicator:
        other, seconds = 1 - communicator.node, {}
        for size, repeats in ((8, 2000), (1 << 22, 50)):
            send, receive = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
            seconds[size] = least_seconds(partial(communicator.Swap, other, send, receive), repeats)
        length = 1 << 20
        reduction = ExactSum(communicator, length, np.dtype(np.float32), 2)

        def sum_up() -> None:
            reduction.collect(2)
            for lo, hi, gradient in reduction.sums(2):
                reduction.parameters[lo:hi] += gradient
            reduction.publish()

        exact_sum = least_seconds(sum_up, 50)
        beta = (seconds[1 << 22] - seconds[8]) / (1 << 22)
        if communicator.rank == 0:
            print(json.dumps({"alpha": seconds[8], "beta": beta, "exact_sum": exact_sum}))


def measure(case: Case, loopback: bool) -> Machine:
    """Measure this machine: two ranks that talk through shared memory, or through TCP's loopback (MPICH only).

    Also prints the exact sum of a million parameters between them, measured and as predicted from these costs.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    with_rows = max(1, case.batch // case.P)
    random = np.random.default_rng(0)
    flop = spent = 0.0
    for n_prev, n in pairwise(case.widths):
        W, A = (random.standard_normal(shape, np.float32).T for shape in ((n_prev, n), (with_rows, n_prev)))
        dz = np.empty((with_rows, n), np.float32).T
        flop += 2.0 * n * n_prev * with_rows
        with threadpool_limits(1):
            spent += least_seconds(partial(np.matmul, W, A, out=dz), 50)
    x, y = np.ones(1 << 22, np.float32), np.ones(1 << 22, np.float32)
    memory = 3 * x.nbytes / least_seconds(partial(np.add, x, y, out=x), 50)
    environment = os.environ | {"DDP_MLP_NODE_SIZE": "1", "OPENBLAS_NUM_THREADS": "1"}
    if loopback:
        # UCX, below MPICH, has a shared-memory path of its own.
        environment |= {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self"}
    command = [str(Path(sys.executable).with_name("mpirun")), "-n", "2", sys.executable, __file__, "--ping"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(run.stdout)
    machine = Machine(
        alpha=found["alpha"], beta=found["beta"], core_memory=memory, node_memory=memory, gflops=flop / spent / 1e9
    )
    predicted, _, _ = exact(Case(2, 1, (1023, 1024), 2, 2), machine)
    print(
        f"exact sum of 1,048,576 parameters between two ranks: {1e3 * found['exact_sum']:.2f} ms measured, "
        f"{1e3 * (predicted.step - predicted.compute):.2f} ms predicted"
    )
    return machine


# ---- showing ---------------------------------------------------------------------------------------------------------


def describe(machine: Machine) -> str:
    """Return the costs in one line."""
    return (
        f"α {1e6 * machine.alpha:.2f} µs, β⁻¹ {1e-9 / machine.beta:.2f} GB/s, "
        f"barrier round {1e6 * machine.barrier:.2f} µs, memory {machine.core_memory / 1e9:.1f} GB/s a core and "
        f"{machine.node_memory / 1e9:.1f} GB/s a node, {1e9 * machine.line:.0f} ns a shared line, "
        f"{machine.gflops:.0f} GFLOP/s a core"
    )


HEADER = (
    f"{'P':>5} {'a node':>6} {'nodes':>5} {'K':>5} {'form':>8} {'messages':>12} {'MB sent':>8} {'compute':>8} "
    f"{'lines':>7} {'step':>8} {'eff':>5} {'flat':>8} {'eff':>5} {'Allreduce':>9} {'eff':>5}"
)


class Row(NamedTuple):
    """A job's predictions."""

    case: Case
    exact: Prediction
    flat: Prediction
    allreduce: Prediction
    parts: list[Traffic]
    halving: bool

    def line(self) -> str:
        """Return the row of the table: messages of tallies + sum + publish, milliseconds, efficiency."""
        messages = "+".join(str(part.messages) for part in self.parts)
        sent = sum(part.sent for part in self.parts[1:]) / 1e6
        form = "halving" if self.halving else "flat" if len(self.case.nodes) > 1 else "memory"
        line = f"{self.case.P:5} {self.case.per_node:6} {len(self.case.nodes):5} {self.case.K:5} {form:>8} "
        line += f"{messages:>12} {sent:8.3f} {1e3 * self.exact.compute:8.3f} "
        line += f"{1e3 * self.exact.sharing:7.3f}"
        for prediction, width in ((self.exact, 8), (self.flat, 8), (self.allreduce, 9)):
            line += f" {1e3 * prediction.step:{width}.3f} {efficiency(self, prediction):5.2f}"
        return line


def efficiency(row: Row, prediction: Prediction) -> float:
    """Return the share of the step that perfectly shared products alone would take, in native arithmetic."""
    return row.allreduce.compute / prediction.step


def play(case: Case, machine: Machine) -> Row:
    """Predict one job in all three forms."""
    prediction, parts, halving = exact(case, machine)
    flat = exact(case, machine, halving=False)[0] if halving else prediction
    return Row(case, prediction, flat, allreduce(case, machine), parts, halving)


def draw(found: Sequence[Row], title: str, path: Path) -> None:
    """Draw step time and efficiency over P, a pair of panels for each number of ranks per node."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    per_node = sorted({row.case.per_node for row in found})
    figure, panels = pyplot.subplots(
        2, len(per_node), figsize=(3.6 * len(per_node), 6.4), squeeze=False, sharex=True, sharey="row"
    )
    for number, ranks in enumerate(per_node):
        these = [row for row in found if row.case.per_node == ranks]
        P = [row.case.P for row in these]
        lines = [
            ("exact, flat", [row.flat for row in these], {"color": "tab:orange", "linestyle": "--"}),
            ("exact, as planned", [row.exact for row in these], {"color": "tab:blue"}),
            ("Allreduce", [row.allreduce for row in these], {"color": "tab:gray", "linestyle": ":"}),
        ]
        times, efficiencies = panels[0][number], panels[1][number]
        for label, predictions, look in lines:
            times.plot(P, [1e3 * prediction.step for prediction in predictions], marker=".", label=label, **look)
            shares = [efficiency(row, prediction) for row, prediction in zip(these, predictions, strict=True)]
            efficiencies.plot(P, shares, marker=".", label=label, **look)
        times.set_title(f"{ranks} rank{'s' if ranks > 1 else ''} a node", fontsize=10)
        times.set_xscale("log", base=2)
        times.set_yscale("log")
        efficiencies.set_ylim(0, 1.05)
        efficiencies.set_xlabel("ranks P")
        for panel in (times, efficiencies):
            panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("predicted ms per step")
    panels[1][0].set_ylabel("efficiency")
    panels[0][0].legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Predict step times for many ranks by playing the program's plan.")
    add = parser.add_argument
    add("--widths", type=int, nargs="+", default=[784, 512, 512, 10], help="n_0 … n_L (default %(default)s)")
    add("--ranks", type=int, nargs="+", default=[1 << i for i in range(13)], help="P (default 1, 2, 4, … 4096)")
    add("--per_node", type=int, nargs="+", default=[1, 8, 32, 128], help="ranks of a node (default %(default)s)")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--rows", type=int, default=64, help="rows of the batch per rank (default %(default)s)")
    rows.add_argument("--batch", type=int, help="rows of the batch over all ranks, the same for every P")
    add("--shards", type=int, help="K (default: as `shards = auto`)")
    add("--arithmetic", choices=["native", "portable"], default="native", help="portable: no shards, sums in float64")
    costs = Machine()
    add("--alpha", type=float, default=costs.alpha, help="seconds per message (default %(default)g)")
    add("--beta", type=float, default=costs.beta, help="seconds per byte of a node's link (default %(default)g)")
    add("--barrier", type=float, default=costs.barrier, help="seconds per round in a node (default %(default)g)")
    add("--core_memory", type=float, default=costs.core_memory, help="bytes/s of a core (default %(default)g)")
    add("--node_memory", type=float, default=costs.node_memory, help="bytes/s of a node (default %(default)g)")
    add("--line", type=float, default=costs.line, help="seconds more for a shared line's writing (default %(default)g)")
    add("--gflops", type=float, default=costs.gflops, help="GFLOP/s of a core (default %(default)g)")
    add("--portable", type=float, default=costs.portable, help="portable products / native ones (default %(default)g)")
    add("--measure", choices=["shared", "loopback"], help="measure the costs here, between two ranks")
    add("--png", type=Path, help="draw into this file (needs matplotlib)")
    return parser.parse_args()


def main() -> None:
    """Print the table, and draw it."""
    if sys.argv[1:] == ["--ping"]:
        ping()
        return
    asked = parse()
    portable = asked.arithmetic == "portable"
    cases = [
        Case(
            *(P, per_node, tuple(asked.widths), asked.batch or asked.rows * P),
            P if portable else asked.shards or automatic_shards(P),
            portable,
        )
        for per_node in asked.per_node
        for P in asked.ranks
        if per_node <= P
    ]
    if asked.measure:
        machine = replace(
            measure(cases[0], asked.measure == "loopback"),
            barrier=asked.barrier,
            line=asked.line,
            portable=asked.portable,
        )
    else:
        costs = (
            asked.alpha,
            asked.beta,
            asked.barrier,
            asked.core_memory,
            asked.node_memory,
            asked.line,
            asked.gflops,
            asked.portable,
        )
        machine = Machine(*costs)
    network = "-".join(map(str, asked.widths))
    load = f"{asked.batch} rows a batch" if asked.batch else f"{asked.rows} rows a rank"
    print(f"{network}, {load}; {describe(machine)}\ntimes in ms; messages of tallies + sum + publish\n\n{HEADER}")
    found = []
    for case in cases:
        found.append(play(case, machine))
        print(found[-1].line(), flush=True)
    if asked.png:
        draw(found, f"{network}, {load}; {describe(machine)}", asked.png)


if __name__ == "__main__":
    main()
