"""The whole examination: every check once, in the order in which it is told."""

from collections.abc import Sequence
from pathlib import Path

from ddp_mlp.examination import folder, judging, ranks
from ddp_mlp.examination.finding import Finding
from ddp_mlp.nn.threads import blas_threads
from ddp_mlp.parallel.communicator import Communicator


def examine(
    run_dir: Path, threads: int, communicator: Communicator, launched: Finding, left: Sequence[tuple[str, int]] = ()
) -> list[Finding]:
    """Make all checks. Collective; the findings are whole on rank 0.

    `left` are names and bytes of what killed jobs have left in this node's shared memory.
    """
    with blas_threads(threads):
        places = communicator.allgather(judging.look_around())
        memory = judging.judge_shared_memory(places, left)
        findings = [
            judging.judge_ranks(places, len(communicator.nodes)),
            launched,
            judging.judge_cores(places, threads),
            ranks.examine_blas(threads, communicator),
            judging.judge_rates(*ranks.measure_products(communicator), [place.host for place in places]),
            memory,
        ]
        if communicator.size > 1:
            seconds = ranks.measure_reduction(communicator, memory.values["free"] // 4)
            findings.insert(-1, judging.judge_reduction(seconds))
            lines = communicator.allgather(ranks.measure_lines(communicator))
            firsts = [lines[here.start] for here in communicator.nodes if len(here) > 1]
            if firsts:
                findings.insert(-1, judging.judge_lines(firsts))
    if communicator.rank == 0:
        findings += folder.examine_folder(run_dir)
    return findings
