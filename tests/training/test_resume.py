"""Tests of going on: after signals, time limits, full disks and damaged files, to the bits of an undisturbed run."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ddp_mlp
from ddp_mlp.errors import DataError
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.checkpoint import Checkpoint

AT_STEP = Path(__file__).parents[1] / "programs" / "at_step.py"
TRAIN = ("-m", "ddp_mlp.train")
KEYS = ("--hidden", "16", "--epochs", "4", "--dropout", "0.2", "--valid_fraction", "0.2", "--clip_norm", "1", "--quiet")
STEPS = 36  # 4 epochs of 9 steps: 80 % of 1437 rows in batches of 128


@pytest.fixture(scope="module")
def whole(run_python: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing has disturbed; copy it before you change it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = run_python(*TRAIN, *KEYS, "--run_dir", folder, "--checkpoint_every", "10", "--log_every", "6")
    assert done.returncode == 0, done.stderr
    return folder


def copied(run_dir: Path, to: Path) -> Path:
    """Return a copy of a run."""
    return Path(shutil.copytree(run_dir, to / "run"))


def events(run_dir: Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the events of these kinds in a run's journal, without times, which differ from run to run by right."""
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    times = re.compile("time|seconds|examples_per_second|waiting|crowded")
    return [{k: v for k, v in event.items() if not times.match(k)} for event in found if event["event"] in kinds]


def final(run_dir: Path) -> dict[str, Any]:
    """Return the final event of a run: the last, where starts before it ended too."""
    *_, event = events(run_dir, "final")
    return event


def saved_steps(run_dir: Path) -> list[int]:
    """Return the steps of a run's checkpoints, each of which verifies; there is no stray file beside them."""
    names = sorted(os.listdir(run_dir / "checkpoints"))
    assert [name for name in names if not name.endswith(".h5")] == []
    return [checkpoints.load(run_dir / "checkpoints" / name).step for name in names if name.startswith("step-")]


def error_line(done: Any) -> str:
    """Return the one line that a failed program says, but for the launcher's own."""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    return str(line)


@pytest.mark.timeout(180)
def test_a_chain_of_interruptions_on_other_numbers_of_ranks(mpirun: Any, whole: Path, tmp_path: Path) -> None:
    """1 → 3 → 2 → 4 → 1 ranks, a signal to one of them in mid-epoch each time: same bits, same journal."""
    run_dir = tmp_path / "run"
    flags = (*KEYS, "--run_dir", run_dir, "--checkpoint_every", "10", "--log_every", "6")
    hops = [(1, 5, 0, "SIGTERM"), (3, 12, 2, "SIGUSR1"), (2, 20, 1, "SIGINT"), (4, 29, 3, "SIGTERM")]
    for P, step, rank, name in hops:
        done = mpirun(P, AT_STEP, str(step), str(rank), name, *flags)
        assert done.returncode == 75, done.stderr
        assert f"stopped by {name} after step {step}" in done.stderr or f"after step {step + 1}" in done.stderr
        assert saved_steps(run_dir)[-1] in (step, step + 1)
    done = mpirun(1, *TRAIN, *flags)
    assert done.returncode == 0, done.stderr
    assert final(run_dir) == final(whole)
    assert events(run_dir, "step", "epoch") == events(whole, "step", "epoch")
    assert [event["reason"] for event in events(run_dir, "interrupted")] == [name for *_, name in hops]


def test_a_complete_run_says_so_and_can_be_extended(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """The same command again exits 0 and leaves the journal as it was; with more epochs it goes on."""
    run_dir = copied(whole, tmp_path)
    before = events(run_dir, "start", "step", "epoch", "final")
    again = run_python(*TRAIN, *[key for key in KEYS if key != "--quiet"], "--run_dir", run_dir)
    assert again.returncode == 0, again.stderr
    assert f"is complete: {STEPS} steps, 4 epochs" in again.stderr
    assert final(whole)["parameters_sha256"] in again.stdout
    assert events(run_dir, "start", "step", "epoch", "final") == before

    longer = (*TRAIN, *KEYS, "--epochs", "6")
    assert run_python(*longer, "--run_dir", run_dir).returncode == 0
    assert run_python(*longer, "--run_dir", tmp_path / "at once").returncode == 0
    assert final(run_dir) == final(tmp_path / "at once")


def test_a_crash_before_the_final_line_loses_nothing(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """A run that was killed after its last checkpoint, in the middle of a line, gets its final event."""
    run_dir = copied(whole, tmp_path)
    lines = (run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_bytes(b"".join([*lines[:-1], lines[-1][:20]]))
    assert run_python(*TRAIN, *KEYS, "--run_dir", run_dir).returncode == 0
    assert final(run_dir) == final(whole)


def test_damaged_checkpoints_are_passed_over_with_a_warning(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """The warning names the damaged file and the one that is used; the run ends with the same bits."""
    run_dir = copied(whole, tmp_path)
    newest, older = sorted((run_dir / "checkpoints").glob("step-*"), reverse=True)[:2]
    damage(newest)
    (run_dir / "checkpoints" / ".step-00000040.h5.tmp-1").write_bytes(b"left by a crash")
    done = run_python(*TRAIN, *KEYS, "--run_dir", run_dir, "--log_every", "6")
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert newest.name in warning
    assert older.name in warning
    assert final(run_dir) == final(whole)
    assert events(run_dir, "step", "epoch") == events(whole, "step", "epoch")
    assert saved_steps(run_dir)[-1] == STEPS


def test_nothing_but_damaged_checkpoints_is_an_error(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """A run is never started anew over what cannot be read: exit 65, and every file is still there."""
    run_dir = copied(whole, tmp_path)
    for path in (run_dir / "checkpoints").glob("step-*"):
        damage(path)
    before = sorted(os.listdir(run_dir / "checkpoints"))
    done = run_python(*TRAIN, *KEYS, "--run_dir", run_dir)
    assert done.returncode == 65
    assert "none of its 3 checkpoints can be used" in error_line(done)
    assert sorted(os.listdir(run_dir / "checkpoints")) == before


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    image = bytearray(path.read_bytes())
    image[len(image) // 2] ^= 4
    path.write_bytes(image)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--hidden", "8,8"], "hidden = (8, 8), but the run of "),
        (["--dtype", "float64"], "dtype = float64, but the run of "),
        (["--shards", "16"], "shards = 16, but the run of "),
        (["--batch_size", "64"], "batch_size = 64, but the run of "),
        (["--seed", "1"], "seed = 1, but the run of "),
        (["--optimizer", "sgd"], "optimizer = sgd, but the run of "),
        (["--learning_rate", "0.01"], "learning_rate = 0.01, but the run of "),
    ],
)
def test_what_decides_the_bits_may_not_change(run_python: Any, whole: Path, flags: list[str], said: str) -> None:
    """The first key that differs is named, with the value asked for and the one stored: exit 2."""
    done = run_python(*TRAIN, *KEYS, *flags, "--run_dir", whole)
    assert done.returncode == 2
    assert said in error_line(done)
    assert f"has {flags[0][2:]} = " in error_line(done)


def test_only_an_override_changes_the_learning_rate(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """With it the rate holds from the next step on, and becomes the run's own."""
    run_dir = copied(whole, tmp_path)
    flags = (*TRAIN, *KEYS, "--run_dir", run_dir, "--log_every", "1", "--learning_rate", "0.01")
    assert run_python(*flags, "--epochs", "5", "--resume_override").returncode == 0
    rates = {event["step"]: event["learning_rate"] for event in events(run_dir, "step")}
    assert rates[STEPS] == 0.003
    assert rates[STEPS + 1] == 0.01
    assert run_python(*flags, "--epochs", "6").returncode == 0


def test_other_data_are_refused(run_python: Any, whole: Path, digits: Path, tmp_path: Path) -> None:
    """A file of the same shape with one other value is not what the run was trained with: exit 65."""
    changed = tmp_path / "digits.h5"
    shutil.copy(digits, changed)
    with h5py.File(changed, "r+") as file:
        file["train/X"][700, 30] += 1
    done = run_python(*TRAIN, *KEYS, "--data", changed, "--run_dir", whole)
    assert done.returncode == 65
    assert "its train is not what the run" in error_line(done)


def test_resume_never_refuses_a_used_folder(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """A journal alone is use; an empty folder is not."""
    done = run_python(*TRAIN, *KEYS, "--resume", "never", "--run_dir", whole)
    assert done.returncode == 2
    assert "has been used" in error_line(done)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert run_python(*TRAIN, *KEYS, "--resume", "never", "--run_dir", tmp_path).returncode == 2
    assert run_python(*TRAIN, *KEYS, "--resume", "never", "--run_dir", tmp_path / "new").returncode == 0


def test_resume_path_goes_on_elsewhere(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """A new folder begins with the checkpoint, ends with the same bits, and goes on by itself when asked again."""
    path, run_dir = whole / "checkpoints" / "step-00000020.h5", tmp_path / "run"
    flags = (*TRAIN, *KEYS, "--resume", path, "--run_dir", run_dir)
    assert run_python(*flags, "--max_steps", "25").returncode == 0
    assert run_python(*flags).returncode == 0
    assert final(run_dir)["parameters_sha256"] == final(whole)["parameters_sha256"]
    starts = events(run_dir, "start")
    assert [event["step"] for event in starts] == [20, 25]
    assert starts[0]["resumed_from"] == str(path)


def test_resume_path_does_not_lose_later_steps(run_python: Any, whole: Path) -> None:
    """Going back within a folder would leave two pasts in it: refused."""
    path = whole / "checkpoints" / "step-00000020.h5"
    done = run_python(*TRAIN, *KEYS, "--resume", path, "--run_dir", whole)
    assert done.returncode == 2
    assert "has gone on to step-00000036.h5" in error_line(done)


def test_resume_path_that_is_not_there(run_python: Any, tmp_path: Path) -> None:
    """A wrong path never means a start from zero."""
    done = run_python(*TRAIN, *KEYS, "--resume", tmp_path / "none.h5", "--run_dir", tmp_path / "run")
    assert done.returncode == 74
    assert "none.h5: cannot be read" in error_line(done)


def test_a_time_limit_stops_and_goes_on(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """max_seconds counts from each start, does at least one step, exits 75, and costs no bits."""
    flags = (*TRAIN, *KEYS, "--run_dir", tmp_path, "--max_seconds", "1e-9")
    for step in (1, 2):
        done = run_python(*flags)
        assert done.returncode == 75, done.stderr
        assert f"stopped by max_seconds = 1e-09 after step {step}; " in error_line(done)
    assert run_python(*TRAIN, *KEYS, "--run_dir", tmp_path).returncode == 0
    assert final(tmp_path) == final(whole)


def test_a_second_run_in_the_folder_is_turned_away(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """While one run has the folder another exits 75, naming it; tests/run_dir/test_lock.py has the rest."""
    from ddp_mlp.run_dir.lock import Lock

    with Lock(copied(whole, tmp_path)):
        done = run_python(*TRAIN, *KEYS, "--run_dir", tmp_path / "run")
    assert done.returncode == 75
    assert f"process {os.getpid()}" in error_line(done)


def test_a_checkpoint_that_cannot_be_written_ends_the_run(mpirun: Any, whole: Path, tmp_path: Path) -> None:
    """Exit 74 on all ranks; the line names what is kept, which verifies; nothing stray is left; later it goes on."""
    run_dir = copied(whole, tmp_path)
    flags = (*KEYS, "--epochs", "6", "--run_dir", run_dir)
    done = mpirun(2, AT_STEP, "40", "0", "15000", *flags)
    assert done.returncode == 74, done.stderr
    assert "step-00000036.h5" in error_line(done)
    assert saved_steps(run_dir) == saved_steps(whole)
    assert list(run_dir.rglob("*.tmp-*")) == []
    assert mpirun(2, *TRAIN, *flags).returncode == 0


def test_a_run_may_go_on_without_checkpoints(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """Each failed save is one counted warning; but a result that cannot be kept in the end is no success: 74."""
    run_dir = copied(whole, tmp_path)
    flags = (*KEYS, "--epochs", "6", "--run_dir", run_dir, "--on_save_error", "continue")
    done = run_python(AT_STEP, "40", "0", "15000", *flags)
    assert done.returncode == 74, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings
    assert [f"going on without it ({i} so far)" in line for i, line in enumerate(warnings, 1)] == [True] * len(warnings)
    assert "step 54: its checkpoint could not be written; " in error_line(done)
    assert saved_steps(run_dir) == saved_steps(whole)


def test_a_journal_that_cannot_be_written_ends_all_ranks(mpirun: Any, tmp_path: Path) -> None:
    """Rank 0 alone meets the error; all end with 74, and the line says what is saved."""
    flags = (*KEYS, "--epochs", "40", "--log_every", "1", "--checkpoint_every", "1 epoch", "--run_dir", tmp_path)
    done = mpirun(3, AT_STEP, "1", "0", "60000", *flags)
    assert done.returncode == 74, done.stderr
    assert "metrics.jsonl: cannot be written" in error_line(done)
    assert f"step-{saved_steps(tmp_path)[-1]:08d}.h5 is saved" in error_line(done)
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")


def test_an_exception_on_one_rank_ends_all(mpirun: Any, tmp_path: Path) -> None:
    """A bug that one rank meets alone takes the others down, with its traceback and exit code 1."""
    done = mpirun(4, AT_STEP, "7", "2", "raise", *KEYS, "--run_dir", tmp_path, timeout=30)
    assert done.returncode == 1, done.stderr
    assert "rank 2 on " in done.stderr
    assert "RuntimeError: this rank alone" in done.stderr


@pytest.mark.parametrize("rank", ["0", "1"])
def test_parameters_that_differ_are_found(mpirun: Any, tmp_path: Path, rank: str) -> None:
    """One bit of a rank's copy: the comparison at the next step event ends the run, naming rank and step."""
    flags = (*KEYS, "--run_dir", tmp_path, "--log_every", "5", "--reduction", "allreduce")
    done = mpirun(2, AT_STEP, "13", rank, "flip", *flags)
    assert done.returncode == 1, done.stderr
    assert "step 15: the parameters of rank 1 (" in error_line(done)


def test_a_loss_that_is_not_finite_ends_all_ranks(mpirun: Any, tmp_path: Path) -> None:
    """All stop after the same step, which is named with the layer; the last finite checkpoint stays."""
    flags = (*KEYS, "--checkpoint_every", "1 epoch", "--run_dir", tmp_path)
    done = mpirun(3, AT_STEP, "13", "1", "overflow", *flags)
    assert done.returncode == 1, done.stderr
    assert "step 13: the loss is nan, from layer 1 on" in error_line(done)
    assert "step-00000009.h5 is saved" in error_line(done)
    assert all(np.isfinite(a).all() for a in load_newest(tmp_path).parameters.values())


@pytest.mark.parametrize("on_save_error", ["stop", "continue"])
def test_no_thread_for_a_checkpoint_is_a_storage_error(run_python: Any, tmp_path: Path, on_save_error: str) -> None:
    """From step 15 on the system gives no thread: a checkpoint that cannot be written, stopped at or counted; 74."""
    flags = ("--checkpoint_every", "10", "--max_steps", "35", "--hidden", "8", "--quiet", "--run_dir", tmp_path)
    program = Path(__file__).parents[1] / "programs" / "at_step.py"
    done = run_python(program, "15", "0", "no-threads", *flags, "--on_save_error", on_save_error)
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    saved = "step-00000010.h5 is saved: run the same command again to go on"
    assert done.stderr.splitlines()[-1].endswith(saved)
    warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warned) == (3 if on_save_error == "continue" else 0)
    assert done.stderr.count("can't start new thread") == max(1, len(warned))


def load_newest(run_dir: Path) -> Checkpoint:
    """Return the newest checkpoint of a run."""
    found = checkpoints.newest(run_dir / "checkpoints")
    assert found is not None
    return found.checkpoint


def test_a_checkpoint_that_is_not_its_configurations(run_python: Any, whole: Path, tmp_path: Path) -> None:
    """Intact files whose arrays, optimizer or progress fit no such run are refused in one line: exit 65."""
    good = load_newest(whole)
    W1 = {**good.parameters, "W1": np.zeros((16, 65), np.float32)}
    wide = {slot: {**arrays, "W1": np.zeros((16, 65), np.float32)} for slot, arrays in good.optimizer.items()}
    scale: dict[str, Any] = {name: np.ones(65) for name in ("mean", "scale")}
    forged = {
        "holds a network 65-16-10": replace(good, parameters=W1, optimizer=wide, standardization=scale),
        "holds the optimizer state []": replace(good, optimizer={}),
        "progress is not that of a run": replace(good, progress={**good.progress, "seconds": "36"}),
        "step 99 is not in epoch 5": replace(good, step=99, progress={**good.progress, "step": 99}),
        "shards = 1152921504606846976: must be ": replace(good, config={**good.config, "shards": 2**60}),
        "'epoch_totals': [0.0, 0.0, 0, -128]": replace(
            good, progress={**good.progress, "epoch_totals": [0.0, 0.0, 0, -128]}
        ),
        "the checkpoint's progress is not that of a run": replace(good, progress={**good.progress, "seconds": 10**400}),
        "checkpoint's progress is not": replace(
            good, progress={**good.progress, "stopping": {**good.progress["stopping"], "since": "x"}}
        ),
        "its configuration is not one of this version": replace(good, config={**good.config, "hiden": 1}),
    }
    for i, (said, forgery) in enumerate(forged.items()):
        folder = tmp_path / str(i) / "checkpoints"
        folder.mkdir(parents=True)
        checkpoints.save(folder, forgery, keep=1)
        done = run_python(*TRAIN, *KEYS, "--run_dir", folder.parent)
        assert done.returncode == 65, (said, done.stderr)
        assert said in error_line(done)


@pytest.mark.parametrize(
    ("attribute", "before", "now", "refused"),
    [
        ("targets", ["u", "v"], ["v", "u"], True),
        ("targets", ["u", "v"], None, False),
        ("targets", None, ["u", "v"], False),
        ("features", ["a", "b", "c"], ["a", "c", "b"], True),
        ("classes", ["cat", "dog"], ["dog", "cat"], True),
    ],
)
def test_names_that_have_changed_are_refused(
    attribute: str, before: Any, now: Any, refused: bool, tmp_path: Path
) -> None:
    """The rows are the same, and so is their fingerprint: what the network has learnt is called otherwise."""
    X = np.random.default_rng(0).standard_normal((40, 3))
    config = ddp_mlp.Config(
        data=str(tmp_path / "a.h5"), run_dir=str(tmp_path / "run"), hidden=(4,), epochs=1, quiet=True
    )
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/X"], file["train/y"] = X, X[:, :2] if attribute == "targets" else (X[:, 0] > 0).astype(int)
        if before is not None:
            file.attrs[attribute] = before
    ddp_mlp.train(config)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs.pop(attribute, None)
        if now is not None:
            file.attrs[attribute] = now
    if refused:
        with pytest.raises(DataError, match=f"its {attribute} are not those of the run of .*, which has '"):
            ddp_mlp.train(replace(config, epochs=2))
    else:
        assert ddp_mlp.train(replace(config, epochs=2))["epoch"] == 2
