"""Tests of the benchmark of what lies around the steps: real peers, few rows."""

from pathlib import Path

import numpy as np
import pytest

from ddp_mlp import MLPClassifier
from scripts.benchmarks import around


def test_predictions_of_all_are_equal_and_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Peers have this program's network, with inputs of other mean and scale; turns are turned around."""
    monkeypatch.setattr(around, "NETWORKS", {"4-5-3": (4, (5,), 3)})
    X = np.random.default_rng(0).standard_normal((40, 4), np.float32) * np.float32(7) + np.float32(3)
    assert "scikit-learn" in around.predictors(4, (5,), 3, X, tmp_path)
    order: list[str] = []
    seconds = around.take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert [len(taken) for taken in seconds.values()] == [2, 2]
    around.predict(2, tmp_path, 40)
    assert "scikit-learn" in capsys.readouterr().out


def test_calls_starts_and_resumes_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Few rows, one turn: every line that a measurement ends with is there."""
    around.partial_fit(1, tmp_path, 2)
    around.data(1, tmp_path, 100)
    around.resume(1, tmp_path, 600)
    told = capsys.readouterr().out
    for words in ("scikit-learn", "the same, 2 ranks: ", "times h5py and SHA-256", "the large file: a resume"):
        assert words in told


def test_another_network_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: peers with other weights give other probabilities."""
    X = np.random.default_rng(0).standard_normal((40, 4), np.float32)
    others = [np.ones((4, 5)), np.eye(5, 3)]
    monkeypatch.setattr(MLPClassifier, "coefs_", property(lambda self: others))
    monkeypatch.setattr(around, "installed", lambda module: module == "sklearn")
    with pytest.raises(SystemExit, match="scikit-learn does not give the same probabilities"):
        around.predictors(4, (5,), 3, X, tmp_path)
