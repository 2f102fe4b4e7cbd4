"""Examine the machine before a run: `python -m ddp_mlp.doctor`, alone or under mpirun or srun.

Every line says what was found, whether that is fine, and what to do if it is not. A check looks at what a run would
depend on, in the way a run would use it; nothing stays behind. What could keep MPI from starting is judged first, so
that a launcher that does not match its library, or too little shared memory, is a line as well.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ddp_mlp import command
from ddp_mlp.command import Parser
from ddp_mlp.errors import ConfigError, EnvironmentMismatch
from ddp_mlp.examination import launcher
from ddp_mlp.examination.finding import report

if TYPE_CHECKING:
    from ddp_mlp.parallel.communicator import Communicator


def _parser() -> Parser:
    parser = Parser(
        "doctor",
        "Examine the machine before a run, alone or under mpirun or srun: what was found, fine or not, what to do.",
        epilog="Exit codes: 0 all is fine, 2 usage, 78 something is not.",
    )
    parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="the folder a run would write to (runs)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="BLAS threads per rank (1)")
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    return parser


def _check(asked: argparse.Namespace) -> None:
    if asked.threads < 1:
        raise ConfigError(f"threads = {asked.threads}: must be at least 1")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, on every rank with the same code."""
    began = time.monotonic()
    meeting = launcher.Meeting()

    def run(asked: argparse.Namespace, communicator: "Communicator") -> int:
        from ddp_mlp.examination.whole import examine

        findings = examine(asked.run_dir, asked.threads, communicator, meeting.finding, meeting.left)
        meeting.over()
        if communicator.rank == 0:
            print(report(findings, time.monotonic() - began, asked.json), flush=True)
        fine = communicator.broadcast(all(finding.fine for finding in findings))
        return 0 if fine else EnvironmentMismatch.exit_code

    command.on_all_ranks(_parser(), run, argv, _check, meeting)


if __name__ == "__main__":
    main()
