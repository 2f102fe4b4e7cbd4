"""Reports: what is on the page is what the journal and the test data say, and a browser shows it to everyone."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp_mlp import report
from ddp_mlp.errors import DataError
from ddp_mlp.inference.scores import Confusion
from ddp_mlp.reporting import outcome, runs
from ddp_mlp.reporting.follower import LATEST, Follower
from ddp_mlp.run_dir.journal import Journal, make_event
from tests.conftest import ROOT, Program

TRAIN = ["-m", "ddp_mlp.train", "--valid_fraction", "0.1", "--log_every", "5"]


@pytest.fixture(scope="module")
def run_dir(run_python: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was interrupted twice, under a name that is HTML."""
    folder = tmp_path_factory.mktemp("runs") / "<b>one & only"
    for limits in (["--max_seconds", "0.05"], ["--max_seconds", "0.05"], ["--max_steps", "400"]):
        done = run_python(*TRAIN, "--epochs", "500", *limits, "--run_dir", folder)
        assert done.returncode == (0 if "--max_steps" in limits else 75), done.stderr
    return folder


@pytest.fixture(scope="module")
def small(run_python: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of softmax regression."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    done = run_python(*TRAIN, "--epochs", "4", "--hidden", "[]", "--run_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


VOID = ("meta", "link", "img", "path", "use", "image", "rect", "br")


class Page(HTMLParser):
    """The tags of a page, its text, and whether every tag was closed."""

    def __init__(self, text: str) -> None:
        """Read the page; raises AssertionError where tags do not nest."""
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that opens."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that opens and closes."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Check that the last open tag closes."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


@pytest.fixture(scope="module")
def page(run_python: Program, run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of the interrupted run."""
    pytest.importorskip("matplotlib")
    path = tmp_path_factory.mktemp("page") / "report.html"
    done = run_python("-m", "ddp_mlp.report", run_dir, "-o", path, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return path


@pytest.fixture(scope="module")
def comparison(run_python: Program, run_dir: Path, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of two runs."""
    pytest.importorskip("matplotlib")
    path = tmp_path_factory.mktemp("page") / "two.html"
    done = run_python("-m", "ddp_mlp.report", run_dir, small, "-o", path, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return path


# --- What is read -----------------------------------------------------------------------------------------------------


def test_journal_of_an_interrupted_run(run_dir: Path) -> None:
    """Both interruptions are found where the journal has them, and series span all starts."""
    found = runs.read(run_dir)
    assert len(found.starts) == 3
    assert [pause.label for pause in found.pauses()] == ["max_seconds = 0.05"] * 2
    epochs, losses = found.series("step", "loss")
    assert len(losses) == 80
    np.testing.assert_allclose(epochs, np.arange(5, 401, 5) / 11)
    assert found.state == "finished (max_steps)"


def test_killed_run_and_torn_line(run_dir: Path, tmp_path: Path) -> None:
    """A resume without an interruption is told as one, and a last line without its end is left out."""
    lines = (run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"interrupted"' not in line and b'"final"' not in line]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(kept) + b'{"event": "final", "st')
    found = runs.read(tmp_path)
    assert [pause.label for pause in found.pauses()] == ["resumed", "resumed"]
    assert found.state == "running, or killed"
    assert found.final is None


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_diverged_says_so(ranks: int, run_python: Program, mpirun: Program, tmp_path: Path) -> None:
    """In the journal's last event, whose words are the error's, and on the page: it is neither running nor killed."""
    words = ["-m", "ddp_mlp.train", "--epochs", "2", "--hidden", "8", "--learning_rate", "1e30", "--quiet"]
    words += ["--run_dir", str(tmp_path)]
    done = mpirun(2, *words) if ranks == 2 else run_python(*words)
    assert done.returncode == 1, done.stderr
    found = runs.read(tmp_path)
    assert found.events[-1]["event"] == "failed"
    assert done.stderr == f"error: {found.events[-1]['reason']}\n"
    assert found.state.startswith("failed: step ")
    assert not re.search("running|killed", found.state)


def test_the_history_of_starts_is_true(run_python: Program, tmp_path: Path) -> None:
    """Max_steps twice, a kill in the third start after its last checkpoint: each row says how it ended, and where."""
    pytest.importorskip("matplotlib")
    run_dir = tmp_path / "run"
    flags = [
        "--data",
        ROOT / "data" / "digits.h5",
        "--run_dir",
        run_dir,
        "--hidden",
        "4",
        "--log_every",
        "5",
        "--quiet",
    ]
    for steps in (10, 20):
        assert run_python("-m", "ddp_mlp.train", *flags, "--max_steps", str(steps), cwd=ROOT).returncode == 0
    flags += ["--max_steps", "90", "--checkpoint_every", "15 steps"]
    killed = run_python(ROOT / "tests/programs/at_step.py", "49", "0", "SIGKILL", *flags, cwd=ROOT)
    assert killed.returncode == -9, killed.stderr
    assert run_python("-m", "ddp_mlp.train", *flags, cwd=ROOT).returncode == 0
    found = runs.read(run_dir)
    assert [event["event"] for event in found.events if event["event"] != "step" and event["event"] != "epoch"] == [
        *("start", "final", "start", "final", "start", "start", "final")
    ]
    assert [pause.label for pause in found.pauses()] == ["went on after max_steps"] * 2 + ["resumed"]
    last = found.starts[-1]
    assert last["step"] in (30, 45)  # the kill may have come before the later one was on the disk
    assert last["cut_step"] == 48
    path = tmp_path / "report.html"
    assert run_python("-m", "ddp_mlp.report", run_dir, "-o", path, cwd=ROOT).returncode == 0
    rows = re.findall(
        r"<tr><th scope=row>20\d\d-[^<]*</th><td[^>]*>([^<]*)</td><td[^>]*>([^<]*)</td>",
        path.read_text(encoding="utf-8"),
    )
    assert rows[:2] == [("0 to 10", "max_steps"), ("10 to 20", "max_steps")]
    assert rows[2:] == [("20 to 48", "killed"), (f"{last['step']} to 90", "max_steps")]


@pytest.mark.parametrize(
    "text",
    ["", "{}\n", '{"event": "step", "step": 1, "seconds": 0}\n', '{"event": "start", "step": 0, "seconds": 0}\n'],
)
def test_no_journal(tmp_path: Path, text: str) -> None:
    """What is no journal of this program is refused in one line."""
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.jsonl: "):
        runs.read(tmp_path)


def test_settings_that_differ(run_dir: Path, small: Path) -> None:
    """Exactly the settings that differ are listed; folders are no settings."""
    found = runs.differing([runs.read(run_dir), runs.read(small)])
    assert found == {"hidden": [[128, 64], []], "epochs": [500, 4], "max_steps": [400, None]}


def test_phases_and_waiting(run_dir: Path, tmp_path: Path) -> None:
    """Seconds per phase add up over the run's step events; waiting is of the latest start alone."""
    start = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0]) | {"ranks": 2}
    events = [
        start,
        make_event("step", 1, 0, 1.0, seconds_gather=1.0, seconds_waiting=0.5),
        make_event("epoch", 1, 1, 1.0, waiting_by_rank=[9.0, 9.0], crowded_times=99.0),
        start,
        make_event("step", 2, 1, 2.0, seconds_gather=2.0),
        make_event("epoch", 2, 2, 2.0, waiting_by_rank=[1.0, 2.0], crowded_times=2.5),
        make_event("epoch", 3, 3, 3.0, waiting_by_rank=[0.5, 0.25], crowded_times=3.5),
        make_event("epoch", 4, 4, 4.0, waiting_by_rank=[1.0]),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    found = runs.read(tmp_path)
    assert found.phase_seconds() == {"gather": 3.0, "waiting": 0.5}
    assert found.waiting_by_rank() == [1.5, 2.25]
    assert found.crowded_times() == 3.0


# --- What the model does on the test data -----------------------------------------------------------------------------


def test_outcome_agrees_with_the_run_and_with_numpy(run_dir: Path) -> None:
    """The confusion matrix gives the final event's accuracy; mistakes are those of a forward pass by hand."""
    import h5py

    found = outcome.outcome_on_test(runs.read(run_dir), ROOT / "data/digits.h5", 24)
    assert not isinstance(found, str), found
    final = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert found.accuracy == final["test_accuracy"]
    assert found.parameters_sha256 == final["parameters_sha256"]

    with h5py.File(ROOT / "data/digits.h5") as data, h5py.File(run_dir / "checkpoints" / final["checkpoint"]) as kept:
        X, y = data["test/X"][:].astype(float), data["test/y"][:]
        A = (X - kept["standardization/mean"][:]) / kept["standardization/scale"][:]
        for l in (1, 2):
            A = np.maximum(A @ kept[f"parameters/W{l}"][:].T + kept[f"parameters/b{l}"][:], 0)
        Z = A @ kept["parameters/W3"][:].T + kept["parameters/b3"][:]
    probabilities = np.exp(Z - Z.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    wrong = np.flatnonzero(Z.argmax(axis=1) != y)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1))]
    assert [mistake.row for mistake in found.mistakes] == surest.tolist()
    for mistake in found.mistakes:
        assert (mistake.label, mistake.predicted) == (y[mistake.row], Z[mistake.row].argmax())
        assert mistake.probability == pytest.approx(probabilities[mistake.row].max(), abs=1e-5)  # float32
        np.testing.assert_array_equal(mistake.features, X[mistake.row])


def test_per_class_figures() -> None:
    """Precision, recall and F1 against scikit-learn; a class that never occurs has none."""
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    y, predicted = random.integers(0, 4, (2, 200))
    confusion = Confusion(5)
    confusion.add(y, predicted)
    rows = outcome.ClassOutcome(tuple("abcde"), confusion, [], 1, "").per_class()
    expected = metrics.precision_recall_fscore_support(y, predicted, labels=range(4))
    np.testing.assert_allclose(np.array([row[2:] for row in rows[:4]], float), np.transpose(expected[:3]))
    assert [row[1] for row in rows] == [*expected[3], 0]
    assert rows[4][2:] == (None, None, None)


def test_other_test_data_is_not_shown(run_dir: Path, tmp_path: Path) -> None:
    """Where the data file is another one, or gone, the reason stands in the place of the figures."""
    import h5py

    shutil.copy(ROOT / "data/digits.h5", tmp_path / "other.h5")
    with h5py.File(tmp_path / "other.h5", "r+") as file:
        file["test/X"][0, 0] += 1
    found = outcome.outcome_on_test(runs.read(run_dir), tmp_path / "other.h5", 24)
    assert isinstance(found, str)
    assert "is not what the run has been tested with" in found
    assert "--data" in str(outcome.outcome_on_test(runs.read(run_dir), tmp_path / "gone.h5", 24))


@pytest.mark.parametrize(
    ("features", "asked", "shape"),
    [
        (784, "auto", (28, 28)),
        (64, "auto", (8, 8)),
        (3072, "auto", (32, 32, 3)),
        (16, "auto", None),  # letter-recognition: 16 measurements, no picture
        (54, "auto", None),
        (784, "none", None),
        (16, "4x4", (4, 4)),
        (3072, "3x32x32", (3, 32, 32)),
    ],
)
def test_image_shape(features: int, asked: str, shape: tuple[int, ...] | None) -> None:
    """Features are an image where they are a square from 8 × 8 on, or where the user says so."""
    assert outcome.image_shape(features, asked) == shape


@pytest.mark.parametrize("asked", ["28x27", "784", "x", "2x14x28", "-28x-28"])
def test_image_shape_that_does_not_fit(asked: str) -> None:
    """A shape that is not the features' is refused."""
    with pytest.raises(ValueError, match=r"image|literal"):
        outcome.image_shape(784, asked)


def test_picture() -> None:
    """A picture spans 0 to 1, and colours that come one after the other become the last axis."""
    flat = np.arange(12.0)
    assert outcome.picture(flat.astype(np.uint8), (3, 4))[2, 3] == 1.0
    np.testing.assert_allclose(outcome.picture(flat, (3, 2, 2))[0, 1], np.array([1, 5, 9]) / 11)
    np.testing.assert_allclose(outcome.picture(flat, (2, 2, 3))[0, 1], np.array([3, 4, 5]) / 11)
    assert not outcome.picture(np.full(4, 7), (2, 2)).any()


# --- The page ---------------------------------------------------------------------------------------------------------


def test_page_is_whole_and_its_own(page: Path) -> None:
    """The page is well formed, has no script, fetches nothing, and shows the run's figures as text."""
    text = page.read_text()
    found = Page(text)
    assert found.open == []
    names = [tag for tag, _ in found.tags]
    assert "script" not in names
    assert "<b>one" not in text
    for tag, attributes in found.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    assert "http://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    final = json.loads((page_run(page) / "metrics.jsonl").read_text().splitlines()[-1])
    assert final["parameters_sha256"] in found.text
    assert f"{final['test_accuracy']:.2%}" in found.text
    assert found.text.count("max_seconds = 0.05") >= 4  # in the table of starts, and on the charts
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def page_run(page: Path) -> Path:
    """Return the run that the page shows, from its own text."""
    found = re.search(r"in (/.*one & only)", Page(page.read_text()).text)
    assert found
    return Path(found[1])


def test_a_matplotlibrc_changes_nothing(run_python: Program, small: Path, tmp_path: Path) -> None:
    """Pages and pictures are the same under settings of the user's, and where MPLBACKEND names nothing."""
    pytest.importorskip("matplotlib")
    settings = "text.usetex: True\nfont.size: 40\naxes.facecolor: black\nsavefig.dpi: 20\nimage.origin: lower\n"
    made = []
    for name, rc, backend in (("plain", "", "agg"), ("own", settings, "nowhere")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "matplotlibrc").write_text(rc)
        for output in ("report.html", "report.png"):
            command = ("-m", "ddp_mlp.report", small, "-o", output)
            done = run_python(*command, cwd=folder, env={"MPLBACKEND": backend, "PYTHONPATH": str(ROOT)})
            assert (done.returncode, done.stderr) == (0, "")
        html = (folder / "report.html").read_text().rpartition("<footer")[0]
        made.append((html, (folder / "report.png").read_bytes()))
    assert made[0] == made[1]
    (tmp_path / "matplotlibrc").write_bytes(b"\xff")
    done = run_python("-m", "ddp_mlp.report", small, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "matplotlib cannot read its settings" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_figure_has_words(page: Path, comparison: Path) -> None:
    """Every chart and picture has an alternative text that tells what is in it."""
    for path in (page, comparison):
        found = Page(path.read_text())
        charts = [attributes for tag, attributes in found.tags if tag == "svg"]
        pictures = [attributes for tag, attributes in found.tags if tag == "img"]
        assert len(charts) >= 4
        assert pictures
        assert all(chart["role"] == "img" and len(chart["aria-label"] or "") > 40 for chart in charts)
        assert all(re.match(r"Picture of test row \d+: . predicted .", picture["alt"] or "") for picture in pictures)
        assert any("Marked: " in (chart["aria-label"] or "") for chart in charts)


def test_pictures_are_the_rows(page: Path) -> None:
    """The picture of the surest mistake has the pixels of that row of the data file."""
    import h5py

    image = pytest.importorskip("PIL.Image")
    first = next(attributes for tag, attributes in Page(page.read_text()).tags if tag == "img")
    row = int(re.findall(r"test row (\d+)", first["alt"] or "")[0])
    with h5py.File(ROOT / "data/digits.h5") as data:
        pixels = data["test/X"][row].reshape(8, 8).astype(float)
    import io

    drawn = np.asarray(image.open(io.BytesIO(base64.b64decode((first["src"] or "").partition(",")[2]))).convert("L"))
    expected = 255 * (pixels - pixels.min()) / (pixels.max() - pixels.min())
    np.testing.assert_allclose(drawn[6::12, 6::12], expected, atol=2)


def test_comparison(comparison: Path) -> None:
    """Two runs share the charts, and a table has the settings that differ."""
    found = Page(comparison.read_text())
    table = found.text[found.text.index("Settings that differ") :]
    assert table.index("hidden") < table.index("epochs") < table.index("max_steps") < table.index("Training")
    headings = re.findall(r"<h2>(.*?)</h2>", comparison.read_text())
    assert headings == [
        "Settings that differ",
        "What the model gets right and wrong",
        "Training",
        "How the machine was used",
        "All settings",
    ]
    assert "F1 on the test data, class by class" in found.text
    assert "Who waited" not in found.text  # nobody, with one rank
    assert sum(tag == "details" for tag, _ in found.tags) == 2 + 2 * 3  # models; settings with the rest, and data


def test_order_and_words_of_a_page(page: Path) -> None:
    """The result comes first, then right and wrong, training, machine, settings; nothing that is folded is a result."""
    found = Page(page.read_text())
    places = [found.text.index(words) for words in ("to train on", "get", "Training", "How the machine", "Settings")]
    assert places == sorted(places)
    assert "taken for" not in found.text
    assert "Course" not in found.text
    assert re.search(r"epoch \d+\s+was the best\s+of 36, by validation loss", found.text)
    assert "1,295 rows" in found.text


def test_settings_say_which_were_chosen(page: Path) -> None:
    """What the user chose is bold, what the program settled is not, and the defaults are folded away."""
    text = page.read_text()
    assert "<li class=chosen>epochs = 500</li>" in text
    assert "<li>shards = 8</li>" in text
    assert text.index("<details") < text.index("learning_rate = 0.003")


def test_png(run_python: Program, run_dir: Path, tmp_path: Path) -> None:
    """`-o report.png` draws the same charts into one picture."""
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    done = run_python("-m", "ddp_mlp.report", run_dir, "-o", tmp_path / "report.png", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    drawn = np.asarray(image.open(tmp_path / "report.png").convert("RGB"))
    assert drawn.shape[0] > 1000
    assert drawn.shape[1] > 1000
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere"], 74),
        (["nowhere", "-o", "report.pdf"], 2),
        (["--follow", "a", "b"], 2),
        ([], 2),
    ],
)
def test_errors_are_one_line(run_python: Program, tmp_path: Path, arguments: list[str], code: int) -> None:
    """A wrong flag or folder is one line and its exit code."""
    pytest.importorskip("matplotlib")
    done = run_python("-m", "ddp_mlp.report", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# --- In a browser -----------------------------------------------------------------------------------------------------

CONTRASTS = """
const channels = text => { const c = text.match(/[\\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c; };
const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = node => { for (; node; node = node.parentElement) {
  const c = channels(getComputedStyle(node).backgroundColor); if (c[3] > 0) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll('body *')]
  .filter(n => [...n.childNodes].some(c => c.nodeType === 3 && c.textContent.trim()) && n.getClientRects().length)
  .filter(n => n.localName !== 'title')
  .map(n => { const style = getComputedStyle(n), svg = n instanceof SVGElement;
    const a = luminance(channels(svg ? style.fill : style.color)), b = luminance(behind(n));
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), n.textContent.trim().slice(0, 40)]; });
"""


TOO_WIDE = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')]
  .filter(n => n.getClientRects().length && !n.closest('thead') && !n.closest('svg *'))
  .filter(n => n.getBoundingClientRect().right > width + 0.5 || n.getBoundingClientRect().left < -0.5)
  .map(n => n.localName + ': ' + n.textContent.trim().slice(0, 40));
"""
"""What reaches beyond the window; the head of a table whose rows are cards is hidden there."""
CUT_OFF = """
return [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width).flatMap(s => {
  const all = s.getBoundingClientRect();
  return [...s.querySelectorAll('text')].filter(t => t.getClientRects().length).filter(t => {
    const one = t.getBoundingClientRect();
    return one.left < all.left - 1 || one.right > all.right + 1 || one.top < all.top - 1 || one.bottom > all.bottom + 1;
  }).map(t => t.textContent); });
"""
"""Text of a picture that reaches beyond its edges."""
HOSTILE = (
    *("<script>alert(1)</script>", "犬", 'a"b', "../../x", "قطة", "кошка", "$x_1$ & so on, at some length"),
    *("می\u200cخواهم", "W" * 10, "👩\u200d👩\u200d👧\u200d👦"),
)


@pytest.fixture(scope="module")
def hostile(run_python: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a run whose classes have names in many scripts, some of which are HTML."""
    import h5py

    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("hostile")
    random = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        for split, rows in (("train", 210), ("test", 140)):
            y = np.arange(rows) % len(HOSTILE)
            file[f"{split}/X"] = (np.eye(len(HOSTILE))[y] + random.normal(0, 0.7, (rows, len(HOSTILE)))).astype("f4")
            file[f"{split}/y"] = y
        file.attrs["classes"] = HOSTILE
    done = run_python(
        *TRAIN, "--epochs", "2", "--hidden", "8", "--data", folder / "data.h5", "--run_dir", folder / "run"
    )
    assert done.returncode == 0, done.stderr
    for output in ("report.html", "report.png"):
        done = run_python("-m", "ddp_mlp.report", folder / "run", "-o", folder / output)
        assert (done.returncode, done.stderr) == (0, ""), output
    return folder / "report.html"


def test_names_are_text(hostile: Path) -> None:
    """Names of classes are on the page as they are, in tables, titles and words of the matrix; none becomes a tag."""
    found = Page(hostile.read_text())
    assert "script" not in [tag for tag, _ in found.tags]
    for name in HOSTILE:
        assert found.text.count(name) >= 2, name
    label = next(
        attributes["aria-label"] or "" for tag, attributes in found.tags if attributes.get("class") == "matrix"
    )
    assert any(name in label for name in HOSTILE)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a headless Chromium with a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.mark.parametrize("media", ["light", "dark", "print"])
@pytest.mark.parametrize("width", [320, 375, 1280])
def test_in_a_browser(browser: Any, page: Path, comparison: Path, hostile: Path, media: str, width: int) -> None:
    """No console message, nothing fetched, nothing wider than the screen, and text that can be read on its ground."""
    for path in (page, comparison, hostile):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if media == "dark" else "light"}
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": "print" if media == "print" else "screen", "features": [scheme]}
        )
        browser.get(path.as_uri())
        assert browser.get_log("browser") == []
        assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
        if media != "print":
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_script(TOO_WIDE) == []
            assert browser.execute_script(CUT_OFF) == []
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (media != "dark")
        contrasts = browser.execute_script(CONTRASTS)
        assert len(contrasts) > 100
        assert [text for contrast, text in contrasts if contrast < 4.5] == []


def test_contrast_is_measured(browser: Any, tmp_path: Path) -> None:
    """A page with grey on grey fails the measurement above: 777 on fff is 4.48, 767676 is 4.54 (WCAG's own example)."""
    (tmp_path / "grey.html").write_text(
        "<body style='background:#fff'><p style='color:#777'>a<p style='color:#767676'>b<p style='color:#000'>c"
    )
    browser.get((tmp_path / "grey.html").as_uri())
    found = {text: contrast for contrast, text in browser.execute_script(CONTRASTS)}
    assert found == {"a": pytest.approx(4.48, abs=0.005), "b": pytest.approx(4.54, abs=0.005), "c": pytest.approx(21)}


def test_no_violation_that_axe_finds(browser: Any, page: Path, comparison: Path, hostile: Path) -> None:
    """axe-core, where it is (npm install axe-core; AXE_CORE names axe.min.js), finds nothing to complain of."""
    script = os.environ.get("AXE_CORE")
    if not script:
        pytest.skip("AXE_CORE does not name axe-core's axe.min.js")
    for path in (page, comparison, hostile):
        browser.get(path.as_uri())
        browser.execute_script(Path(script).read_text())
        ask = (
            "const done = arguments[0]; axe.run().then(found => done(found.violations.map(v => v.impact + ' ' + v.id)))"
        )
        assert browser.execute_async_script(ask) == []


# --- Following --------------------------------------------------------------------------------------------------------


def test_follow_a_run_from_another_terminal(run_dir: Path, tmp_path: Path) -> None:
    """`--follow` waits for a run to begin, tells it through an interruption, and ends with its result."""
    text = (run_dir / "metrics.jsonl").read_bytes()
    command = [sys.executable, "-m", "ddp_mlp.report", "--follow", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            assert "waiting for" in process.stderr.readline()
            with (tmp_path / "metrics.jsonl").open("wb", buffering=0) as file:
                begun = text.index(b"\n") + 1
                file.write(text[:begun])
                lines = [process.stdout.readline()]
                for lo in range(begun, len(text), 9000):  # lines are cut anywhere
                    file.write(text[lo : lo + 9000])
                    time.sleep(0.1)
            lines += process.stdout.readlines()
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert "parameters_sha256" in lines[-1]
    assert sum(line.startswith("stopped   by max_seconds") for line in lines) == 2
    assert sum("resumed from" in line for line in lines) == 2
    assert sum(line.startswith("step") for line in lines) == 80


def test_follow_with_a_page(run_python: Program, run_dir: Path, tmp_path: Path) -> None:
    """A page of a run that goes on asks to be read again and says what will come; the last one has it all."""
    pytest.importorskip("matplotlib")
    lines = (run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    going_on = tmp_path / "run"
    going_on.mkdir()
    (going_on / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))
    report.write([going_on], tmp_path / "live.html", None, "auto", refresh=10.0)
    page = (tmp_path / "live.html").read_text()
    assert '<meta http-equiv="refresh" content="10">' in page
    assert "the run goes on" in page
    done = run_python("-m", "ddp_mlp.report", "--follow", run_dir, "-o", tmp_path / "end.html", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "parameters_sha256" in done.stdout
    page = (tmp_path / "end.html").read_text()
    assert "refresh" not in page
    assert 'class="matrix"' in page


def test_follower_that_wants_all(tmp_path: Path) -> None:
    """A live view gets every event, and all of them again after the journal was cut back."""
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.write(make_event("start", 0, 0, 0.0))
    for step in range(100):
        journal.write(event(step))
    follower = Follower(tmp_path / "metrics.jsonl", whole=True)
    assert len(follower.poll()) == 101
    kept = journal.bytes
    journal.write(event(100))
    assert len(follower.poll()) == 1
    journal.close()
    resumed = Journal(tmp_path / "metrics.jsonl", kept)
    resumed.write(make_event("start", 99, 0, 0.1))
    assert len(follower.poll()) == 102
    resumed.close()


def event(step: int) -> dict[str, Any]:
    """Return a step event such as a run writes."""
    return make_event("step", step, 0, step * 0.002, loss=0.5, accuracy=0.5, examples_per_second=1e4)


def test_follower_sees_each_event_once(tmp_path: Path) -> None:
    """Whatever is written between two looks is told once, also when the journal is cut back by a resume."""
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert follower.poll() == []
    journal = Journal(path)
    journal.write(make_event("start", 0, 0, 0.0))
    journal.write(event(1))
    kept = journal.bytes
    assert [found["step"] for found in follower.poll()] == [0, 1]
    journal.write(event(2))
    journal.write(event(3))
    assert [found["step"] for found in follower.poll()] == [2, 3]
    assert follower.poll() == []
    journal.close()
    resumed = Journal(path, kept)
    assert follower.poll() == []
    resumed.write(make_event("start", 1, 0, 0.1, resumed_from="step-00000001.h5"))
    resumed.write(event(2))
    assert [(found["event"], found["step"]) for found in follower.poll()] == [("start", 1), ("step", 2)]
    resumed.write(event(3))
    assert [found["step"] for found in follower.poll()] == [3]
    resumed.close()


def test_follower_keeps_up_with_an_hour(tmp_path: Path) -> None:
    """An hour of a fast run, written as fast as it goes, is told to its end, and each byte is read about once."""
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.write(make_event("start", 0, 0, 0.0))
    follower = Follower(path)
    assert len(follower.poll()) == 1

    def write() -> None:
        for step in range(50, 1_800_001, 50):  # 2 ms each by the clock that is passed in
            journal.write(event(step))

    writer = threading.Thread(target=write)
    began = time.perf_counter()
    writer.start()
    seen: list[int] = []
    while not seen or seen[-1] < 1_800_000:
        seen += [found["step"] for found in follower.poll()]
        assert time.perf_counter() - began < 50
    writer.join()
    assert seen == list(range(50, 1_800_001, 50))
    began = time.perf_counter()
    for _ in range(100):
        follower.poll()
    assert time.perf_counter() - began < 0.5  # a look at 7 MB that have not changed does not read them
    journal.close()


def test_follower_that_comes_late(tmp_path: Path) -> None:
    """Whoever looks when much is written gets the latest start and the latest events since."""
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.write(make_event("start", 0, 0, 0.0))
    for step in range(1000):
        journal.write(event(step))
    journal.close()
    found = Follower(tmp_path / "metrics.jsonl").poll()
    assert [seen["event"] for seen in found] == ["start", *["step"] * LATEST]
    assert found[-1]["step"] == 999


def test_numbers_on_the_confusion_matrix_can_be_read() -> None:
    """The ink of each theme stands out from every shade a cell can have in it: 4.5 to 1 at least (WCAG 2)."""
    matrix = pytest.importorskip("ddp_mlp.reporting.matrix")
    style = Path(matrix.__file__).with_name("page.css").read_text()

    def luminance(colour: np.ndarray[Any, Any]) -> float:
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def channels(name: str) -> np.ndarray[Any, Any]:
        return np.array([int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)])

    themes = list(zip(re.findall(r"--paper: (#\w+)", style), re.findall(r"--ink: (#\w+)", style), strict=True))
    assert len(themes) == 2
    for paper, ink in themes:
        for shade, most in ((matrix.RIGHT, matrix.MOST_RIGHT), (matrix.WRONG, matrix.LEAST_WRONG + matrix.MORE_WRONG)):
            for alpha in np.linspace(0, most, 20):
                ground = (1 - alpha) * channels(paper) + alpha * channels(shade)
                light, dark = sorted((luminance(ground), luminance(channels(ink))), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5
