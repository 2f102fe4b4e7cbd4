"""What a run says to people: the journal's events in words, for its own console and for whoever follows elsewhere."""

from collections.abc import Mapping
from typing import Any

from ddp_mlp.run_dir.journal import FILE, Event
from ddp_mlp.units import byte_size, counted


class Narrator:
    """Tells a run's events, one after the other, as lines for people."""

    def __init__(self) -> None:
        self._start: Event = {}

    def lines(self, event: Event) -> list[str]:
        """Return the lines for an event, none for an unknown kind. Raises KeyError for a field missing."""
        tell = {
            "start": self._tell_start,
            "step": self._tell_step,
            "epoch": self._tell_epoch,
            "interrupted": self._tell_interruption,
            "final": self._tell_end,
        }.get(event["event"])
        return tell(event) if tell else []

    def _tell_start(self, event: Event) -> list[str]:
        self._start = event
        config, data = event["config"], event["data"]
        splits = ", ".join(f"{rows:,} {split}" for split, rows in data["rows"].items())
        widths = "-".join(map(str, [data["features"], *config["hidden"], event.get("outputs", data.get("classes"))]))
        resumed = event.get("resumed_from")
        lines = [
            f"data      {data['path']}: {splits}; {counted(data['features'], 'feature')}, {_of_targets(data)}",
            *(f"          {note}" for note in data.get("notes", ())),
            *self._tell_access(event),
            f"network   {widths}, {event['parameters']:,} parameters, {config['dtype']}",
            f"training  {config['optimizer']}, learning rate {config['learning_rate']:g} ({config['schedule']}), "
            f"batch size {config['batch_size']}, {counted(event['steps_per_epoch'], 'step')} per epoch, "
            f"seed {config['seed']}",
            f"ranks     P = {event['ranks']} on {counted(event['nodes'], 'node')}, {_sum(event)}; {event['blas']}, "
            f"{counted(config['threads'], 'thread')}",
        ]
        idle = event["ranks"] - event["shards"]
        if idle > 0:
            them = "it" if idle == 1 else "them"
            more = "more shards" if _is_native(config) else "larger batches"
            lines.append(f"          {counted(idle, 'rank')} without a shard, idle: {more} would use {them}")
        return [*lines, f"run       {config['run_dir']}" + (f", resumed from {resumed}" if resumed else "")]

    def _tell_access(self, event: Event) -> list[str]:
        """Say how the rows are got at, where they come from a file: and by what figures `auto` chose."""
        access = event["data"].get("access")
        if access is None:
            return []
        kinds = {"memory": "in memory, one copy per node", "stream": "streamed from the file, read ahead"}
        figures = f"{byte_size(access['node_bytes'])} a node, which has {byte_size(access['free_bytes'])} free"
        asked = " (auto)" if event["config"]["access"] == "auto" else ""
        return [f"access    {access['kind']}{asked}: {kinds[access['kind']]}, {figures}"]

    def _tell_step(self, event: Event) -> list[str]:
        total = self._start["total_steps"]
        figures = [f"{name} {event[name]:.4f}" for name in ("loss", "accuracy") if name in event]
        place = f"step {event['step']:>{len(f'{total:,}')},}/{total:,}"
        rate = f"{event['examples_per_second']:,.0f} examples/s"
        return ["  ".join([place, *figures, rate, f"{duration(self._seconds_left(event))} left"])]

    def _tell_epoch(self, event: Event) -> list[str]:
        epochs = self._start["config"]["epochs"]
        place = f"epoch {event['epoch']:>{len(str(epochs))}}/{epochs}"
        return ["  ".join([place, *epoch_figures(event), f"{event['examples_per_second']:,.0f} examples/s"])]

    def _tell_interruption(self, event: Event) -> list[str]:
        return [f"stopped   by {event['reason']} after step {event['step']:,}, {duration(event['seconds'])}"]

    def _tell_end(self, event: Event) -> list[str]:
        run_dir = self._start["config"]["run_dir"]
        counts = f"{counted(event['step'], 'step')}, {counted(event['epoch'], 'epoch')}, {duration(event['seconds'])}"
        lines = [f"ended     by {event['ended']}: {counts}"]
        if "best_epoch" in event:
            lines.append(f"best      epoch {event['best_epoch']}")
        return [*lines, f"kept      {run_dir}/checkpoints/{event['checkpoint']}", f"journal   {run_dir}/{FILE}"]

    def _seconds_left(self, event: Event) -> float:
        """Return the seconds that the steps to come will take, at the pace since the last start."""
        done: int = event["step"] - self._start["step"]
        left: int = self._start["total_steps"] - event["step"]
        passed: float = event["seconds"] - self._start["seconds"]
        return max(0.0, passed / max(1, done) * left)


SHOWN = ("loss", "accuracy", "rmse", "r2")
"""What is told of an evaluation; the journal has all of it."""


def _is_native(config: Mapping[str, Any]) -> bool:
    """Return whether a run's arithmetic is the processor's; version 0.1 had no other."""
    return bool(config.get("arithmetic", "native") == "native")


def _sum(event: Event) -> str:
    """Say how a run's gradients are summed."""
    config = event["config"]
    return (
        f"K = {counted(event['shards'], 'shard')}, {config['reduction']} sum"
        if _is_native(config)
        else "portable arithmetic: no shards, the same bits on any machine"
    )


def epoch_figures(event: Event) -> list[str]:
    """Return the losses and accuracies of an epoch event in words."""
    names = ("train_loss", "train_accuracy", *(f"valid_{figure}" for figure in SHOWN))
    return [f"{_words(name)} {event[name]:.4f}" for name in names if name in event]


def result(final: Mapping[str, Any]) -> str:
    """Return the line by which people and scripts know a run's result, from its final event."""
    names = [f"{split}_{figure}" for split in ("valid", "test") for figure in SHOWN]
    figures = [f"{_words(name)} {final[name]:.4f}" for name in names if name in final]
    return ", ".join([*figures, f"{final['seconds']:.1f} s", f"parameters_sha256 {final['parameters_sha256']}"])


def _words(name: str) -> str:
    """Return the name of a figure as it is told, such as "valid RMSE"."""
    return " ".join({"rmse": "RMSE", "r2": "R²"}.get(word, word) for word in name.split("_"))


def _of_targets(data: Mapping[str, Any]) -> str:
    if "classes" in data:
        return counted(data["classes"], "class")
    names = data["targets"]
    return (
        f"{len(names)} target{'s' if len(names) > 1 else ''}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
    )


def duration(seconds: float) -> str:
    """Return a time as hours:minutes:seconds, such as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
