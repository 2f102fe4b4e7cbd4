"""Print this process's kernel class and the hashes of the golden runs as JSON: the content of tests/golden/*.json."""

import json

import threadpoolctl

from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.verification.golden import golden_hashes, kernel_class

with threadpoolctl.threadpool_limits(1, "blas"):
    print(json.dumps({"kernel": kernel_class()._asdict(), "golden": golden_hashes(SingleProcess())}, indent=2))
