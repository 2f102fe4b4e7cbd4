"""Which library computes a run's products, where `blas` leaves that to the program: one and the same on all ranks.

A run that goes on keeps the library that it began with: a package that was installed meanwhile changes no bits.
"""

from dataclasses import replace

from ddp_mlp.config import Config
from ddp_mlp.nn import blas, cblas
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.parallel.host import processor_model
from ddp_mlp.storage import checkpoints

MAKER = "GenuineIntel"
"""Of the processors on which MKL is the faster library."""


def with_blas_chosen(config: Config, communicator: Communicator) -> Config:
    """Return the configuration with a library in the place of `blas = auto`. Collective.

    That of the run that goes on; else MKL where every rank runs on an Intel processor and has it; else NumPy's own.
    Raises DataError or StorageError where the run's checkpoint cannot be read.
    """
    if config.blas != "auto":
        return config
    if config.arithmetic == "portable":
        return replace(config, blas=blas.NUMPYS)
    kept = communicator.on_rank_0(_begun_with, config)
    everyone = communicator.allgather(MAKER in processor_model() and cblas.find_mkl() is not None)
    return replace(config, blas=kept or (cblas.MKL if all(everyone) else blas.NUMPYS))


def _begun_with(config: Config) -> str | None:
    """Return the library of the run that goes on, None where one begins; version 0.1 knew NumPy's alone. Local."""
    begun = checkpoints.to_go_on_from(config.run_dir, config.resume)
    return None if begun is None else str(begun.checkpoint.config.get("blas", blas.NUMPYS))
