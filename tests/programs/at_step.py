"""Train as `python -m ddp_mlp.train` does, but let something happen to one rank as a step begins.

Usage: at_step.py STEP RANK EVENT FLAGS…; EVENT is the name of a signal to itself, or what is below.
"""

import atexit
import os
import resource
import signal
import sys
import threading

import numpy as np

from ddp_mlp.summing.tallies import RankSignal
from ddp_mlp.train import main
from ddp_mlp.training.interruption import Interruption
from ddp_mlp.training.trainer import Trainer

step, rank, event = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
words_to_all = Trainer.words_to_all


def happen(run: Trainer) -> None:
    """Do what EVENT says."""
    parameters = run.step.reduction.parameters
    if event.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, event))
    elif event == "spin":  # no end to it, and no MPI
        while True:
            pass
    elif event == "raise":
        raise RuntimeError("this rank alone")
    elif event == "flip":  # one bit of this rank's copy
        parameters[:1].view(np.uint8)[0] ^= 1
    elif event.isdigit():  # until it exits, no file of this rank can have more bytes
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(event), before[1]))
        atexit.register(resource.setrlimit, resource.RLIMIT_FSIZE, before)  # what measures coverage writes then
    elif event == "no-threads":  # each would take more memory than there are addresses
        threading.stack_size(1 << 46)
    elif event == "overflow":
        parameters[...] = np.inf
    else:
        raise ValueError(event)


def with_event(run: Trainer, signals: Interruption) -> RankSignal:
    """Come before the step of each rank."""
    if (run.progress.step + 1, run.communicator.rank) == (step, rank):
        happen(run)
    return words_to_all(run, signals)


Trainer.words_to_all = with_event  # type: ignore[method-assign, assignment] # where every step passes
main(sys.argv[4:])
