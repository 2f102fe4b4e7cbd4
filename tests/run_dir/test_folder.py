"""Tests of run_dir/folder.py: what a run takes for its own, and what it says of files that are gone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp.config import Config
from ddp_mlp.errors import DataError, StorageError, TrainingFailed
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.storage import checkpoint_image, checkpoints
from ddp_mlp.training import loop
from ddp_mlp.training.trainer import Trainer
from tests.oracles import write_data

KEYS: dict[str, Any] = {
    "hidden": (5,),
    "batch_size": 50,
    "epochs": 3,
    "restore_best": True,
    "checkpoint_every": "1 epoch",
    "quiet": True,
}
"""4 steps an epoch."""


def train(folder: Path, run: str, data: str = "data.h5", **keys: Any) -> dict[str, Any]:
    """Train in this process, on one of the data sets in the folder."""
    if not (folder / data).exists():
        write_data(folder / data, {"train": 200, "valid": 40}, features=7 if data == "data.h5" else 6)
    config = Config(data=str(folder / data), run_dir=str(folder / run), **{**KEYS, **keys})
    return loop.train(config, SingleProcess())


def unfinished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the run_dir of a run that has come to its last step and been killed before it restored the best."""
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", lambda trainer: trainer.outputs.settle() and {})
        train(folder, "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 1}, "is another run's, with seed = 1, where this run has seed = 0"),
        ({"hidden": (6,)}, "is another run's, with hidden = (6,), where this run has hidden = (5,)"),
        ({"data": "other.h5"}, "is another run's, of other data"),
    ],
)
def test_the_best_of_another_run_is_refused(
    other: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put in the place of the run's own, of the same epoch: exit 65, and no result of the other run."""
    run_dir = unfinished(tmp_path, monkeypatch)
    best = run_dir / "checkpoints" / "best.h5"
    epoch = checkpoints.load(best).epoch
    train(tmp_path, "other", **other)
    found = checkpoints.load(tmp_path / "other" / "checkpoints" / "best.h5")
    best.write_bytes(checkpoint_image.encode(replace(found, epoch=epoch, progress={})))
    with pytest.raises(DataError) as caught:
        train(tmp_path, "run")
    assert said in str(caught.value)


def test_the_best_of_a_run_like_this_one_is_refused_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal names the hash of each best epoch: another hash is another run's, whatever else agrees."""
    run_dir = unfinished(tmp_path, monkeypatch)
    best = run_dir / "checkpoints" / "best.h5"
    found = checkpoints.load(best)
    events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert found.parameters_sha256 in [event.get("parameters_sha256") for event in events if event["event"] == "epoch"]
    other = {**found.parameters, "b1": found.parameters["b1"] + 1}
    best.write_bytes(checkpoint_image.encode(replace(found, parameters=other)))
    with pytest.raises(DataError, match=r"has the parameters [0-9a-f]{16}…, but metrics\.jsonl says [0-9a-f]{16}…"):
        train(tmp_path, "run")
    best.write_bytes(checkpoint_image.encode(found))
    assert train(tmp_path, "run")["parameters_sha256"] == found.parameters_sha256


def test_a_complete_run_in_another_folder_keeps_what_it_names(tmp_path: Path) -> None:
    """`resume = PATH` of a finished run: the file that the final event names is in the new folder."""
    final = train(tmp_path, "run", restore_best=False)
    path = tmp_path / "run" / "checkpoints" / "step-00000012.h5"
    again = train(tmp_path, "elsewhere", restore_best=False, resume=str(path))
    assert again["parameters_sha256"] == final["parameters_sha256"]
    events = [json.loads(line) for line in (tmp_path / "elsewhere" / "metrics.jsonl").read_text().splitlines()]
    assert (tmp_path / "elsewhere" / "checkpoints" / events[-1]["checkpoint"]).exists()


@pytest.mark.parametrize("go_on", [False, True])
def test_a_folder_that_is_deleted_during_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], go_on: bool
) -> None:
    """It is said at the next event; no line names a file that is gone; going on, the journal is whole."""
    end_epoch = Trainer.end_epoch

    def deleted(trainer: Trainer) -> None:
        if trainer.progress.epoch == 1:
            trainer.outputs.settle()
            shutil.rmtree(tmp_path / "run")
        end_epoch(trainer)

    monkeypatch.setattr(Trainer, "end_epoch", deleted)
    keys: dict[str, Any] = {"restore_best": False, "on_save_error": "continue" if go_on else "stop"}
    with pytest.raises(StorageError) as caught:
        train(tmp_path, "run", **keys)
    if go_on:
        assert "step 12: its checkpoint could not be written" in str(caught.value)
        warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert "metrics.jsonl: was deleted or replaced during the run, and has been written anew" in warnings[0]
        events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [event["event"] for event in events] == ["start", "epoch", "epoch", "epoch"]
    else:
        assert "metrics.jsonl: was deleted or replaced during the run" in str(caught.value)
    assert "step-00000004.h5 was saved, and is gone" in str(caught.value)


def test_a_run_that_diverges_leaves_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In less than a minute, before any checkpoint is due: what waited in memory is written all the same."""
    end_epoch = Trainer.end_epoch

    def spoilt(trainer: Trainer) -> None:
        end_epoch(trainer)
        if trainer.progress.epoch == 2:
            assert not list((tmp_path / "run" / "checkpoints").iterdir())
            trainer.step.reduction.parameters[...] = np.inf

    monkeypatch.setattr(Trainer, "end_epoch", spoilt)
    with pytest.raises(TrainingFailed, match=r"step 9: the loss is nan.*; no checkpoint is saved$"):
        train(tmp_path, "run", checkpoint_every=Config().checkpoint_every)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["best.h5"]
    assert checkpoints.load(tmp_path / "run" / "checkpoints" / "best.h5").epoch in (1, 2)


def test_a_short_run_writes_its_last_step_alone(tmp_path: Path) -> None:
    """And the best one; with an interval of epochs, each epoch's."""
    train(tmp_path, "run", checkpoint_every=Config().checkpoint_every)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["best.h5", "step-00000012.h5"]
    train(tmp_path, "every", checkpoint_every="1 epoch")
    assert len(list((tmp_path / "every" / "checkpoints").glob("step-*.h5"))) == 3
