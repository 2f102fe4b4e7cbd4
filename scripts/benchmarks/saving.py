"""What a checkpoint every 20 steps costs: epochs of 784-[512,512]-10 with and without, in turn, in one process.

Usage: python scripts/benchmarks/saving.py [--pairs 20] [--batch_size 512] [--folder FOLDER]; a run writes to FOLDER.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ddp_mlp.config import Config  # noqa: E402 # from this checkout, installed or not
from ddp_mlp.data.opening import open_data  # noqa: E402
from ddp_mlp.parallel.mpi import connect  # noqa: E402
from ddp_mlp.run_dir.claiming import claimed  # noqa: E402
from ddp_mlp.training.interruption import Interruption  # noqa: E402
from ddp_mlp.training.loop import take_step  # noqa: E402
from ddp_mlp.training.machine import settled  # noqa: E402
from ddp_mlp.training.starting import started  # noqa: E402
from ddp_mlp.training.watchdog import Watchdog  # noqa: E402

STEPS = 60
"""Of an epoch: 3 checkpoints."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=20, metavar="N")
    parser.add_argument("--batch_size", type=int, default=512, metavar="N")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    communicator = connect()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        data = Path(folder) / "data.h5"
        random = np.random.default_rng(0)
        with h5py.File(data, "w") as file:
            m = STEPS * arguments.batch_size
            file["train/X"] = random.random((m, 784), np.float32)
            file["train/y"] = random.integers(0, 10, m)
        config = Config(
            data=str(data),
            hidden=(512, 512),
            epochs=10**6,
            batch_size=arguments.batch_size,
            optimizer=arguments.optimizer,
            run_dir=f"{folder}/run",
            checkpoint_every=20,
            log_every=0,
            quiet=True,
        )
        times = measure(config, arguments.pairs)
    if communicator.rank == 0:
        report(times)


def measure(config: Config, pairs: int) -> dict[bool, list[tuple[float, float]]]:
    """Return seconds on the clock, and of the training thread's own work, of epochs with and without checkpoints.

    An epoch is measured from 10 steps after one checkpoint would be due, so that its last write ends within it.
    """
    communicator = connect()
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    signals = Interruption()
    with (
        Watchdog(communicator, config.stall_seconds) as watchdog,
        settled(config, communicator) as machine,
        claimed(config, communicator) as claimed_config,
    ):
        data = open_data(claimed_config, communicator)
        with started(claimed_config, data, machine, communicator, watchdog) as trainer:
            saves, began = False, (0.0, 0.0)
            while min(len(times[True]), len(times[False])) < pairs:
                for batch in trainer.batches.epoch(trainer.progress.epoch):
                    if trainer.steps_into_epoch == STEPS // 6:
                        now = time.perf_counter(), time.thread_time()
                        number = trainer.progress.epoch
                        if number > 1:  # the first fills the buffers
                            times[saves].append((now[0] - began[0], now[1] - began[1]))
                        saves, began = (number + number // 2) % 2 == 1, now  # with, without, without, with, …
                    words = trainer.words_to_all(signals)
                    result = take_step(trainer.step, batch, trainer.learning_rate(), words, trainer.next_is_logged)
                    trainer.count(result)
                    if saves:
                        trainer.save_if_due(result)
                trainer.progress.epoch += 1
    return {saves: found[:pairs] for saves, found in times.items()}


def report(times: dict[bool, list[tuple[float, float]]]) -> None:
    """Print the medians and the ratio of neighbours."""
    for column, what in enumerate(("on the clock", "of the training thread's work")):
        with_, without = ([row[column] for row in times[saves]] for saves in (True, False))
        ratios = sorted(a / b for a, b in zip(with_, without, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        print(
            f"an epoch {what}: {statistics.median(without):.3f} s without, {statistics.median(with_):.3f} s with "
            f"{STEPS // 20} checkpoints; ratio {statistics.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    main()
