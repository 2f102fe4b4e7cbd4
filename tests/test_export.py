"""`python -m ddp_mlp.export`, and weights from elsewhere: other programs compute what this one does."""

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import ddp_mlp
from ddp_mlp.errors import ConfigError, DataError
from ddp_mlp.export import export
from ddp_mlp.exporting import onnx_graph as graphs
from ddp_mlp.exporting.description import describe_network
from ddp_mlp.model import Model
from ddp_mlp.nn.parameters import Layout
from ddp_mlp.storage import weights
from tests.conftest import Program
from tests.exported import C_WARNINGS, FORTRAN_WARNINGS, build, compiler, run

TOLERANCE = 1e-6  # of a probability in float32; the order of additions is each library's own
SHIFTED = {"mean": np.full(64, 5.0), "scale": np.full(64, 3.0)}
"""A standardization that no training rows of digits give."""


@pytest.fixture(scope="module")
def run_dir(run_python: Program, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short run."""
    folder = tmp_path_factory.mktemp("run")
    outcome = run_python("-m", "ddp_mlp.train", "--data", digits, "--epochs", "3", "--quiet", "--run_dir", folder)
    assert outcome.returncode == 0, outcome.stderr
    return folder


@pytest.fixture(scope="module")
def X(digits: Path) -> NDArray[np.float32]:
    """Return the test images."""
    with h5py.File(digits) as file:
        return np.asarray(file["test/X"][:], np.float32)


def random_model(dtype: str, widths: tuple[int, ...] = (7, 5, 3), standardized: bool = True) -> Model:
    """Return a network with random parameters and names that need care."""
    layout, rng = Layout(widths), np.random.default_rng(0)
    flat = np.zeros(layout.length, dtype)
    layout.initialize(flat, seed=1)
    n = widths[0]
    used = {"mean": rng.normal(size=n), "scale": rng.uniform(0.5, 2, n)} if standardized else None
    return Model(layout.arrays(flat), ("a", 'b"', "ç")[: widths[-1]], used)


def onnx_graph(model: Model) -> bytes:
    """Return the model as ONNX."""
    return graphs.onnx_graph(describe_network(model.network))


def run_onnx(image: bytes, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], dict[str, str]]:
    """Return labels, probabilities and metadata from onnxruntime."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(image)
    label, probability = session.run(["label", "probability"], {"X": X})
    return label, probability, session.get_modelmeta().custom_metadata_map


def test_onnxruntime_gives_the_same_probabilities(run_dir: Path, X: NDArray[np.float32]) -> None:
    """Standardization and softmax are in the graph; any number of rows goes in."""
    pytest.importorskip("onnx")
    model = ddp_mlp.load(run_dir)
    image = onnx_graph(model)
    for m in (1, 7, len(X)):
        label, probability, metadata = run_onnx(image, X[:m])
        np.testing.assert_allclose(probability, model.predict_proba(X[:m]), rtol=0, atol=TOLERANCE)
        np.testing.assert_array_equal(label, model.predict(X[:m]))
    assert metadata["classes"] == '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'
    assert metadata["parameters_sha256"] == model.parameters_sha256


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_onnxruntime_gives_the_same_numbers_far_from_zero(offset: float) -> None:
    """Features whose mean float32 does not hold, such as a pressure: what training subtracted is what is exported."""
    random = np.random.default_rng(0)
    X = (random.standard_normal((300, 8)) + offset).astype(np.float32)
    z = X.astype(np.float64) - offset
    y = np.stack([np.sin(z[:, 0]), z[:, 1] * z[:, 2]], axis=1)
    learner = ddp_mlp.MLPRegressor((16,), max_iter=5, random_state=0)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        learner.fit(X, y)
    session = pytest.importorskip("onnxruntime").InferenceSession(onnx_graph(learner.model_))
    taken = {"tensor(float)": np.float32, "tensor(double)": np.float64}[session.get_inputs()[0].type]
    found, expected = session.run(None, {"X": X.astype(taken)})[0], learner.predict(X)
    assert np.abs(found - expected).max() <= TOLERANCE * max(1, np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("widths", [(7, 5, 3), (7, 3), (4, 6, 5, 2)])
def test_every_kind_of_network_passes_the_checker(dtype: str, standardized: bool, widths: tuple[int, ...]) -> None:
    """Two or more layers or none hidden, both dtypes, standardized or not; onnx's checker runs in the export."""
    onnx = pytest.importorskip("onnx")
    model = random_model(dtype, widths, standardized)
    image = onnx_graph(model)
    onnx.checker.check_model(onnx.load_from_string(image), full_check=True)
    X = np.random.default_rng(1).normal(size=(20, widths[0])).astype(dtype)
    bound = TOLERANCE if dtype == "float32" else 1e-14
    np.testing.assert_allclose(run_onnx(image, X)[1], model.predict_proba(X), rtol=0, atol=bound)


def test_a_graph_without_standardization_would_be_seen(run_dir: Path, X: NDArray[np.float32]) -> None:
    """The planted fault: the same layers on raw inputs are far from the model."""
    pytest.importorskip("onnx")
    model = ddp_mlp.load(run_dir)
    raw = Model(model.parameters, model.classes)
    assert np.abs(run_onnx(onnx_graph(raw), X)[1] - model.predict_proba(X)).max() > 0.01


@pytest.mark.parametrize("compile_c", [True, False])
def test_generated_code_passes_its_own_test(compile_c: bool, run_dir: Path, tmp_path: Path) -> None:
    """What stands in it are predict's answers, for C and for Fortran."""
    export(ddp_mlp.load(run_dir), tmp_path / ("digits.c" if compile_c else "digits.f90"))
    if compile_c:
        build(tmp_path, compiler("gcc"), *C_WARNINGS, "-O2", "-DSELFTEST", "digits.c", "-lm")
    else:
        build(tmp_path, compiler("gfortran"), *FORTRAN_WARNINGS, "-O2", "digits.f90", "digits_selftest.f90")
    outcome = run(tmp_path, "./a.out")
    assert outcome.returncode == 0, outcome.stdout
    assert "passed" in outcome.stdout


def test_safetensors_load_into_a_pytorch_network(run_dir: Path, X: NDArray[np.float32], tmp_path: Path) -> None:
    """The names are a Sequential's, strictly; it gives the same probabilities."""
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    model = ddp_mlp.load(run_dir)
    export(model, tmp_path / "a.safetensors")
    state = files.load_file(tmp_path / "a.safetensors")
    mean, scale = state.pop("mean").float(), state.pop("scale").float()
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )
    network.load_state_dict(state)
    with torch.no_grad():
        probability = torch.softmax(network((torch.from_numpy(X) - mean) / scale), dim=1).numpy()
    np.testing.assert_allclose(probability, model.predict_proba(X), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("standardized", [True, False])
def test_weights_come_back_as_they_were(suffix: str, standardized: bool, tmp_path: Path) -> None:
    """Bit by bit, with standardization and class names; the file's bytes are always the same."""
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    model, path = random_model("float32", standardized=standardized), tmp_path / f"a.{suffix}"
    export(model, path)
    found = weights.read(path)
    assert list(found.parameters) == list(model.parameters)
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array, strict=True)
    assert found.classes == model.classes
    assert (found.standardization is not None) == standardized
    if found.standardization is not None:
        np.testing.assert_array_equal(found.standardization["scale"], model.standardization.scale)
    first = path.read_bytes()
    export(model, path)
    assert path.read_bytes() == first


def test_a_state_dict_is_put_in_order(tmp_path: Path) -> None:
    """Eleven layers, saved by PyTorch: 10 comes after 2, which alphabetical order would get wrong."""
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    sizes = [3, 4, 5, 6, 7, 8, 2]
    modules = [part for n, m in pairwise(sizes) for part in (torch.nn.Linear(n, m), torch.nn.ReLU())]
    network = torch.nn.Sequential(*modules[:-1])
    files.save_file(
        {f"net.{name}": tensor for name, tensor in network.state_dict().items()}, tmp_path / "a.safetensors"
    )
    found = weights.read(tmp_path / "a.safetensors")
    assert weights.widths(found.parameters) == tuple(sizes)
    np.testing.assert_array_equal(found.parameters["W6"], network[10].weight.detach().numpy())


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "h5"])
def test_training_starts_from_given_weights(
    suffix: str, run_dir: Path, run_python: Program, digits: Path, tmp_path: Path
) -> None:
    """Zero epochs of fine-tuning are the given network, whatever the file; its standardization comes with it."""
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    source = tmp_path / f"a.{suffix}"
    if suffix == "h5":
        source = max((run_dir / "checkpoints").glob("step-*.h5"))
    else:
        export(ddp_mlp.load(run_dir), source)
    half = tmp_path / "half.h5"
    with h5py.File(digits) as file, h5py.File(half, "w") as new:
        new["train/X"], new["train/y"] = file["train/X"][:700] // 2, file["train/y"][:700]
    flags = ("--data", half, "--init_from", source, "--quiet", "--epochs", "0", "--run_dir", tmp_path / "tuned")
    outcome = run_python("-m", "ddp_mlp.train", *flags)
    assert outcome.returncode == 0, outcome.stderr
    given, tuned = ddp_mlp.load(run_dir), ddp_mlp.load(tmp_path / "tuned")
    assert tuned.parameters_sha256 == given.parameters_sha256
    np.testing.assert_array_equal(tuned.standardization.mean, given.standardization.mean)


@pytest.mark.timeout(120)
def test_fine_tuning_is_the_same_on_any_number_of_ranks_and_resumes(
    run_dir: Path, mpirun: Program, run_python: Program, digits: Path, tmp_path: Path
) -> None:
    """Three epochs on 3 ranks, and one on 2 ranks continued alone without the file, end with the same bits."""
    weights.write_npz(tmp_path / "a.npz", weights.read(run_dir)._replace(standardization=SHIFTED))
    flags = ("-m", "ddp_mlp.train", "--data", digits, "--init_from", tmp_path / "a.npz", "--quiet", "--run_dir")
    assert mpirun(3, *flags, tmp_path / "a", "--epochs", "3").returncode == 0
    assert mpirun(2, *flags, tmp_path / "b", "--epochs", "1").returncode == 0
    (tmp_path / "a.npz").unlink()
    resumed = run_python(*flags, tmp_path / "b", "--epochs", "3")
    assert resumed.returncode == 0, resumed.stderr
    found = ddp_mlp.load(tmp_path / "b")
    assert ddp_mlp.load(tmp_path / "a").parameters_sha256 == found.parameters_sha256
    assert found.parameters_sha256 != ddp_mlp.load(run_dir).parameters_sha256
    np.testing.assert_array_equal(found.standardization.mean, SHIFTED["mean"])


def test_weights_of_another_network_are_refused(
    run_dir: Path, run_python: Program, digits: Path, tmp_path: Path
) -> None:
    """One line with both shapes, exit code 2."""
    flags = ("--data", digits, "--init_from", run_dir, "--hidden", "20", "--run_dir", tmp_path / "run")
    outcome = run_python("-m", "ddp_mlp.train", *flags)
    assert outcome.returncode == 2
    assert "a network 64-128-64-10, but features, hidden and outputs ask for 64-20-10" in outcome.stderr


KINDS: dict[Any, str] = {
    "squared_error": "numbers",
    "huber": "numbers",
    "poisson": "exp",
    "binary_cross_entropy": "labels",
}


@pytest.mark.parametrize("loss", KINDS)
def test_weights_of_a_loss_of_another_kind_are_refused(loss: str, tmp_path: Path) -> None:
    """Outputs that are logarithms, log-odds or scores of classes are no numbers: one line, and nothing is trained."""
    random = np.random.default_rng(0)
    data = tmp_path / "data.h5"
    with h5py.File(data, "w") as file:
        file["train/X"], file["train/y"] = random.standard_normal((40, 3)), random.integers(0, 2, (40, 2)) * 1.0
    with h5py.File(tmp_path / "classes.h5", "w") as file:
        file["train/X"], file["train/y"] = random.standard_normal((40, 3)), random.integers(0, 2, 40)
    usual: dict[str, Any] = {"hidden": (4,), "epochs": 1, "quiet": True}

    def trained(other: Any, init_from: str | None = None) -> str:
        file, run = "classes.h5" if other == "cross_entropy" else "data.h5", f"{other}-{init_from is None}"
        paths: dict[str, Any] = {"data": str(tmp_path / file), "run_dir": str(tmp_path / run), "init_from": init_from}
        return str(ddp_mlp.train(ddp_mlp.Config(loss=other, **paths, **usual))["run_dir"])

    given = trained(loss)
    source = tmp_path / "given.npz"
    export(ddp_mlp.load(given), source)
    for other in (*KINDS, "cross_entropy"):
        if KINDS.get(other) == KINDS[loss]:
            trained(other, given)
            continue
        for start in (given, str(source)):
            with pytest.raises(ConfigError, match=f"loss = {other}, but init_from = .* was trained with loss = {loss}"):
                trained(other, start)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"W1": np.ones((2, 3)), "b1": np.ones(3)}, r"W1 has shape \(2, 3\)"),
        ({"W1": np.ones((2, 3)), "b1": np.ones(2), "W2": np.ones((2, 4)), "b2": np.ones(2)}, "2 outputs is followed"),
        ({"W1": np.full((2, 3), np.nan), "b1": np.ones(2)}, "must be finite"),
        ({"W1": np.ones((2, 3), int), "b1": np.ones(2)}, "W1 is int64"),
        ({"W1": np.ones((2, 3)), "b1": np.ones(2), "mean": np.ones(3)}, "mean and scale must both be there"),
        ({"W1": np.ones((2, 3)), "b1": np.ones(2), "mean": np.ones(3), "scale": np.zeros(3)}, "scale must be above 0"),
        ({"W1": np.ones((2, 3)), "b1": np.ones(2), "other": np.ones(3)}, "other"),
        ({"0.weight": np.ones((2, 3))}, "0.bias"),
        ({}, "nothing"),
    ],
)
def test_files_that_hold_no_network_are_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    """Each in one line that says what was found."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        weights.read(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_files_of_another_kind_are_refused(name: str, tmp_path: Path) -> None:
    """Bytes of no format, and a pickle, which is not opened."""
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    (tmp_path / name).write_bytes(b"\x80\x04not a file of arrays")
    with pytest.raises(DataError):
        weights.read(tmp_path / name)


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    """The message names the five."""
    with pytest.raises(ConfigError, match=r"must end in \.c, \.f90, \.onnx, \.safetensors or \.npz"):
        export(random_model("float32"), tmp_path / "a.pt")


def test_the_command_writes_and_refuses(run_dir: Path, run_python: Program, tmp_path: Path) -> None:
    """Exit code 0 and files that are the exports; 74 where there is no checkpoint."""
    outcome = run_python("-m", "ddp_mlp.export", run_dir, tmp_path / "a.npz")
    assert outcome.returncode == 0, outcome.stderr
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["W1"], ddp_mlp.load(run_dir).parameters["W1"])
    outs = [tmp_path / "digits.c", tmp_path / "digits.f90"]
    outcome = run_python("-m", "ddp_mlp.export", run_dir, *outs)
    assert outcome.returncode == 0, outcome.stderr
    assert f"{outs[0]}: 64-128-64-10, 17,226 parameters\n{outs[0].with_suffix('.h')}: beside it" in outcome.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.npz",
        "digits.c",
        "digits.h",
        "digits.f90",
        "digits_selftest.f90",
    }
    outcome = run_python("-m", "ddp_mlp.export", tmp_path / "none.h5", tmp_path / "b.npz")
    assert outcome.returncode == 74
    assert outcome.stderr.count("\n") == 1
