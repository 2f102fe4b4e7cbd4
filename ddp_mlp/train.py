"""Train a network: `mpirun -n 4 python -m ddp_mlp.train`, `python -m ddp_mlp.train`, or from Python `ddp_mlp.train(…)`.

The module is the command and, called, the function: `ddp_mlp.train` is one and the same thing in whatever order it and
`ddp_mlp` are imported.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from ddp_mlp import command
from ddp_mlp.stopping import Session, session

if TYPE_CHECKING:
    from ddp_mlp.config import Config
    from ddp_mlp.parallel.communicator import Communicator
    from ddp_mlp.parallel.mpi import Intracomm


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, on every rank with the same code."""
    from ddp_mlp import config
    from ddp_mlp.errors import ProgramError
    from ddp_mlp.parallel.launcher import launched_size

    arguments = list(sys.argv[1:] if argv is None else argv)
    with session(saves=True) as ours:
        if launched_size()[0] > 1 and any(word.partition("=")[0] == "--config" for word in arguments):
            # Files are read by rank 0 alone: the others may not see them, or see what was there a moment ago.
            command.start(lambda ranks: _read_by_rank_0(arguments, ranks, ours), ours, debug="--debug" in arguments)
        try:
            chosen = config.parse(arguments)
        except ProgramError as error:
            command.exit_before_mpi(error)
        ours.patience = chosen.stall_seconds
        command.start(lambda ranks: _work(chosen, ranks), ours, chosen.threads, chosen.debug)


def _read_by_rank_0(arguments: Sequence[str], communicator: "Communicator", ours: Session) -> None:
    """Do what the arguments say once rank 0 has read them and their files. Collective."""
    from ddp_mlp import config

    def parse() -> "Config | None":
        try:
            return config.parse(arguments)
        except SystemExit:  # --help and the like: it is printed
            return None

    chosen = communicator.on_rank_0(parse)
    if chosen is not None:
        ours.patience = chosen.stall_seconds
        _work(chosen, communicator)


def _work(chosen: "Config", communicator: "Communicator") -> None:
    """Train, or describe what would be trained, or teach. Collective."""
    from ddp_mlp.explaining import describe, teach
    from ddp_mlp.training import loop

    if chosen.teach:
        teach.teach(communicator, "cross_entropy" if chosen.loss == "auto" else chosen.loss)
    elif chosen.describe:
        describe.describe(chosen, communicator)
    else:
        loop.train(chosen, communicator)


def train(config: "Config", comm: "Intracomm | None" = None) -> dict[str, Any]:
    """Train as configured, and return the final event of metrics.jsonl with `run_dir` added; `ddp_mlp.load` takes that.

    Collective over `comm`, an mpi4py communicator. None is the program's own start: all ranks of mpirun, or one
    process. A run_dir that holds checkpoints is continued.

    Raises a `ddp_mlp.errors.ProgramError` on all ranks; Interrupted after SIGINT, SIGTERM or SIGUSR1, with a checkpoint
    saved. Any other exception may be one rank's alone: `mpirun … python -m mpi4py` then ends the others.

    >>> import ddp_mlp, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> config = ddp_mlp.Config(data="data/digits.h5", hidden=(32,), epochs=3, run_dir=folder.name, quiet=True)
    >>> final = ddp_mlp.train(config)  # doctest: +ELLIPSIS
    test loss 0..., parameters_sha256 ...
    >>> final["ended"], final["epoch"], final["test_accuracy"] > 0.8
    ('epochs', 3, True)
    >>> ddp_mlp.load(final["run_dir"]).parameters_sha256 == final["parameters_sha256"]
    True
    >>> folder.cleanup()
    """
    from ddp_mlp.parallel.mpi import MPIRanks
    from ddp_mlp.training import loop

    if comm is None:
        return loop.train(config, command.everyone())
    communicator = MPIRanks(comm)
    final = loop.train(config, communicator)
    communicator.free()
    return final


class TrainModule(ModuleType):
    """What this module is: calling it trains."""

    def __call__(self, config: "Config", comm: "Intracomm | None" = None) -> dict[str, Any]:
        """Do what `train` does."""
        return train(config, comm)


sys.modules[__name__].__class__ = TrainModule

if __name__ == "__main__":
    main()
