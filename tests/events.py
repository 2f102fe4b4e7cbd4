"""Events of a run, as tests tell them."""

from typing import Any

from ddp_mlp.run_dir.journal import make_event

START: dict[str, Any] = make_event(
    "start",
    0,
    0,
    0.0,
    config={
        "run_dir": "runs/one",
        "hidden": [128, 64],
        "dtype": "float32",
        "optimizer": "adam",
        "learning_rate": 0.003,
        "schedule": "constant",
        "batch_size": 128,
        "seed": 0,
        "reduction": "exact",
        "threads": 1,
        "epochs": 30,
    },
    data={"path": "data/digits.h5", "rows": {"train": 1437, "test": 360}, "features": 64, "classes": 10},
    parameters=17226,
    steps_per_epoch=12,
    total_steps=360,
    ranks=4,
    nodes=1,
    shards=8,
    blas="openblas",
)
"""The start of a run on the digits."""
