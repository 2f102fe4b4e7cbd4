"""Whole searches, as programs: the same table, winner and bits on any number of ranks and after any interruption."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ddp_mlp
from ddp_mlp import config as configuration
from ddp_mlp.config import Config
from ddp_mlp.errors import DataError
from ddp_mlp.trials import table
from tests.conftest import MPIRUN, Program, end

SPACE = """
learning_rate = { log = [1e-4, 1e-1] }
batch_size = { choice = [64, 128] }
hidden = { depth = { int = [1, 2] }, width = { choice = [16, 32] } }
"""
HALVED = ("--trials", "6", "--halving", "2", "--folds", "2", "--epochs", "4", "--members", "2")


def command(digits: Path, space: Path, run_dir: Path, *options: str) -> list[str]:
    """Return the arguments of Python for a search of the digits."""
    return ["-m", "ddp_mlp.search", "--data", str(digits), "--space", str(space), "--run_dir", str(run_dir), *options]


def lasting(run_dir: Path) -> tuple[list[Any], Any]:
    """Return all that a search must give again: its table, and what it ended with."""
    rows = [table.lasting(row) for row in table.read(run_dir / table.TABLE).values()]
    final = json.loads((run_dir / "search.jsonl").read_text().splitlines()[-1])
    kept = {name: final[name] for name in ("event", "best", "settings", "score", "failed")}
    members = [{name: value for name, value in member.items() if name != "folder"} for member in final["members"]]
    return rows, (kept, members)


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small space."""
    path = tmp_path_factory.mktemp("space") / "space.toml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="session")
def undisturbed(
    run_python: Program, digits: Path, space: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[list[Any], Any]]:
    """Search with halving, folds and members in one process; return the folder, and what it must give again."""
    run_dir = tmp_path_factory.mktemp("search") / "run"
    outcome = run_python(*command(digits, space, run_dir, *HALVED), timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    return run_dir, lasting(run_dir)


def test_the_table_is_whole(undisturbed: tuple[Path, tuple[list[Any], Any]]) -> None:
    """One line per trial, in order; half of the trials went on at each rung; scores are the means of their folds."""
    rows, (kept, members) = undisturbed[1]
    assert [row["trial"] for row in rows] == list(range(6))
    assert sorted(len(row["rungs"]) for row in rows) == [1, 1, 1, 2, 2, 3]
    assert [entry["epochs"] for entry in max(rows, key=lambda row: len(row["rungs"]))["rungs"]] == [1, 2, 4]
    for row in rows:
        for entry in row["rungs"]:
            scores = [fold["score"] for fold in entry["folds"]]
            assert entry["score"] == pytest.approx(sum(scores) / 2, rel=1e-15)
    first = sorted(rows, key=lambda row: row["rungs"][0]["score"])
    assert {row["trial"] for row in first[:3]} == {row["trial"] for row in rows if len(row["rungs"]) > 1}
    assert kept["best"] == next(row["trial"] for row in rows if row["state"] == "finished")
    assert len(members) == 2
    assert members[0]["parameters_sha256"] != members[1]["parameters_sha256"]


@pytest.mark.parametrize(("ranks", "ranks_per_trial"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_ranks_decide_nothing(
    mpirun: Program,
    digits: Path,
    space: Path,
    tmp_path: Path,
    undisturbed: tuple[Path, tuple[list[Any], Any]],
    ranks: int,
    ranks_per_trial: int,
) -> None:
    """Table, winner and bits are those of one process; a rank that is left over is told of."""
    options = (*HALVED, "--ranks_per_trial", str(ranks_per_trial))
    outcome = mpirun(ranks, *command(digits, space, tmp_path, *options), timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    assert lasting(tmp_path) == undisturbed[1]
    assert ("1 rank left over" in outcome.stderr) == (ranks % ranks_per_trial == 1)


@pytest.mark.parametrize("seed", range(3))
def test_kills_decide_nothing(
    run_python: Program,
    digits: Path,
    space: Path,
    tmp_path: Path,
    undisturbed: tuple[Path, tuple[list[Any], Any]],
    seed: int,
) -> None:
    """Killed without a warning, early, in the middle and late, and gone on with in one process."""
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python")
    arguments = command(digits, space, tmp_path, *HALVED)
    process = subprocess.Popen(
        [MPIRUN, "-n", "2", sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    trainings = (1, 6, 10)[seed]
    try:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline and process.poll() is None and lines(tmp_path) < trainings:
            time.sleep(0.01)
        process.kill()
    finally:
        end(process)
    outcome = run_python(*arguments, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    assert lasting(tmp_path) == undisturbed[1]


@pytest.mark.parametrize("lost", ["finished", "stopped"])
def test_a_line_that_is_lost_is_trained_again(
    run_python: Program,
    digits: Path,
    space: Path,
    tmp_path: Path,
    undisturbed: tuple[Path, tuple[list[Any], Any]],
    lost: str,
) -> None:
    """From the beginning, where its checkpoint is beyond the rung: at each rung its score is what it was there."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed[0], run_dir)
    rows = [row for row in table.read(run_dir / table.TABLE).values() if row["state"] != lost]
    table.write(run_dir / table.TABLE, rows)
    with (run_dir / table.TABLE).open("ab") as file:
        file.write(b'{"trial": 1, "sett')  # torn
    outcome = run_python(*command(digits, space, run_dir, *HALVED), timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    found, (kept, members) = lasting(run_dir)
    assert (found, (kept, members)) == undisturbed[1]


def lines(run_dir: Path) -> int:
    """Return how many lines the table has."""
    path = run_dir / table.TABLE
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_signal_saves_and_the_search_goes_on(
    run_python: Program, digits: Path, space: Path, tmp_path: Path, undisturbed: tuple[Path, tuple[list[Any], Any]]
) -> None:
    """SIGUSR1 to mpirun: every group saves, exit code 75, and the next start ends as if nothing had been."""
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python")
    arguments = command(digits, space, tmp_path, *HALVED)
    process = subprocess.Popen(
        [MPIRUN, "-n", "2", sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline and process.poll() is None and lines(tmp_path) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        _, stderr = process.communicate(timeout=40)
    finally:
        end(process)
    assert process.returncode == 75, stderr
    assert re.search(r"error: stopped by SIGUSR1; \d of 6 trials are done, .* is saved: run the same command", stderr)
    outcome = run_python(*arguments, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    assert lasting(tmp_path) == undisturbed[1]


def test_a_time_limit_saves(
    run_python: Program, digits: Path, space: Path, tmp_path: Path, undisturbed: tuple[Path, tuple[list[Any], Any]]
) -> None:
    """Start after start, each a fifth of a second long, until the search is done: it comes to the same."""
    for _ in range(60):
        outcome = run_python(*command(digits, space, tmp_path, *HALVED, "--max_seconds", "0.2"), timeout=60)
        if outcome.returncode == 0:
            break
        assert outcome.returncode == 75, outcome.stderr
        assert "stopped by max_seconds = 0.2" in outcome.stderr
    assert lasting(tmp_path) == undisturbed[1]


def test_the_best_configuration_trains_to_the_same_bits(
    run_python: Program, mpirun: Program, digits: Path, tmp_path: Path, undisturbed: tuple[Path, Any]
) -> None:
    """`train --config best.toml`, on two ranks, has the hash of the first member, and the search's folder is a run."""
    run_dir, (_, (_, members)) = undisturbed
    outcome = mpirun(2, "-m", "ddp_mlp.train", "--config", run_dir / "best.toml", "--run_dir", tmp_path, "--quiet")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.rstrip().endswith(members[0]["parameters_sha256"])
    shown = run_python("-m", "ddp_mlp.predict", run_dir, digits)
    assert shown.returncode == 0, shown.stderr
    assert "accuracy" in shown.stdout


def test_without_folds_the_best_trial_is_the_result(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """Its own network is kept, with its score; nothing is trained a second time."""
    space = tmp_path / "space.toml"
    space.write_text(SPACE)
    options = ("--trials", "4", "--epochs", "2", "--valid_fraction", "0.2", "--monitor", "valid_accuracy")
    outcome = run_python(*command(digits, space, tmp_path / "run", *options))
    assert outcome.returncode == 0, outcome.stderr
    rows, (kept, members) = lasting(tmp_path / "run")
    assert kept["score"] == max(row["score"] for row in rows)
    fold = rows[kept["best"]]["rungs"][0]["folds"][0]
    shown = run_python("-m", "ddp_mlp.report", tmp_path / "run", "-o", tmp_path / "report.html")
    assert shown.returncode == 0, shown.stderr
    assert "Score against learning_rate" in (tmp_path / "report.html").read_text()
    assert members[0]["parameters_sha256"] == fold["parameters_sha256"]
    assert members[0]["valid_accuracy"] == fold["score"] == kept["score"]
    shutil.rmtree(tmp_path / "run" / "trials")
    for path in (tmp_path / "run" / "checkpoints").glob("*.h5"):
        path.unlink()
    outcome = run_python(*command(digits, space, tmp_path / "run", *options))
    assert outcome.returncode == 0, outcome.stderr
    assert lasting(tmp_path / "run")[1][1][0]["parameters_sha256"] == members[0]["parameters_sha256"]


def test_a_trial_that_diverges_is_written_down(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """The others go on; where all diverge, the search fails."""
    space = tmp_path / "space.toml"
    space.write_text("learning_rate = { choice = [1e-3, 1e38] }\noptimizer = { choice = ['sgd'] }\n")
    options = ("--sampler", "grid", "--epochs", "2", "--valid_fraction", "0.2")
    outcome = run_python(*command(digits, space, tmp_path / "run", *options))
    assert outcome.returncode == 0, outcome.stderr
    rows, (kept, _) = lasting(tmp_path / "run")
    assert [row["state"] for row in rows] == ["finished", "failed"]
    assert re.fullmatch(r"step \d+: the loss is (nan|inf).*lower learning_rate or set clip_norm", rows[1]["reason"])
    assert (kept["best"], kept["failed"]) == (0, 1)

    space.write_text("learning_rate = { choice = [1e37, 1e38] }\noptimizer = { choice = ['sgd'] }\n")
    outcome = run_python(*command(digits, space, tmp_path / "none", *options))
    assert outcome.returncode == 1
    assert "all 2 trials failed; trial 0: step" in outcome.stderr
    shown = run_python("-m", "ddp_mlp.report", tmp_path / "none", "-o", tmp_path / "none.html")
    assert shown.returncode == 0, shown.stderr
    assert "2 trials: 2 failed; the first that failed is trial 0: step" in (tmp_path / "none.html").read_text()
    shown = run_python("-m", "ddp_mlp.report", tmp_path / "none", "-o", tmp_path / "none.png")
    assert shown.returncode == 2
    assert "has no best network to draw yet" in shown.stderr
    shown = run_python("-m", "ddp_mlp.predict", tmp_path / "none", digits)
    assert shown.returncode == 65
    assert "its search has not come to its end, 0 of 1 member trained: run the same command again\n" in shown.stderr


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("learning_rat = { log = [1e-4, 1] }", (), 'unknown key "learning_rat"'),
        ("dropout = { uniform = [0, 1] }", (), "dropout = 1.0"),
        ("epochs = { int = [1, 4] }", ("--trials", "5"), "the space has 4 points"),
        ("epochs = { int = [1, 4] }", ("--folds", "150"), "folds = 150: class '"),
        ("epochs = { int = [1, 4] }", ("--folds", "0"), "folds = 0: must be at least 1"),
        ("epochs = { int = [1, 4] }", ("--valid_fraction", "0"), "monitor = valid_loss: needs validation data"),
        ("epochs = { int = [1, 4] }", ("--folds", "3", "--valid_fraction", "0.2"), "drop valid_fraction"),
        ("epochs = { int = [1, 4] }", ("--reduction", "allreduce"), "a search needs exact"),
        ("epochs = { int = [1, 4] }", ("--sampler", "magic"), 'sampler = magic: expected "sobol", "random" or "grid"'),
        ("epochs = { int = [1, 4] }", ("--ranks_per_trial", "2"), "ranks_per_trial = 2: there is 1 rank:"),
        ("epochs = { int = [1, 4] }", ("--epoch", "2"), "did you mean epochs"),
        ("seed = {", (), "space.toml"),
        ("seed = { int = [0, 3] }", (), "seed: decides with valid_fraction which rows are held out"),
        (SPACE, ("--monitor", "train_loss", "--max_steps", "5"), "max_steps = 5: train_loss, which trials"),
        ("max_steps = { int = [1, 99] }", ("--monitor", "train_loss"), "max_steps: cannot be searched by train_loss"),
    ],
)
def test_what_is_wrong_is_one_line(
    run_python: Program, digits: Path, tmp_path: Path, text: str, options: tuple[str, ...], problem: str
) -> None:
    """Exit code 2, before any training: the folder stays as it was."""
    space = tmp_path / "space.toml"
    space.write_text(text + "\n")
    usual = () if "--folds" in options or "--valid_fraction" in options else ("--valid_fraction", "0.2")
    trials = () if "--trials" in options else ("--trials", "2")
    outcome = run_python(*command(digits, space, tmp_path / "run", *usual, *trials, *options))
    assert outcome.returncode == 2, outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    assert problem in outcome.stderr
    assert not (tmp_path / "run" / "trials").exists()


def test_what_does_not_fit_is_never_passed_over(run_python: Program, digits: Path, tmp_path: Path) -> None:
    """A trial larger than the machine's memory: exit code 78, and nothing is trained."""
    space = tmp_path / "space.toml"
    space.write_text("hidden = { choice = [[16], [300000, 300000]] }\n")
    options = ("--sampler", "grid", "--valid_fraction", "0.2")
    outcome = run_python(*command(digits, space, tmp_path / "run", *options))
    assert outcome.returncode == 78, outcome.stderr
    assert re.search(r"error: trial 1 takes [\d.,]+ TiB, but .+ has .* free: start fewer ranks", outcome.stderr)
    assert not (tmp_path / "run").exists()


def test_another_search_in_the_folder_is_refused(
    run_python: Program, digits: Path, space: Path, undisturbed: tuple[Path, Any]
) -> None:
    """By the first thing that differs; asked again as it was, it says its result once more."""
    run_dir = undisturbed[0]
    for options, problem in [
        (("--trials", "7"), "trials = 7, but the search in"),
        (("--epochs", "8"), "epochs = 8, but the search in"),
        (("--seed", "8"), "seed = 8, but the search in"),
        (("--resume", "never"), "resume = never, but"),
    ]:
        outcome = run_python(*command(digits, space, run_dir, *HALVED, *options))
        assert (outcome.returncode, outcome.stderr.count("\n")) == (2, 1), outcome.stderr
        assert problem in outcome.stderr
    before = lasting(run_dir)
    outcome = run_python(*command(digits, space, run_dir, *HALVED))
    assert outcome.returncode == 0, outcome.stderr
    assert lasting(run_dir) == before


def test_a_folder_that_others_have_changed_is_told(digits: Path, tmp_path: Path) -> None:
    """A member that `train` has trained on is not the search's; trials without what they are of are nobody's."""
    base = Config(
        data=str(digits), hidden=(8,), epochs=1, valid_fraction=0.2, run_dir=str(tmp_path / "run"), quiet=True
    )
    space = {"batch_size": {"choice": [64, 128]}}
    first = ddp_mlp.search(base, space, sampler="grid")
    config = configuration.parse(["--config", str(tmp_path / "run" / "best.toml")])
    ddp_mlp.train(dataclasses.replace(config, epochs=2, run_dir=base.run_dir, quiet=True))
    with pytest.raises(DataError, match=r"has been trained on, to 2 epochs and .*: remove its checkpoints"):
        ddp_mlp.search(base, space, sampler="grid")
    for path in (tmp_path / "run" / "checkpoints").glob("*.h5"):
        path.unlink()
    assert ddp_mlp.search(base, space, sampler="grid")["members"] == first["members"]
    for path in (tmp_path / "run" / "checkpoints").glob("*.h5"):
        path.unlink()
    (tmp_path / "run" / "search.json").unlink()
    with pytest.raises(DataError, match=r"has trials, but no search\.json"):
        ddp_mlp.search(dataclasses.replace(base, epochs=3), space, sampler="grid")


KEYS = """
standardize = { choice = ["none", "features", "global"] }
dtype = { choice = ["float32", "float64"] }
activation = { choice = ["relu", "tanh"] }
loss = { choice = ["squared_error", "huber", "quantile"] }
quantiles = { choice = [[0.1, 0.5, 0.9], [0.5]], when = { loss = ["quantile"] } }
target_weight = { choice = [{ a = 1, b = 2 }, { a = 3 }] }
"""


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write rows with two targets, the second of which is sometimes missing."""
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 4)) * [1, 10, 100, 1] + 5
    y = np.stack([X[:, 0] - X[:, 3], X[:, 1] / 10 + X[:, 2] / 100], axis=1)
    y[::9, 1] = np.nan
    path = tmp_path_factory.mktemp("numbers") / "numbers.h5"
    with h5py.File(path, "w") as file:
        for split, part in (("train", slice(0, 200)), ("valid", slice(200, 300))):
            file.create_dataset(f"{split}/X", data=X[part])
            file.create_dataset(f"{split}/y", data=y[part])
        file.attrs["targets"] = ["a", "b"]
    return path


def test_a_trial_maps_the_rows_in_its_own_way(
    run_python: Program, mpirun: Program, numbers: Path, tmp_path: Path
) -> None:
    """Each trial has the bits that `train` has with its settings alone, which opens the file anew; on any ranks."""
    space = tmp_path / "space.toml"
    space.write_text(KEYS)
    base = ("--missing_targets", "true", "--monitor", "valid_rmse", "--epochs", "2", "--hidden", "8", "--shards", "4")
    run_dir = tmp_path / "run"
    found = run_python(*command(numbers, space, run_dir, "--trials", "5", *base))
    assert found.returncode == 0, found.stderr
    rows = table.read(run_dir / table.TABLE)
    for key in ("standardize", "dtype", "loss"):
        assert len({row["settings"][key] for row in rows.values()}) > 1
    for trial, row in rows.items():
        config = Config(
            **row["settings"],
            data=str(numbers),
            missing_targets=True,
            monitor="valid_rmse",
            epochs=2,
            hidden=(8,),
            shards=4,
            run_dir=str(tmp_path / f"alone-{trial}"),
            quiet=True,
        )
        outcome = row["rungs"][0]["folds"][0]
        assert ddp_mlp.train(config)["parameters_sha256"] == outcome["parameters_sha256"], row["settings"]
    again = mpirun(3, *command(numbers, space, tmp_path / "three", "--trials", "5", *base))
    assert again.returncode == 0, again.stderr
    assert lasting(tmp_path / "three") == lasting(run_dir)


def test_rows_that_are_streamed_give_the_same(
    run_python: Program, mpirun: Program, digits: Path, tmp_path: Path
) -> None:
    """Table, winner and hashes are those of rows in memory, with folds and class weights; on any ranks."""
    space = tmp_path / "space.toml"
    space.write_text('seed = { int = [0, 1] }\nclass_weight = { choice = ["balanced"] }\n')
    options = ("--folds", "2", "--epochs", "2", "--shuffle", "blocks", "--block_rows", "64", "--hidden", "8")
    found = []
    for access, ranks in (("memory", 1), ("stream", 1), ("stream", 3)):
        folder = tmp_path / f"{access}-{ranks}"
        arguments = command(digits, space, folder, "--sampler", "grid", *options, "--access", access)
        outcome = run_python(*arguments) if ranks == 1 else mpirun(ranks, *arguments, "--ranks_per_trial", "2")
        assert outcome.returncode == 0, outcome.stderr
        found.append(lasting(folder))
    assert found[0] == found[1] == found[2]
    refused = run_python(
        *command(
            digits, space, tmp_path / "rows", "--sampler", "grid", *options, "--access", "stream", "--shuffle", "rows"
        )
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "shuffle = rows needs all rows in memory" in refused.stderr


@pytest.mark.parametrize(
    ("key", "options", "code", "problem"),
    [
        ('loss = { choice = ["poisson", "huber"] }', (), 65, "must be at least 0 for loss = poisson"),
        ('loss = { choice = ["cross_entropy"] }', (), 2, "loss = cross_entropy: is for classes, but the rows"),
        ("label_smoothing = { choice = [0.1] }", (), 2, "label_smoothing: is for classes, but loss"),
        ("target_weight = { choice = [{ c = 1 }] }", (), 2, "target_weight names 'c'"),
        ("seed = { int = [0, 9] }", ("--monitor", "valid_accuracy"), 2, "there is none for loss = squared_error"),
    ],
)
def test_what_the_rows_are_not_is_refused_before_any_training(
    run_python: Program, numbers: Path, tmp_path: Path, key: str, options: tuple[str, ...], code: int, problem: str
) -> None:
    """One line, by the trial that would have it."""
    space = tmp_path / "space.toml"
    space.write_text(key + "\n")
    usual = ("--trials", "1", "--missing_targets", "true", "--monitor", "valid_rmse")
    outcome = run_python(*command(numbers, space, tmp_path / "run", *usual, *options))
    assert (outcome.returncode, outcome.stderr.count("\n")) == (code, 1), outcome.stderr
    assert problem in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_more_trials_go_on_where_fewer_ended(run_python: Program, digits: Path, space: Path, tmp_path: Path) -> None:
    """What is done is kept; the table, the winner and its bits are those of a search that was asked for all at once."""
    options = ("--epochs", "2", "--valid_fraction", "0.2", "--members", "2")
    few, once = tmp_path / "few", tmp_path / "once"
    told = []
    for folder, trials in ((few, "2"), (few, "5"), (once, "5")):
        outcome = run_python(*command(digits, space, folder, *options, "--trials", trials))
        assert outcome.returncode == 0, outcome.stderr
        told.append("goes on: 2 trials done" in outcome.stderr)
    assert told == [False, True, False]
    assert lasting(few) == lasting(once)
    assert (few / "best.toml").read_text() == (once / "best.toml").read_text()
    fewer = run_python(*command(digits, space, few, *options, "--trials", "4"))
    assert fewer.returncode == 2
    assert "trials = 4, but the search in" in fewer.stderr


def test_portable_arithmetic_has_no_shards(run_python: Program, mpirun: Program, digits: Path, tmp_path: Path) -> None:
    """The same table and bits on one rank and on three, with a group of two and a rank left over."""
    space = tmp_path / "space.toml"
    space.write_text(SPACE)
    options = ("--trials", "3", "--epochs", "2", "--folds", "2", "--arithmetic", "portable")
    found = []
    for ranks, each in ((1, 1), (3, 2)):
        folder = tmp_path / str(ranks)
        arguments = command(digits, space, folder, *options, "--ranks_per_trial", str(each), "--quiet")
        outcome = run_python(*arguments) if ranks == 1 else mpirun(ranks, *arguments)
        assert outcome.returncode == 0, outcome.stderr
        found.append(lasting(folder))
    assert found[0] == found[1]
