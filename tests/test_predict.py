"""`python -m ddp_mlp.predict`: probabilities against a forward pass by hand, the same bytes on any number of ranks."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import ddp_mlp
from ddp_mlp import predict
from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.inference import apply
from ddp_mlp.inference.apply import class_numbers, classify
from ddp_mlp.inference.ensemble import classify_together
from ddp_mlp.inference.ensemble_numbers import predict_together
from ddp_mlp.inference.numbers import NumberScores, predict_numbers
from ddp_mlp.inference.scores import Scores
from ddp_mlp.model import Model
from ddp_mlp.parallel.single import SingleProcess
from ddp_mlp.parallel.terminal import display_width
from ddp_mlp.storage.dataset import inspect
from ddp_mlp.storage.predictions import PredictionsWriter
from tests.conftest import Program

PREDICT = ("-m", "ddp_mlp.predict")
MIXED = (
    "import os, sys; rank = os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')); "
    "os.environ.update({'OPENBLAS_CORETYPE': 'Nehalem'} if rank == '1' else {'OPENBLAS_CORETYPE': 'Prescott'}); "
    "from ddp_mlp.predict import main; main(sys.argv[1:])"
)
"""Every rank but one computes with another BLAS kernel."""


@pytest.fixture(scope="module")
def trained(run_python: Program, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a short run, and the line with its result."""
    run_dir = tmp_path_factory.mktemp("run")
    outcome = run_python("-m", "ddp_mlp.train", "--data", digits, "--epochs", "2", "--quiet", "--run_dir", run_dir)
    assert outcome.returncode == 0, outcome.stderr
    return run_dir, outcome.stdout


@pytest.fixture(scope="module")
def model(trained: tuple[Path, str]) -> Model:
    """Return the model of that run."""
    return ddp_mlp.load(trained[0])


def by_hand(run_dir: Path, X: NDArray[Any]) -> NDArray[np.float64]:
    """Return softmax probabilities in float64 from what the newest checkpoint file holds."""
    with h5py.File(max((run_dir / "checkpoints").glob("step-*.h5"))) as file:
        A = (X - file["standardization/mean"][:]) / file["standardization/scale"][:]
        for l in (1, 2, 3):
            z = A @ file[f"parameters/W{l}"][:].astype(np.float64).T + file[f"parameters/b{l}"][:]
            A = np.maximum(z, 0)
    shifted = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def split_of(path: Path, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return X and y of a split."""
    with h5py.File(path) as file:
        return file[f"{split}/X"][:], file[f"{split}/y"][:]


def test_output_holds_the_probabilities_of_every_row_in_order(
    trained: tuple[Path, str], digits: Path, run_python: Program, tmp_path: Path
) -> None:
    """Against a forward pass in float64 from the checkpoint's own arrays; labels are the largest."""
    outcome = run_python(*PREDICT, trained[0], digits, "-o", tmp_path / "out.h5", "--split", "train")
    assert outcome.returncode == 0, outcome.stderr
    expected = by_hand(trained[0], split_of(digits, "train")[0])
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(
            file["probability"][:], expected, atol=2e-6
        )  # float32: a few units in the last place
        np.testing.assert_array_equal(file["label"][:], file["probability"][:].argmax(axis=1))
        assert [name.decode() for name in file.attrs["classes"]] == [str(i) for i in range(10)]


def test_scores_are_scikit_learns_and_trainings(
    trained: tuple[Path, str], digits: Path, run_python: Program, tmp_path: Path
) -> None:
    """Precision, recall and confusion against scikit-learn, log-loss by hand; both as the run itself reported."""
    metrics = pytest.importorskip("sklearn.metrics")
    outcome = run_python(*PREDICT, trained[0], digits, "--scores", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    X, y = split_of(digits, "test")
    probabilities = by_hand(trained[0], X)
    labels = probabilities.argmax(axis=1)
    np.testing.assert_array_equal(scores["confusion"], metrics.confusion_matrix(y, labels))
    np.testing.assert_allclose(scores["precision"], metrics.precision_score(y, labels, average=None), atol=1e-12)
    np.testing.assert_allclose(scores["recall"], metrics.recall_score(y, labels, average=None), atol=1e-12)
    loss = -np.log(probabilities[np.arange(len(y)), y]).mean()
    assert scores["log_loss"] == pytest.approx(loss, abs=1e-5)  # float32
    assert trained[1].startswith(f"test loss {scores['log_loss']:.4f}, test accuracy {scores['accuracy']:.4f}")
    assert f"rows 360, accuracy {scores['accuracy']:.4f}" in outcome.stdout


@pytest.mark.parametrize("suffix", ["h5", "csv"])
def test_bytes_are_the_same_for_any_number_of_ranks(
    suffix: str, trained: tuple[Path, str], digits: Path, mpirun: Program, tmp_path: Path
) -> None:
    """1,437 rows are 5 blocks and a rest: some ranks have no rows at all."""
    found = set()
    for ranks in (1, 2, 3, 4):
        out = tmp_path / f"{ranks}.{suffix}"
        outcome = mpirun(ranks, *PREDICT, trained[0], digits, "-o", out, "--split", "train")
        assert outcome.returncode == 0, outcome.stderr
        found.add((out.read_bytes(), outcome.stdout))
    assert len(found) == 1


def test_ranks_whose_kernels_differ_are_refused(
    trained: tuple[Path, str], digits: Path, mpirun: Program, run_python: Program, tmp_path: Path
) -> None:
    """Else the bytes would depend on who computes which rows; portable arithmetic has the same bits on all."""
    refused = mpirun(2, "-c", MIXED, trained[0], digits, "-o", tmp_path / "out.h5")
    if refused.returncode == 0 and kernel_cannot_be_chosen(run_python):
        pytest.skip("this BLAS does not let its kernel be chosen")
    assert refused.returncode == 78, refused.stderr
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "BLAS kernel is" in line
    assert not (tmp_path / "out.h5").exists()
    portable = ("--data", digits, "--arithmetic", "portable", "--hidden", "8", "--max_steps", "2")
    run_python("-m", "ddp_mlp.train", *portable, "--run_dir", tmp_path / "run")
    outcome = mpirun(2, "-c", MIXED, tmp_path / "run", digits, "-o", tmp_path / "out.h5")
    assert outcome.returncode == 0, outcome.stderr


def kernel_cannot_be_chosen(run_python: Program) -> bool:
    """Tell whether BLAS has one kernel here, whatever it is asked for."""
    ask = "from ddp_mlp.nn import kernels; print(kernels.names()['BLAS kernel'])"
    found = {run_python("-c", ask, env={"OPENBLAS_CORETYPE": core}).stdout for core in ("Nehalem", "Prescott")}
    return len(found) == 1


def test_small_slabs_change_nothing(
    model: Model, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is larger than a piece is read, computed and written piece by piece, with the same bytes."""
    info = inspect(digits)
    whole = classify(model.network, info, "train", SingleProcess(), tmp_path / "whole.h5")
    monkeypatch.setattr(apply, "PIECE_BYTES", 1)
    assert classify(model.network, info, "train", SingleProcess(), tmp_path / "pieces.h5") == whole
    assert (tmp_path / "pieces.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_swap_of_two_slabs_would_be_seen(
    model: Model, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: rows written in another order give other bytes."""
    classify(model.network, inspect(digits), "train", SingleProcess(), tmp_path / "right.h5")
    original = PredictionsWriter.append
    monkeypatch.setattr(PredictionsWriter, "append", lambda self, labels, p: original(self, labels[::-1], p[::-1]))
    classify(model.network, inspect(digits), "train", SingleProcess(), tmp_path / "wrong.h5")
    assert (tmp_path / "wrong.h5").read_bytes() != (tmp_path / "right.h5").read_bytes()


def test_csv_has_names_and_digits_that_are_exact(model: Model, tmp_path: Path) -> None:
    """A class name with a comma is quoted, and every float32 comes back from its text."""
    probabilities = np.random.default_rng(0).random((50, 3), np.float32)
    with PredictionsWriter(tmp_path / "a.csv", 50, ["a,b", 'c"', "d"], np.dtype(np.float32)) as writer:
        writer.append(np.arange(50) % 3, probabilities)
        writer.finish()
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["label", "a,b", 'c"', "d"]
    assert [row[0] for row in rows[:3]] == ["a,b", 'c"', "d"]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), probabilities)


def test_rows_without_labels_get_predictions_and_no_scores(
    trained: tuple[Path, str], digits: Path, run_python: Program, tmp_path: Path
) -> None:
    """A file with X alone, at the root, is enough."""
    X, _ = split_of(digits, "test")
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file["images"] = X
    outcome = run_python(*PREDICT, trained[0], tmp_path / "new.h5", "--x_name", "/images", "-o", tmp_path / "out.h5")
    assert (outcome.returncode, outcome.stdout) == (0, ""), outcome.stderr
    assert run_python(*PREDICT, trained[0], digits, "-o", tmp_path / "same.h5").returncode == 0
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "same.h5").read_bytes()
    outcome = run_python(*PREDICT, trained[0], tmp_path / "new.h5", "--x_name", "/images")
    assert outcome.returncode == 2
    assert "no 'y'" in outcome.stderr


def test_classes_are_matched_by_name(model: Model, digits: Path, tmp_path: Path) -> None:
    """A file that numbers its classes in another order gets the same scores; an unknown class is refused."""
    X, y = split_of(digits, "test")
    with h5py.File(tmp_path / "reversed.h5", "w") as file:
        file["test/X"], file["test/y"] = X, 9 - y
        file.attrs["classes"] = [str(9 - i) for i in range(10)]
    found, straight = inspect(tmp_path / "reversed.h5", for_training=False), inspect(digits)
    expected = classify(model.network, straight, "test", SingleProcess())
    assert classify(model.network, found, "test", SingleProcess()) == expected
    with h5py.File(tmp_path / "reversed.h5", "a") as file:
        file.attrs["classes"] = [*"abcdefghij"]
    info = inspect(tmp_path / "reversed.h5", for_training=False)
    with pytest.raises(DataError, match=r"has the classes a, b, .* but the network knows 0, 1"):
        classify(model.network, info, "test", SingleProcess())


def test_weights_enter_the_log_loss_as_in_training(model: Model, digits: Path, tmp_path: Path) -> None:
    """The mean is weighted; accuracy is not."""
    X, y = split_of(digits, "test")
    w = np.random.default_rng(0).random(len(y))
    with h5py.File(tmp_path / "weighted.h5", "w") as file:
        file["test/X"], file["test/y"], file["test/w"] = X, y, w
    scores = classify(model.network, inspect(tmp_path / "weighted.h5", for_training=False), "test", SingleProcess())
    assert scores is not None
    p = model.predict_proba(X)[np.arange(len(y)), y].astype(np.float64)
    assert scores.log_loss == pytest.approx(np.average(-np.log(p), weights=w), rel=1e-5)  # p is float32
    assert scores.accuracy == np.mean(model.predict(X) == y)


@pytest.mark.parametrize("keys", [{"huber_delta": 0.3}, {"target_weight": {"a": 3.0, "b": 0.5}}])
def test_the_loss_of_numbers_is_trainings(keys: dict[str, Any], run_python: Program, tmp_path: Path) -> None:
    """With the run's own huber_delta and weights, and not with what they are where nothing is said."""
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.attrs["targets"] = ["a", "b"]
        for split, m in (("train", 200), ("test", 60)):
            file[f"{split}/X"] = random.standard_normal((m, 3)).astype(np.float32)
            file[f"{split}/y"] = 3 * random.standard_normal((m, 2))
    run_dir = tmp_path / "run"
    config = ddp_mlp.Config(
        data=str(tmp_path / "data.h5"), loss="huber", hidden=(4,), epochs=1, quiet=True, run_dir=str(run_dir), **keys
    )
    final = ddp_mlp.train(config)
    done = run_python(*PREDICT, run_dir, tmp_path / "data.h5", "--scores", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["loss"] == pytest.approx(final["test_loss"], rel=1e-12)


def test_a_class_without_rows_has_no_recall(model: Model, digits: Path, tmp_path: Path) -> None:
    """Neither zero nor an error: there is nothing to divide by."""
    X, y = split_of(digits, "test")
    with h5py.File(tmp_path / "zeros.h5", "w") as file:
        file["test/X"], file["test/y"] = X[y == 0], y[y == 0]
    scores = classify(model.network, inspect(tmp_path / "zeros.h5", for_training=False), "test", SingleProcess())
    assert scores is not None
    assert scores.recall[1:] == [None] * 9
    assert scores.support == [int(np.sum(y == 0)), *[0] * 9]


@pytest.mark.parametrize(
    ("value", "message"),
    [("NaN", "row 700, column 3 is nan: must be a finite number"), ("label", "row 700 is 10: must be a class number")],
)
def test_a_bad_row_ends_all_ranks_and_leaves_no_file(
    value: str, message: str, trained: tuple[Path, str], digits: Path, mpirun: Program, tmp_path: Path
) -> None:
    """The row lies in the second rank's share; one line names it, and the output has not begun to exist."""
    X, y = split_of(digits, "train")
    X = X.astype(np.float32)
    if value == "NaN":
        X[700, 3] = np.nan
    else:
        y[700] = 10
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["test/X"], file["test/y"] = X, y
    outcome = mpirun(3, *PREDICT, trained[0], tmp_path / "bad.h5", "-o", tmp_path / "out.h5")
    assert outcome.returncode == 65
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]  # launchers have their own
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.h5"]


def test_an_output_that_cannot_be_written_leaves_the_old_one(model: Model, tmp_path: Path) -> None:
    """A write that is not finished changes nothing under the name; a folder that is not there is one line."""
    (tmp_path / "out.h5").write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), PredictionsWriter(tmp_path / "out.h5", 9, model.classes, model.dtype):
        raise ZeroDivisionError
    assert (tmp_path / "out.h5").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(StorageError, match=r"no/out\.h5: cannot be written"):
        PredictionsWriter(tmp_path / "no" / "out.h5", 9, model.classes, model.dtype)


def test_flags_that_cannot_be_are_refused_before_mpi(
    trained: tuple[Path, str], digits: Path, run_python: Program, tmp_path: Path
) -> None:
    """A wrong suffix, an output over an input, a split that is not there: exit code 2 and one line."""
    (tmp_path / "data.h5").write_bytes(digits.read_bytes())
    for flags, words in (
        (["-o", "out.txt"], "must end in .h5 or .csv"),
        (["-o", tmp_path / "data.h5"], "must not be overwritten"),
        (["--split", "valid"], "has train, test"),
    ):
        outcome = run_python(*PREDICT, trained[0], tmp_path / "data.h5", *flags)
        assert outcome.returncode == 2
        assert words in outcome.stderr
        assert outcome.stderr.count("\n") == 1


def test_a_file_with_other_features_is_refused(model: Model, tmp_path: Path) -> None:
    """The message has both numbers."""
    with h5py.File(tmp_path / "narrow.h5", "w") as file:
        file["test/X"] = np.zeros((3, 5))
    info = inspect(tmp_path / "narrow.h5", for_training=False)
    with pytest.raises(DataError, match="has 5 features, but the network takes 64"):
        classify(model.network, info, "test", SingleProcess())


def test_confusions_on_a_screen() -> None:
    """A matrix is printed where it fits 80 columns, else the pairs of classes that are confused most."""
    small = Scores(6, 0.5, 1.0, [1.0, 0.5], [0.5, 1.0], [4, 2], [[2, 2], [0, 2]])
    lines = list(predict.describe_classes(small, ["a", "犬"]))
    assert lines[-3:] == ["    a  犬", "a   2   2", "犬  ·   2"]
    confusion = np.diag(np.full(30, 9))
    confusion[3, 7], confusion[20, 1], confusion[0, 1] = 1, 3, 3
    large = Scores(277, 0.9, 1.0, [1.0] * 30, [1.0] * 30, confusion.sum(axis=1).tolist(), confusion.tolist())
    lines = list(predict.describe_classes(large, [f"class {i}" for i in range(30)]))
    assert lines[-5:] == [
        "confusions: 7 rows in 3 pairs of classes, the most frequent:",
        "true      predicted  rows  share of the class",
        "class 0     class 1     3               25.0%",
        "class 20    class 1     3               25.0%",
        "class 3     class 7     1               10.0%",
    ]
    assert max(map(len, lines)) <= 80


def test_many_quantiles_fit_a_screen() -> None:
    """Columns beyond 80 stand below, beside the names of the targets; every figure is there once."""
    levels = [k / 20 for k in range(1, 20)]
    of_each = {
        name: {f"coverage at {q:g}": k + q for q in levels} | {"r2": 0.5}
        for k, name in enumerate(("price", "the 犬's age"))
    }
    figures = {f"coverage at {q:g}": q for q in levels}
    lines = list(predict.describe_numbers(NumberScores(1234, 0.5, figures, of_each)))
    assert max(map(display_width, lines)) <= 80
    words = " ".join(lines)
    assert all(words.count(f"coverage at {q:g} {q:g}") == 1 for q in levels)
    tables = [part.splitlines() for part in "\n".join(lines).split("\n\n")[1:]]
    found: dict[str, list[str]] = {}
    for head, *rows in tables:
        assert re.split(r"\s{2,}", head)[0] == "target"
        for row in rows:
            name, *cells = re.split(r"\s{2,}", row)
            found.setdefault(name, []).extend(cells)
    assert found == {name: [f"{value:.6g}" for value in values.values()] for name, values in of_each.items()}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[Any], list[str]]:
    """Return the folder of a run on features with names, its rows, and their labels: which of a, b, c is largest."""
    folder = tmp_path_factory.mktemp("named")
    middle = np.array([0, 50, -50])
    X = np.random.default_rng(0).standard_normal((600, 3)).round(4) + middle
    labels = ["large " + "abc"[k] for k in np.argmax(X - middle, axis=1)]
    with h5py.File(folder / "data.h5", "w") as file:
        file["train/X"], file["train/y"] = X, [int("abc".index(label[-1])) for label in labels]
        file.attrs["features"], file.attrs["classes"] = ["a", "b", "c"], ["large a", "large b", "large c"]
    ddp_mlp.train(
        ddp_mlp.Config(
            data=str(folder / "data.h5"),
            run_dir=str(folder / "run"),
            epochs=20,
            hidden=(16,),
            batch_size=32,
            quiet=True,
        )
    )
    return folder / "run", X, labels


def test_columns_in_another_order_give_the_same_answer(
    named: tuple[Path, NDArray[Any], list[str]], run_python: Program, tmp_path: Path
) -> None:
    """By name, in HDF5 and in a raw table that have more columns, which are named; so is one that is missing."""
    pytest.importorskip("pyarrow")
    run_dir, X, labels = named
    model = ddp_mlp.load(run_dir)
    assert model.feature_names == ("a", "b", "c")
    expected = model.predict_proba(X)
    accuracy = np.mean(np.array(model.classes)[model.predict(X)] == labels)
    assert accuracy > 0.9
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["test/X"], file["test/y"] = X[:, [2, 0, 0, 1]], [2 - "abc".index(label[-1]) for label in labels]
        file.attrs["features"], file.attrs["classes"] = ["c", "more", "a", "b"], ["large c", "large b", "large a"]
    lines = [f"{c},7,{a},{b}" for a, b, c in X.tolist()]
    (tmp_path / "other.csv").write_text("\n".join(["c,more,a,b", *lines]) + "\n")
    for name in ("other.h5", "other.csv"):
        outcome = run_python(*PREDICT, run_dir, tmp_path / name, "-o", tmp_path / "out.h5")
        assert outcome.returncode == 0, outcome.stderr
        assert f"{name}: takes no part: more\n" in outcome.stderr
        with h5py.File(tmp_path / "out.h5") as file:
            np.testing.assert_allclose(file["probability"][:], expected, rtol=0, atol=1e-6)
    found = classify(model.network, inspect(tmp_path / "other.h5", for_training=False), "test", SingleProcess())
    assert found is not None
    assert found.accuracy == accuracy
    (tmp_path / "less.csv").write_text("a,c\n1,2\n3,4\n")
    outcome = run_python(*PREDICT, run_dir, tmp_path / "less.csv", "-o", tmp_path / "out.h5")
    assert outcome.returncode == 65
    assert "has no column 'b', which training had" in outcome.stderr


def test_a_data_frame_is_taken_by_its_names(named: tuple[Path, NDArray[Any], list[str]]) -> None:
    """As predict takes a table: in any order, with others beside them; and an array by the place of its columns."""
    pd = pytest.importorskip("pandas")
    run_dir, X, _ = named
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    for model in (ddp_mlp.load(run_dir), ddp_mlp.load_ensemble(run_dir)):
        expected = model.predict_proba(X)
        np.testing.assert_array_equal(model.predict_proba(frame), expected)
        np.testing.assert_array_equal(model.predict_proba(frame[["c", "a", "b"]]), expected)
        np.testing.assert_array_equal(model.predict(frame[["b", "c", "a"]]), np.argmax(expected, axis=1))
        np.testing.assert_array_equal(model.predict_proba(pd.DataFrame(X)), expected)
        with pytest.warns(UserWarning, match="columns of X that take no part: more"):
            np.testing.assert_array_equal(model.predict_proba(frame.assign(more="text")), expected)
        with pytest.raises(ValueError, match="X has no columns called 'b'"):
            model.predict_proba(frame.rename(columns={"b": "d"}))
        with pytest.raises(ValueError, match="X has 2 columns called 'c'"):
            model.predict_proba(pd.concat([frame, frame[["c"]]], axis=1))


def test_a_data_frame_is_not_taken_by_place_where_one_column_has_a_name(
    named: tuple[Path, NDArray[Any], list[str]],
) -> None:
    """Names that are numbers are names where training had one of them; one that is text makes names of all."""
    pd = pytest.importorskip("pandas")
    run_dir, X, _ = named
    with pytest.raises(ValueError, match="X has no columns called 'a'"):
        ddp_mlp.load(run_dir).predict_proba(pd.DataFrame(X, columns=[0, "b", "c"]))
    kept = ddp_mlp.load(run_dir)
    arguments = {"mean": kept.standardization.mean, "scale": kept.standardization.scale}
    model = ddp_mlp.Model(kept.parameters, kept.classes, arguments, inputs={"features": ["0", "1", "2"]})
    frame = pd.DataFrame(X)
    np.testing.assert_array_equal(model.predict_proba(frame[[2, 0, 1]]), model.predict_proba(X))
    with pytest.raises(ValueError, match="X has no columns called '0'"):
        model.predict_proba(frame.rename(columns={0: 3}))


def test_rows_that_are_not_all_there_are_refused(named: tuple[Path, NDArray[Any], list[str]]) -> None:
    """A masked number is none, whatever stands behind the mask; of sparse rows the error says what they are."""
    sparse = pytest.importorskip("scipy.sparse")
    run_dir, X, _ = named
    for model in (ddp_mlp.load(run_dir), ddp_mlp.load_ensemble(run_dir)):
        with pytest.raises(ValueError, match="X has numbers that are masked"):
            model.predict(np.ma.masked_greater(X, X.mean()))
        np.testing.assert_array_equal(model.predict(np.ma.masked_array(X)), model.predict(X))
        with pytest.raises(ValueError, match="X is sparse"):
            model.predict(sparse.csr_array(X))


@pytest.mark.parametrize("what", ["classes", "numbers"])
def test_an_answer_that_is_no_number_is_refused(what: str, tmp_path: Path) -> None:
    """Features that are far beyond training's made NaN of probabilities, with exit code 0."""
    X = np.random.default_rng(0).standard_normal((300, 2))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["train/X"], file["train/y"] = X, X @ [1, 2] if what == "numbers" else (X[:, 0] > 0).astype(int)
    run_dir = str(tmp_path / "run")
    ddp_mlp.train(ddp_mlp.Config(data=str(tmp_path / "data.h5"), run_dir=run_dir, hidden=(4,), epochs=1, quiet=True))
    X[270, 1] = 1e300
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file["test/X"] = X
    model, together = ddp_mlp.load(run_dir), ddp_mlp.load_ensemble(run_dir)
    info = inspect(tmp_path / "new.h5", for_training=False)
    for_classes: tuple[Any, Any] = (classify, classify_together)
    functions = for_classes if what == "classes" else (predict_numbers, predict_together)
    for function, network in zip(functions, (model.network, together.ensemble), strict=True):
        with pytest.raises(
            DataError, match="'X' of test, row 270: the answer is no number: its features are too large"
        ):
            function(network, info, "test", SingleProcess(), tmp_path / "out.h5")
        assert not (tmp_path / "out.h5").exists()
    for each in (model, together):
        with pytest.raises(ValueError, match="the answer to row 270 of X is no number"):
            each.predict(X)


def test_an_error_in_a_table_names_the_table(run_python: Program, tmp_path: Path) -> None:
    """And not the data set that was made of it, which is gone when the line is read."""
    pytest.importorskip("pyarrow")
    table, data, wrong = (tmp_path / name for name in ("calls.csv", "calls.h5", "wrong.csv"))
    table.write_text("hour,calls\n" + "".join(f"{hour / 2},{hour % 7}\n" for hour in range(24)))
    wrong.write_text("hour,calls\n1,4\n2,-3\n")
    for verb, *flags in (
        ("convert", table, data, "--target", "calls"),
        ("train", "--data", data, "--loss", "poisson", "--epochs", "1", "--hidden", "2", "--run_dir", tmp_path / "run"),
    ):
        outcome = run_python("-m", f"ddp_mlp.{verb}", *flags)
        assert outcome.returncode == 0, outcome.stderr
    outcome = run_python(*PREDICT, tmp_path / "run", wrong, "-o", tmp_path / "out.csv")
    assert outcome.returncode == 65
    assert outcome.stderr.startswith(f"error: {wrong}: 'y' of test, row 1 is -3: "), outcome.stderr
    assert not list(tmp_path.glob(".predict-*"))


def test_labels_that_are_some_of_the_classes_are_counted_by_name(
    named: tuple[Path, NDArray[Any], list[str]], tmp_path: Path
) -> None:
    """A file whose labels are a subset has numbers of its own: 0 there is c here."""
    run_dir, X, labels = named
    model = ddp_mlp.load(run_dir)
    some = [i for i, label in enumerate(labels) if label != "large a"]
    with h5py.File(tmp_path / "some.h5", "w") as file:
        file["test/X"], file["test/y"] = X[some], [int(labels[i] == "large b") for i in some]
        file.attrs["features"], file.attrs["classes"] = ["a", "b", "c"], ["large c", "large b"]
    found = classify(model.network, inspect(tmp_path / "some.h5", for_training=False), "test", SingleProcess())
    assert found is not None
    assert found.accuracy == np.mean(np.array(model.classes)[model.predict(X[some])] == np.array(labels)[some])


@pytest.mark.parametrize(
    ("classes", "fits"),
    [
        (("0.0", "1.0"), True),
        (("no", "yes"), True),
        (("False", "True"), True),
        (("1.0", "2.0"), False),
        (("-1.0", "1.0"), False),
        (("-3", "7"), False),
    ],
)
def test_numbers_without_names_are_not_taken_for_other_numbers(
    classes: tuple[str, str], fits: bool, tmp_path: Path
) -> None:
    """Label 1 may be the second class or the one called 1.0, as an estimator's float labels are: it is asked."""
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["test/X"], file["test/y"] = np.zeros((2, 1)), [0, 1]
    info = inspect(tmp_path / "plain.h5", for_training=False)
    if fits:
        assert class_numbers(info, classes).tolist() == [0, 1]
    else:
        with pytest.raises(DataError, match="is label 0 the first of them, or called 0"):
            class_numbers(info, classes)


def test_init_from_puts_features_and_classes_in_order_by_name(
    named: tuple[Path, NDArray[Any], list[str]], tmp_path: Path
) -> None:
    """The same data with columns and classes in another order: no epoch of training, the same answers."""
    run_dir, X, labels = named
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["train/X"], file["train/y"] = X[:, [2, 0, 1]], [2 - "abc".index(label[-1]) for label in labels]
        file.attrs["features"], file.attrs["classes"] = ["c", "a", "b"], ["large c", "large b", "large a"]
    ddp_mlp.train(
        ddp_mlp.Config(
            data=str(tmp_path / "other.h5"),
            run_dir=str(tmp_path / "run"),
            init_from=str(run_dir),
            epochs=0,
            hidden=(16,),
            quiet=True,
        )
    )
    model, before = ddp_mlp.load(tmp_path / "run"), ddp_mlp.load(run_dir)
    assert model.feature_names == ("c", "a", "b")
    assert model.classes == ("large c", "large b", "large a")
    np.testing.assert_allclose(
        model.predict_proba(X[:, [2, 0, 1]])[:, ::-1], before.predict_proba(X), rtol=0, atol=1e-6
    )
