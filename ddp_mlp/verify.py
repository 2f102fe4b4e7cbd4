"""Prove on this machine what the program promises: `python -m ddp_mlp.verify [DATA]`, alone or under mpirun.

The certificate says what was checked, what was found, the bound, and what was not checked; it is printed and written
as JSON. The exit code is 1 if a check failed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ddp_mlp import command
from ddp_mlp.command import Parser
from ddp_mlp.errors import ProgramError, by_all_ranks

if TYPE_CHECKING:
    from ddp_mlp.parallel.communicator import Communicator


def verify(asked: argparse.Namespace, communicator: "Communicator") -> None:
    """Make all checks, write and print the certificate. Collective. Raises ProgramError where one failed."""
    if asked.portable:
        verify_portable(communicator)
        return
    from ddp_mlp.verification.certificate import certify, in_words

    data = None if asked.data is None else str(asked.data)
    certificate = certify(data, asked.x_name, asked.y_name, asked.certificate, communicator)
    if communicator.rank == 0:
        print(in_words(certificate), flush=True)
        print(f"{asked.certificate}: the certificate", file=sys.stderr, flush=True)
    failed = [check["what"] for check in certificate["checks"] if not check["passed"]]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise by_all_ranks(ProgramError(f"failed: {failed[0]}{more}; send {asked.certificate} with your report"))


def verify_portable(communicator: "Communicator") -> None:
    """Print the hashes of a few portable runs. Collective. Raises ProgramError where one is not everybody's."""
    from ddp_mlp.verification.portable import EXPECTED, portable_hashes

    found = portable_hashes(communicator)
    if communicator.rank == 0:
        for name, sha256 in found.items():
            note = "" if sha256 == EXPECTED[name] else f"  but everybody else has {EXPECTED[name]}"
            print(f"{sha256}  {name}{note}", flush=True)
    differing = [name for name, sha256 in found.items() if sha256 != EXPECTED[name]]
    if differing:
        raise by_all_ranks(
            ProgramError(
                f"portable arithmetic is not so here ({', '.join(differing)}): please report processor and NumPy"
            )
        )


def _parser() -> Parser:
    parser = Parser(
        "verify",
        "Prove on this machine what the program promises, alone or under mpirun.",
        epilog="Exit codes: 0 all passed, 1 a check failed, 2 usage, 65 bad data, 74 cannot read or write.",
    )
    parser.add_argument(
        "data", nargs="?", type=Path, metavar="DATA", help="check with this data-set file, not made-up examples"
    )
    parser.add_argument("--x_name", default="X", metavar="NAME", help="its features (default: X)")
    parser.add_argument("--y_name", default="y", metavar="NAME", help="its labels (default: y)")
    text = "print the hashes of a few runs with arithmetic = portable, the same for everybody, and nothing else"
    parser.add_argument("--portable", action="store_true", help=text)
    text = "write the certificate to FILE as JSON; runs are made in its folder and removed (default: certificate.json)"
    parser.add_argument("--certificate", type=Path, default=Path("certificate.json"), metavar="FILE", help=text)
    return parser


def _check(asked: argparse.Namespace) -> None:
    command.keep_what_is_read({"--certificate": asked.certificate}, asked.data)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, on every rank with the same code."""
    command.on_all_ranks(_parser(), verify, argv, _check)


if __name__ == "__main__":
    main()
