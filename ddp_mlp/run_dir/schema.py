"""The fields of metrics.jsonl, event by event: the documentation prints them, and the tests check them."""

from ddp_mlp.config.keys import METRICS

ALL = {
    "event": "`start`, `step`, `epoch`, `interrupted` or `final`",
    "step": "steps done",
    "epoch": "epochs done",
    "seconds": "the run's own clock, over all its starts",
}
"""Of every event."""

EVENTS: dict[str, dict[str, str]] = {
    "start": {
        "time": "of day, UTC",
        "config": "all settings",
        "chosen": "the settings that this start was given and that are not the default",
        "data": "`path`, `rows`, `features`, `classes` or `targets`, `weighted`; `access`; `check`: all or a sample",
        "fingerprint": "SHA-256 of each split",
        "outputs": "how many",
        "parameters": "how many",
        "steps_per_epoch": "of this configuration",
        "total_steps": "of this configuration",
        "ranks": "P",
        "nodes": "how many",
        "shards": "K; under portable arithmetic, the ranks that have rows",
        "hosts": "names of machines",
        "versions": "of libraries",
        "blas": "BLAS library, version and kernel",
        "crowded": "where threads share cores: `host`, `ranks`, `threads` and `cores` of the host where most do",
        "resumed_from": "the checkpoint's file name",
        "cut_step": "how far the start before had come, where steps after that checkpoint are done again",
        "notes": "what was taken where nothing was said",
    },
    "step": {
        "loss": "mean over the examples since the last such line",
        "accuracy": "likewise, where the targets are classes or labels",
        "learning_rate": "of this step",
        "gradient_norm": "of this step, before clipping",
        "examples_per_second": "since the last such line",
        "second_limbs": "portable arithmetic: rows of sums formed in two parts since the last such line",
        "seconds_gather": "rank 0's, since the last such line: rows into buffers",
        "seconds_forward": "products forward",
        "seconds_backward": "products backward",
        "seconds_sum": "the sum over ranks",
        "seconds_update": "the optimizer",
        "seconds_waiting": "waiting for other ranks",
        "seconds_between": "all that is done between steps",
    },
    "epoch": {
        "train_loss": "mean over the epoch, each example at the time it was trained on",
        "train_accuracy": "likewise",
        "examples_per_second": "since the last epoch's line",
        "waiting_by_rank": "seconds that each rank has waited for others in the epoch",
        "crowded_times": "where threads share cores: the time of the epoch's steps over the processor time of the rank "
        "that computed longest",
        "parameters_sha256": "with `restore_best`, of an epoch that is the best so far: the hash of its parameters",
    },
    "interrupted": {"reason": "the signal's name, or the limit that was reached"},
    "failed": {"reason": "what was not finite, or which ranks did not agree, in which step"},
    "final": {
        "ended": "`epochs`, `max_steps` or `patience`",
        "best_epoch": "the one with the best monitored figure",
        "checkpoint": "the file in `checkpoints` that holds the parameters that are kept",
        "parameters_sha256": "their hash, by which two runs are compared",
        "kernels": "where a resume was allowed on another kernel: all that the run was computed with",
    },
}
"""The fields of each kind of event, beside those of all."""

EVALUATED = {"epoch": ("valid",), "final": ("valid", "test")}
"""The splits whose metrics an event has, as `valid_loss`; `valid_targets` has them for each class, label or number."""


def fields(event: str) -> dict[str, str]:
    """Return all fields that an event of this kind may have, with their meaning."""
    evaluated = {
        f"{split}_{name}": f"of {split}, of the parameters at that time"
        for split in EVALUATED.get(event, ())
        for name in (*METRICS, "targets")
    }
    return {**ALL, **EVENTS[event], **evaluated}
