"""Tests of the predictions: counts against a real run's messages and by hand, costs against the formulas."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.nn.lines import Lines
from ddp_mlp.parallel.mpi import MPIRanks
from ddp_mlp.summing.agreement import Agreement
from ddp_mlp.summing.between import ExactSum
from ddp_mlp.summing.plan import QUANTUM, make_plan
from ddp_mlp.training.portable_step import portable_sum
from scripts.benchmarks.scaling import (
    ITEM,
    LINE,
    WIDE,
    Case,
    Machine,
    Traffic,
    agreement_traffic,
    allgather_traffic,
    allreduce,
    exact,
    play,
    publish_traffic,
    shared_bytes,
    sum_traffic,
    tally_traffic,
)
from tests.conftest import ROOT, Program
from tests.traffic import Count

WIDTHS = (784, 512, 512, 10)
LENGTH = 37 * QUANTUM + 11
FREE = Machine(alpha=0, beta=0, barrier=0, core_memory=1e30, node_memory=1e30, line=0)


@pytest.mark.mpi
@pytest.mark.parametrize("node_size", [None, 1, 2, 3])
@pytest.mark.parametrize("K", [8, 5])
@pytest.mark.parametrize("halving", [True, False])
def test_counts_are_those_of_a_real_run(node_size: int | None, K: int, halving: bool) -> None:
    """What a step really hands to MPI is what is read off the plan, in either form, for every rank."""
    from mpi4py import MPI

    with MPIRanks(MPI.COMM_WORLD, node_size) as communicator:
        count = Count(communicator)
        reduction = ExactSum(communicator, LENGTH, np.dtype(np.float32), K, halving)
        reduction.collect(100)
        sent_for_sum = count.seen("Swap")
        reduction.publish()
        plan, node, column = reduction.plan, communicator.node, communicator.local_rank
        assert plan == make_plan(K, LENGTH, communicator.nodes, halving)
        takes_part = column < len(plan.columns)
        of_sum = sum_traffic(plan, node, column) if takes_part else Traffic()
        of_publishing = publish_traffic(plan, node, column) if takes_part else Traffic()
        if plan.halving:
            assert sent_for_sum == of_sum
            both = Traffic(*(a + b for a, b in zip(of_sum, of_publishing, strict=True)))
            assert count.seen("Swap") == both
            assert count.seen("Exchange") == Traffic()
        else:
            assert count.seen("Exchange") == of_sum
            assert count.seen("Complete").received == of_publishing.received
            assert count.seen("Swap") == Traffic()
        if len(plan.nodes) > 1 and column == 0:
            assert count.seen("Complete", "float64").received == tally_traffic(plan, node).received


@pytest.mark.mpi
@pytest.mark.parametrize("node_size", [None, 1, 2, 3])
@pytest.mark.parametrize("K", [8, 2])
def test_lines_of_others_are_written_where_the_count_says(node_size: int | None, K: int) -> None:
    """Of all shared memory, compared line by line before and after: who sums writes in its own memory alone."""
    from mpi4py import MPI

    length = 37 * QUANTUM + 16
    with MPIRanks(MPI.COMM_WORLD, node_size) as communicator:
        reduction = ExactSum(communicator, length, np.dtype(np.float32), K)
        node = Node(reduction)
        values = 1 + np.arange(length, dtype=np.float32)
        for partial in reduction.partials:
            partial[...] = values
        written = [node.written()]
        reduction.collect(100)
        for lo, hi, gradient in reduction.sums(100):
            np.multiply(gradient, np.float32(0.3), out=gradient)  # as the division by m
            reduction.parameters[lo:hi] += gradient
        reduction.publish()
        written.append(node.written())

        plan, ranks = reduction.plan, communicator.nodes[communicator.node]
        for local_rank, rank in enumerate(ranks):
            bounds = plan.columns[local_rank] if local_rank < len(plan.columns) else [0, 0]
            own = np.zeros(length, bool)
            own[bounds[0] : bounds[-1]] = True
            partials, sums = (of_rank[rank] for of_rank, _ in written)
            assert len(partials) == len(plan.of_rank[rank])
            assert all(lines.all() for lines in partials)
            assert not any((lines & ~of_lines(own)).any() for lines in sums), "nobody writes what others sum"
            read = sum(int((lines & of_lines(~own)).sum()) for lines in partials)
            given = int((written[1][1] & of_lines(own)).sum())
            expected = shared_bytes(plan, communicator.node, local_rank) if len(ranks) > 1 else LINE * (read + given)
            assert LINE * (read + given) == expected


class Node:
    """All that the ranks of a node share of a sum, as it was when last looked at. Collective to make."""

    def __init__(self, reduction: ExactSum) -> None:
        self._communicator, self._plan = reduction.communicator, reduction.plan
        self._arrays = [*reduction._local, reduction.parameters]
        self._before = [array.copy() for array in self._arrays]
        self._communicator.node_barrier()

    def written(self) -> tuple[dict[int, list[Any]], Any]:
        """Return which lines of every rank's partials, and of the parameters, have changed since. Collective."""
        self._communicator.node_barrier()
        found = [
            of_lines(array.view(np.uint32) != before.view(np.uint32))
            for array, before in zip(self._arrays, self._before, strict=True)
        ]
        self._before = [array.copy() for array in self._arrays]
        self._communicator.node_barrier()
        ranks = self._communicator.nodes[self._communicator.node]
        lines = iter(found[:-1])
        return {p: [next(lines) for _ in self._plan.of_rank[p]] for p in ranks}, found[-1]


def of_lines(elements: Any) -> Any:
    """Return which lines have one of these float32 elements at least."""
    per_line = LINE // ITEM
    return np.append(elements, np.zeros(-len(elements) % per_line, bool)).reshape(-1, per_line).any(axis=1)


def test_shared_lines_by_hand() -> None:
    """Two ranks of one shard each: both write half of a partial and half of the parameters for the other."""
    n = ITEM * QUANTUM * QUANTUM
    plan = make_plan(2, QUANTUM * QUANTUM, [range(2)])
    assert [shared_bytes(plan, 0, rank) for rank in range(2)] == [n, n]
    assert [shared_bytes(plan, 0, rank, in_place=True) for rank in range(2)] == [n, n + n // 2]
    case = Case(2, 2, (1023, QUANTUM), 2, 2)
    machine = replace(FREE, line=1.0)
    assert exact(case, machine)[0].sharing == n / LINE
    assert exact(case, machine, in_place=True)[0].sharing == 1.5 * n / LINE
    assert allreduce(case, machine).sharing == n / LINE
    assert exact(case._replace(portable=True), machine)[0].sharing == (WIDE // ITEM + 1 + WIDE // ITEM) * n / 2 / LINE
    assert exact(case._replace(per_node=1), machine)[0].sharing == 0
    four = make_plan(4, QUANTUM * QUANTUM, [range(4)])
    before = [shared_bytes(four, 0, rank, in_place=True) - shared_bytes(four, 0, rank) for rank in range(4)]
    assert before == [n // 4, n // 2, n // 4, n // 2]  # the sums of two pairs lie with ranks 0 and 2


@pytest.mark.mpi
@pytest.mark.parametrize("node_size", [None, 1, 2, 3])
def test_counts_of_a_portable_run(node_size: int | None) -> None:
    """Partials of float64, and one exchange of the lines' exponents."""
    from mpi4py import MPI

    with MPIRanks(MPI.COMM_WORLD, node_size) as communicator:
        count = Count(communicator)
        reduction, lines = portable_sum(communicator, LENGTH), Lines(WIDTHS)
        Agreement(communicator, lines.table.shape).reach(lines.table)
        communicator.node_barrier()
        sent = count.seen("Swap", "int32")
        most = Traffic(*map(max, zip(*communicator.allgather(sent), strict=True)))
        assert most == agreement_traffic(WIDTHS, len(communicator.nodes))
        reduction.collect(100)
        plan, node, column = reduction.plan, communicator.node, communicator.local_rank
        assert plan == make_plan(communicator.size, LENGTH, communicator.nodes, True)
        counted = sum_traffic(plan, node, column, WIDE) if column < len(plan.columns) else Traffic()
        assert count.seen("Swap" if plan.halving else "Exchange", "float64") == counted


def test_portable_arithmetic_by_hand() -> None:
    """Two ranks that share memory add float64, and round half of the weights each; two nodes swap one table."""
    case = Case(2, 2, (1023, QUANTUM), 2, 2, portable=True)
    half = QUANTUM * QUANTUM // 2
    assert exact(case, replace(FREE, core_memory=1.0))[0].memory == (3 * WIDE + 5 * ITEM + WIDE + ITEM) * half
    slow = replace(FREE, gflops=1e-9, portable=3.0)
    assert exact(case, slow)[0].compute == 3 * exact(case._replace(portable=False), slow)[0].compute
    apart = case._replace(per_node=1)
    table = 3 * ITEM * (1023 + QUANTUM + 2)
    n = QUANTUM * QUANTUM
    tallies = 2 * 3 * 8
    expected = WIDE * n / 2 + ITEM * n / 2 + table + tallies
    assert exact(apart, replace(FREE, beta=1.0))[0].bandwidth == expected


def test_flat_counts_by_hand() -> None:
    """Three ranks of 2, 3 and 3 of 8 shards have 1, 2 and 2 partials; each sends a third of them to each other."""
    plan = make_plan(8, 3 * QUANTUM, [range(i, i + 1) for i in range(3)])
    third = QUANTUM * ITEM
    assert [sum_traffic(plan, node, 0) for node in range(3)] == [
        Traffic(2, 2 * third, 4 * third),
        Traffic(2, 4 * third, 3 * third),
        Traffic(2, 4 * third, 3 * third),
    ]
    assert publish_traffic(plan, 0, 0) == Traffic(2, 2 * third, 2 * third)


@pytest.mark.parametrize("halving", [True, False])
@pytest.mark.parametrize("P", [2, 8, 64])
def test_a_power_of_two_moves_what_rabenseifner_moves(P: int, halving: bool) -> None:
    """2 n (P − 1)/P bytes, in 2 log2 P messages by halving."""
    n = 64 * QUANTUM
    plan = make_plan(P, n, [range(i, i + 1) for i in range(P)], halving)
    for node in range(P):
        both = sum_traffic(plan, node, 0), publish_traffic(plan, node, 0)
        assert sum(part.sent for part in both) * P == 2 * n * ITEM * (P - 1)
        assert both[0].messages == (P.bit_length() - 1 if halving else P - 1)


def test_allgather_takes_logarithmically_many_messages_while_short() -> None:
    """MPICH's choice: recursive doubling below 512 KiB for powers of two, Bruck below 80 KiB, a ring beyond."""
    counts = [
        allgather_traffic([n] * N, 0).messages for N, n in ((8, 1 << 10), (8, 1 << 17), (6, 1 << 10), (6, 1 << 15))
    ]
    assert counts == [3, 7, 3, 5]


def test_costs_by_hand() -> None:
    """Four nodes of one rank, one kind of cost at a time."""
    case = Case(4, 1, (1023, QUANTUM), 4, 4)  # W and b: 1024 quanta
    n = ITEM * QUANTUM * QUANTUM
    latency = exact(case, replace(FREE, alpha=1.0), halving=False)[0].latency
    assert latency == 2 + 3 + 3  # recursive doubling for the tallies, three others to send to, a ring of four
    assert exact(case, replace(FREE, alpha=1.0))[0].latency == 2 + 2 + 2
    assert allreduce(case, replace(FREE, alpha=1.0)).latency == 2 + 2 * 2
    tallies = 3 * 2 * 3 * 8
    assert exact(case, replace(FREE, beta=1.0))[0].bandwidth == 2 * n * 3 / 4 + tallies
    assert allreduce(case, replace(FREE, beta=1.0)).bandwidth == 2 * n * 3 / 4 + tallies
    assert exact(case, replace(FREE, gflops=1e-9))[0].compute == 4 * 1023 * QUANTUM


def test_memory_within_a_node_by_hand() -> None:
    """Two ranks that share memory add two partials over half the vector each (3 items an element) and update it."""
    case = Case(2, 2, (1023, QUANTUM), 2, 2)
    half = QUANTUM * QUANTUM // 2
    assert exact(case, replace(FREE, core_memory=1.0))[0].memory == (3 + 5) * ITEM * half
    assert exact(case, replace(FREE, node_memory=1.0))[0].memory == 2 * (3 + 5) * ITEM * half


@pytest.mark.parametrize(("P", "per_node"), [(64, 1), (96, 3), (256, 32)])
def test_halving_is_never_slower_than_flat(P: int, per_node: int) -> None:
    """Fewer messages and no more bytes."""
    row = play(Case(P, per_node, WIDTHS, 64 * P, 128 if P == 96 else P), Machine())
    assert row.halving
    assert row.exact.latency < row.flat.latency
    assert row.exact.bandwidth <= row.flat.bandwidth
    assert row.exact.step < row.flat.step


def test_nodes_that_are_no_power_of_two_send_several_partials() -> None:
    """48 nodes of 64 ranks cut the tree between its joints: more bytes than 32 or 64 nodes."""
    sent = [play(Case(64 * N, 64, WIDTHS, 64 * 64 * N, 4096), Machine()).parts[1].sent for N in (32, 48, 64)]
    assert sent[1] > 2 * max(sent[0], sent[2])


def test_the_command_prints_a_row_per_job_and_draws(run_python: Program, tmp_path: Path) -> None:
    """Messages of tallies + sum + publish, for each P and node size."""
    png = ["--png", str(tmp_path / "scaling.png")] if importlib.util.find_spec("matplotlib") else []
    arguments = ["--ranks", "4", "16", "--per_node", "1", "8", "--rows", "32", *png]
    outcome = run_python(str(ROOT / "scripts" / "benchmarks" / "scaling.py"), *arguments)
    assert outcome.returncode == 0, outcome.stderr
    lines = [line.split() for line in outcome.stdout.splitlines()]
    jobs = [line[:6] for line in lines if line and line[0] in ("4", "16")]
    assert jobs == [
        ["4", "1", "4", "8", "halving", "2+2+2"],
        ["16", "1", "16", "16", "halving", "4+4+4"],
        ["16", "8", "2", "16", "halving", "1+1+1"],
    ]
    assert not png or (tmp_path / "scaling.png").stat().st_size > 10_000


def test_two_ranks_here_are_measured(mpirun: Program, tmp_path: Path) -> None:
    """Latency, bandwidth and an exact sum between two pretended nodes come out positive."""
    outcome = mpirun(2, str(ROOT / "scripts" / "benchmarks" / "scaling.py"), "--ping", env={"DDP_MLP_NODE_SIZE": "1"})
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert set(found) == {"alpha", "beta", "exact_sum"}
    assert all(value > 0 for value in found.values())
