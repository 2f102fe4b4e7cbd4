"""A certificate: what was checked on this machine, what was found, the bound, and what was not checked."""

import json
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ddp_mlp.config import Config
from ddp_mlp.data.opening import open_data
from ddp_mlp.nn.targets import LOSSES
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.run_dir.journal import utc_now
from ddp_mlp.storage.atomic import temporary_folder, write_atomically
from ddp_mlp.storage.writer import DatasetWriter
from ddp_mlp.training.building import architecture_of
from ddp_mlp.training.machine import Machine, settled
from ddp_mlp.units import counted
from ddp_mlp.verification import checks, golden
from ddp_mlp.verification.checks import Check

ROWS = 203
"""Of the first ones, for gradient and sum: 8 shards of them are uneven."""


def certify(data: str | None, x_name: str, y_name: str, path: Path, communicator: Communicator) -> dict[str, Any]:
    """Make all checks, with the data-set file `data` or made-up examples, and write the certificate. Collective."""
    began = time.monotonic()
    config = Config(
        data=data or "made-up examples",
        x_name=x_name,
        y_name=y_name,
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
    with ExitStack() as kept:
        made = temporary_folder(path.parent, ".verify-")  # beside the certificate, where all nodes are likely to see it
        folder = communicator.on_rank_0(kept.enter_context, made)
        found = _check(config, data is None, folder, communicator)
        hashes = golden.golden_hashes(communicator)
    certificate = _certificate(config, found, hashes, machine, communicator, time.monotonic() - began)
    text = json.dumps(certificate, indent=2, ensure_ascii=False) + "\n"
    communicator.on_rank_0(write_atomically, path, text.encode())
    return certificate


def _check(config: Config, made_up: bool, folder: Path, communicator: Communicator) -> list[Check]:
    if made_up:
        config = replace(config, data=communicator.on_rank_0(_write_examples, folder))
    found = []
    for dtype in ("float64", "float32"):
        with communicator:
            data = open_data(replace(config, dtype=dtype), communicator)
            source = data.train[0]
            network = architecture_of(config, data)
            m = min(ROWS, source.m)
            if dtype == "float64":
                found.append(checks.gradient(source, network, m, communicator))
            else:
                found.append(checks.exact_sum(source, network, sorted({m, m // 2, min(5, m), 1} - {0}), communicator))
    if made_up:
        found += [_gradient_of_numbers(loss, config, communicator) for loss in LOSSES[1:]]
    found.extend(checks.training(config, folder, communicator))
    return communicator.broadcast(found)  # all ranks pass, or none


def _gradient_of_numbers(loss: str, config: Config, communicator: Communicator) -> Check:
    """Check the gradient of another loss, on made-up numbers, in float64. Collective."""
    chosen: dict[str, Any] = {"loss": loss, "dtype": "float64", "activation": "tanh", "quantiles": (0.25, 0.75)}
    asked = replace(config, **chosen)
    data = golden.data_for(asked)
    return checks.gradient(data.train[0], architecture_of(asked, data), golden.ROWS, communicator)


def _write_examples(folder: Path) -> str:
    path = folder / "examples.h5"
    X, y = golden.examples()
    with DatasetWriter(path, {"train": golden.ROWS}, golden.FEATURES, np.dtype(np.uint8), golden.CLASSES) as writer:
        writer.append("train", X, y)
    return str(path)


def _certificate(
    config: Config,
    found: list[Check],
    hashes: dict[str, str],
    machine: Machine,
    communicator: Communicator,
    seconds: float,
) -> dict[str, Any]:
    kernel = golden.kernel_class()
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
        "passed": all(check.passed for check in found),
        "checks": [check._asdict() for check in found],
        "not_checked": not_checked,
        "golden": hashes,
        "kernel": kernel._asdict(),
        "versions": machine.versions,
        "ranks": communicator.size,
        "nodes": nodes,
        "hosts": sorted(set(machine.hosts)),
        "data": config.data,
        "time": utc_now(),
        "seconds": round(seconds, 1),
    }


def in_words(certificate: dict[str, Any]) -> str:
    """Return the certificate as text."""
    versions, kernel = certificate["versions"], certificate["kernel"]
    lines = [
        f"ddp_mlp {versions['ddp_mlp']}, {counted(certificate['ranks'], 'rank')} on "
        f"{counted(certificate['nodes'], 'node')}, {certificate['data']}",
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
