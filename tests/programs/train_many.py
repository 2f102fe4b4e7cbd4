"""Train with each of many configurations, on all ranks of one job, and print each `parameters_sha256` as JSON.

Usage: train_many.py FOLDER '{"name": {"key": value, …}, …}'; each run writes below FOLDER.
"""

import contextlib
import io
import json
import sys

from ddp_mlp.config import from_dict
from ddp_mlp.parallel.communicator import end_on_exception
from ddp_mlp.parallel.mpi import connect
from ddp_mlp.training.loop import train

folder, runs = sys.argv[1], json.loads(sys.argv[2])
communicator = connect()
hashes = {}
try:
    for name, keys in runs.items():
        quiet = {"quiet": True, "checkpoint_every": 10**9, "log_every": 0, "run_dir": f"{folder}/{name}"}
        with contextlib.redirect_stdout(io.StringIO()):
            hashes[name] = train(from_dict({**quiet, **keys}), communicator)["parameters_sha256"]
except BaseException:
    end_on_exception(communicator)
if communicator.rank == 0:
    print(json.dumps(hashes))
