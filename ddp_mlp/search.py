"""Find good settings: `mpirun -n 8 python -m ddp_mlp.search --space space.toml --trials 200`, or `ddp_mlp.search(…)`.

The module is the command and, called, the function, like `ddp_mlp.train`. Many trainings run at the same time, each on
a few ranks; what comes of it is the same on any number of ranks.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from ddp_mlp import command
from ddp_mlp.command import Parser
from ddp_mlp.errors import ConfigError, ProgramError
from ddp_mlp.stopping import session

if TYPE_CHECKING:
    from ddp_mlp.config import Config
    from ddp_mlp.parallel.communicator import Communicator
    from ddp_mlp.parallel.mpi import Intracomm


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, on every rank with the same code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with session(saves=True) as ours:
        try:
            asked, rest = _parser().parse_known_args(arguments)
            if asked.space is None:
                raise ConfigError("space: must be given, as --space FILE.toml; see --help")
        except ProgramError as error:
            command.exit_before_mpi(error)
        # Files are read by rank 0 alone: the others may not see them, or see what was there a moment ago.
        command.start(lambda ranks: _work(asked, rest, ranks), ours, debug="--debug" in rest)


def _parser() -> Parser:
    parser = Parser(
        "search",
        "Train a network many times with different settings, several trainings at a time, and keep the best. "
        "The same trials, scores and bits on any number of ranks, and after any interruption.",
        epilog="Every key of the configuration is a flag, too: --config base.toml, --epochs 30, --run_dir runs/search, "
        "--monitor valid_accuracy, --seed 1 …; see python -m ddp_mlp.train --help. What is in the space is the "
        "trials', all else is the same for all of them.",
    )
    add = parser.add_argument
    add("--space", type=Path, metavar="FILE", help="TOML, what to try: learning_rate = { log = [1e-4, 1e-1] } …")
    add("--trials", type=int, metavar="N", help="how many settings to try; a grid alone may leave it away")
    add("--sampler", default="sobol", metavar="sobol|random|grid", help="how settings are drawn (default: sobol)")
    add("--halving", type=int, metavar="N", help="after ever more epochs only the best N-th of the trials goes on")
    add("--folds", type=int, default=1, metavar="N", help="cross-validation: score a trial by N trainings (default: 1)")
    add("--members", type=int, default=1, metavar="N", help="networks of the best settings in the end (default: 1)")
    add("--ranks_per_trial", type=int, default=1, metavar="N", help="ranks that train together (default: 1)")
    return parser


def _work(asked: argparse.Namespace, rest: Sequence[str], communicator: "Communicator") -> None:
    """Search once rank 0 has read the arguments and their files. Collective."""
    from ddp_mlp import config
    from ddp_mlp.trials import space
    from ddp_mlp.trials.campaign import search as conduct
    from ddp_mlp.trials.plan import SearchOptions

    def read() -> "tuple[Config, dict[str, Any], SearchOptions] | None":
        options = {name: value for name, value in vars(asked).items() if name != "space"}
        try:
            return config.parse(rest), space.read(asked.space), SearchOptions(**options)
        except SystemExit:  # --print_config: it is printed
            return None

    found = communicator.on_rank_0(read)
    if found is not None:
        conduct(*found, communicator)


def search(
    config: "Config",
    space: "Mapping[str, Any] | str | Path",
    *,
    trials: int | None = None,
    sampler: Any = "sobol",
    halving: int | None = None,
    folds: int = 1,
    members: int = 1,
    ranks_per_trial: int = 1,
    comm: "Intracomm | None" = None,
) -> dict[str, Any]:
    """Search the space around a configuration, and return the best trial, its settings, score and members.

    `space` is a table as in the TOML file, or that file. Collective over `comm`, an mpi4py communicator; None is the
    program's own start: all ranks of mpirun, or one process. A run_dir that holds a search is continued.

    Raises a `ddp_mlp.errors.ProgramError` on all ranks; Interrupted after SIGINT, SIGTERM or SIGUSR1, with every
    training saved.

    >>> import ddp_mlp, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> base = ddp_mlp.Config(valid_fraction=0.2, epochs=2, run_dir=folder.name, quiet=True)
    >>> space = {"learning_rate": {"log": [1e-4, 1e-2]}, "hidden": {"choice": [[32], [64, 32]]}}
    >>> found = ddp_mlp.search(base, space, trials=4)  # doctest: +ELLIPSIS
    trial ..., valid loss 0..., test loss 0..., test accuracy 0..., parameters_sha256 ...
    >>> sorted(found["settings"]), len(found["members"])
    (['hidden', 'learning_rate'], 1)
    >>> ddp_mlp.load(folder.name).parameters_sha256 == found["members"][0]["parameters_sha256"]
    True
    >>> folder.cleanup()
    """
    from ddp_mlp.parallel import mpi
    from ddp_mlp.trials import space as spaces
    from ddp_mlp.trials.campaign import search as conduct
    from ddp_mlp.trials.plan import SearchOptions

    communicator = command.everyone() if comm is None else mpi.MPIRanks(comm)
    asked = communicator.on_rank_0(SearchOptions, trials, sampler, folds, members, halving, ranks_per_trial)
    table = space if isinstance(space, Mapping) else communicator.on_rank_0(spaces.read, Path(space))
    found = conduct(config, table, asked, communicator)
    if comm is not None:
        communicator.free()
    return found


class SearchModule(ModuleType):
    """What this module is: calling it searches."""

    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Do what `search` does."""
        return search(*args, **options)


sys.modules[__name__].__class__ = SearchModule

if __name__ == "__main__":
    main()
