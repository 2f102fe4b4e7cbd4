"""Prove on this machine what the program promises: `python -m ddp_mlp.verify [DATA]`, alone or under mpirun.

The certificate says what was checked, what was found, the bound, and what was not checked; it is printed and written
as JSON. The exit code is 1 if a check failed.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ddp_mlp import command
from ddp_mlp.command import Parser
from ddp_mlp.errors import ProgramError, StorageError, by_all_ranks

if TYPE_CHECKING:
    from ddp_mlp.config import Config
    from ddp_mlp.parallel.communicator import Communicator
    from ddp_mlp.training.machine import Machine
    from ddp_mlp.verification.checks import Check

ROWS = 203
"""Of the first ones, for gradient and sum: 8 shards of them are uneven."""


def verify(arguments: argparse.Namespace, communicator: "Communicator") -> None:
    """Make all checks, print and write the certificate. Collective. Raises ProgramError where one failed."""
    from ddp_mlp.config import Config
    from ddp_mlp.storage.atomic import write_atomically
    from ddp_mlp.training.machine import settled
    from ddp_mlp.verification.golden import golden_hashes

    began = time.monotonic()
    config = Config(
        data=arguments.data or "made-up examples",
        x_name=arguments.x_name,
        y_name=arguments.y_name,
        hidden=(32, 16),
        batch_size=100,
        dropout=0.1,
        epochs=10**6,
        log_every=0,
        checkpoint_every=10**9,
        quiet=True,
    )
    with settled(config, communicator) as machine:
        pass
    folder = communicator.on_rank_0(_make_folder, Path(arguments.certificate))
    try:
        checks = _check(config if arguments.data else None, config, folder, communicator)
        golden = golden_hashes(communicator)
    finally:
        if communicator.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    certificate = _certificate(config, checks, golden, machine, communicator, time.monotonic() - began)
    if communicator.rank == 0:
        print(_words(certificate), flush=True)
    text = json.dumps(certificate, indent=2, ensure_ascii=False) + "\n"
    communicator.on_rank_0(write_atomically, Path(arguments.certificate), text.encode())
    failed = [check.what for check in checks if not check.passed]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise by_all_ranks(ProgramError(f"failed: {failed[0]}{more}; send {arguments.certificate} with your report"))


def _make_folder(certificate: Path) -> Path:
    """Make the folder for data and runs beside the certificate, where all nodes are likely to see it."""
    try:
        return Path(tempfile.mkdtemp(prefix=".verify-", dir=certificate.parent))
    except OSError as error:
        raise StorageError(
            f"certificate = {certificate}: its folder cannot be written ({error.strerror}); choose another"
        ) from error


def _check(given: "Config | None", config: "Config", folder: Path, communicator: "Communicator") -> "list[Check]":
    from ddp_mlp.data.opening import open_data
    from ddp_mlp.nn.parameters import Layout
    from ddp_mlp.verification import checks

    if given is None:
        config = replace(config, data=communicator.on_rank_0(_write_examples, folder))
    found = []
    for dtype in ("float64", "float32"):
        with communicator:
            data = open_data(replace(config, dtype=dtype), communicator)
            source = data.train[0]
            layout = Layout((data.info.features, *config.hidden, len(data.classes)))
            m = min(ROWS, source.m)
            if dtype == "float64":
                found.append(checks.gradient(source, layout, m, communicator))
            else:
                found.append(checks.exact_sum(source, layout, sorted({m, m // 2, min(5, m), 1} - {0}), communicator))
    found.extend(checks.training(config, folder, communicator))
    return communicator.broadcast(found)  # all ranks pass, or none


def _write_examples(folder: Path) -> str:
    import numpy as np

    from ddp_mlp.storage.dataset import DatasetWriter
    from ddp_mlp.verification.golden import CLASSES, FEATURES, ROWS, examples

    path = folder / "examples.h5"
    X, y = examples()
    with DatasetWriter(path, {"train": ROWS}, FEATURES, np.dtype(np.uint8), CLASSES) as writer:
        writer.append("train", X, y)
    return str(path)


def _certificate(
    config: "Config",
    checks: "list[Check]",
    golden: dict[str, str],
    machine: "Machine",
    communicator: "Communicator",
    seconds: float,
) -> dict[str, Any]:
    from ddp_mlp.run_dir.journal import utc_now
    from ddp_mlp.verification.golden import kernel_class

    kernel = kernel_class()
    nodes = len(communicator.nodes)
    not_checked = [
        "other processors and builds of NumPy or BLAS: their bits may differ, see golden",
        "reduction = allreduce, which promises equality to rounding only",
        "a run to its end: accuracy, long training, data larger than memory",
    ]
    if communicator.size == 1:
        not_checked.insert(0, "several ranks: run it under mpirun")
    elif nodes == 1:
        not_checked.insert(0, "a network between nodes: all ranks are on one node; DDP_MLP_NODE_SIZE=1 takes that path")
    return {
        "passed": all(check.passed for check in checks),
        "checks": [check._asdict() for check in checks],
        "not_checked": not_checked,
        "golden": golden,
        "kernel": kernel._asdict(),
        "versions": machine.versions,
        "ranks": communicator.size,
        "nodes": nodes,
        "hosts": sorted(set(machine.hosts)),
        "data": config.data,
        "time": utc_now(),
        "seconds": round(seconds, 1),
    }


def _words(certificate: dict[str, Any]) -> str:
    """Return the certificate as text."""
    versions, kernel = certificate["versions"], certificate["kernel"]
    lines = [
        f"ddp_mlp {versions['ddp_mlp']}, {certificate['ranks']} rank(s) on {certificate['nodes']} node(s), "
        f"{certificate['data']}",
        f"Python {versions['python']}, NumPy {versions['numpy']}, {kernel['blas']} {kernel['architecture']}, "
        f"MPI: {versions['mpi']}",
        "",
    ]
    width = max(len(check["what"]) for check in certificate["checks"])
    lines.append(f"      {'checked':<{width}}  {'found':<30}  expected")
    for check in certificate["checks"]:
        verdict = "pass" if check["passed"] else "FAIL"
        lines.append(f"{verdict}  {check['what']:<{width}}  {check['figure']:<30}  {check['bound']}")
    lines += ["", *(f"not checked: {what}" for what in certificate["not_checked"])]
    lines += ["", *(f"golden {digest}  {name}" for name, digest in certificate["golden"].items())]
    passed = sum(check["passed"] for check in certificate["checks"])
    lines.append(f"\n{passed} of {len(certificate['checks'])} checks passed in {certificate['seconds']} s")
    return "\n".join(lines)


def _parser() -> Parser:
    parser = Parser(
        "verify",
        "Prove on this machine what the program promises, alone or under mpirun.",
        epilog="Exit codes: 0 all passed, 1 a check failed, 2 usage, 65 bad data, 74 cannot read or write.",
    )
    parser.add_argument("data", nargs="?", metavar="DATA", help="check with this data-set file, not made-up examples")
    parser.add_argument("--x_name", default="X", metavar="NAME", help="its features (default: X)")
    parser.add_argument("--y_name", default="y", metavar="NAME", help="its labels (default: y)")
    text = "write the certificate to FILE as JSON; runs are made in its folder and removed (default: certificate.json)"
    parser.add_argument("--certificate", default="certificate.json", metavar="FILE", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, on every rank with the same code."""
    command.on_all_ranks(_parser(), verify, argv)


if __name__ == "__main__":
    main()
