"""Tests of storage/weights.py: weights of other programs come in whole, and damaged or hostile ones in one line."""

import io
import json
import os
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp.errors import DataError, ProgramError
from ddp_mlp.nn.targets import Targets
from ddp_mlp.storage.weights import StoredNetwork, arranged, read, write_npz, write_safetensors

MOST = 32 << 20
"""Bytes that reading a small file may take."""


def network() -> StoredNetwork:
    """Return a small network with all that can belong to it."""
    drawn = np.random.default_rng(0)
    parameters = {
        name: drawn.standard_normal(shape).astype(np.float32)
        for name, shape in {"W1": (5, 4), "b1": (5,), "W2": (3, 5), "b2": (3,)}.items()
    }
    return StoredNetwork(parameters, {"mean": np.arange(4.0), "scale": np.ones(4)}, ("a", "b", "c"))


def written(folder: Path, suffix: str) -> bytes:
    """Return the bytes of the network's file."""
    path = folder / f"good{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
        write_safetensors(path, network())
    else:
        write_npz(path, network())
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    """Parameters, standardization and classes come back to the bit; an .npz compressed too."""
    wanted = network()
    written(tmp_path, suffix)
    paths = [tmp_path / f"good{suffix}"]
    if suffix == ".npz":
        paths.append(tmp_path / "small.npz")
        arrays: dict[str, Any] = {**wanted.parameters, **(wanted.standardization or {}), "classes": wanted.classes}
        arrays["W1"] = np.asfortranarray(arrays["W1"])
        np.savez_compressed(paths[-1], **arrays)
    for path in paths:
        found = read(path)
        assert found.classes == wanted.classes
        for mine, theirs in ((found.parameters, wanted.parameters), (found.standardization, wanted.standardization)):
            assert mine is not None
            assert theirs is not None
            assert {k: v.tobytes() for k, v in mine.items()} == {k: v.tobytes() for k, v in theirs.items()}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_targets_and_functions_come_back(suffix: str, tmp_path: Path) -> None:
    """Names, the map into units to the bit, quantiles, loss and activations; labels have no map."""
    plain = network()._replace(classes=None, features=("a", "ü b", "c", "d"))
    functions = {"activation": "tanh", "output_activation": "softplus"}
    for targets in (
        Targets("squared_error", (), ("T", "犬", "p"), (0.1, 1e5, 0.0), (1 / 3, 1e-9, 1.0)),
        Targets("quantile", (), ("T",), (0.1,), (0.7,), (0.05, 0.1, 1 / 3)),
        Targets("binary_cross_entropy", (), ("x", "y", "z"), (0.0,) * 3, (1.0,) * 3),
    ):
        path, wanted = tmp_path / f"targets{suffix}", plain._replace(targets=targets, functions=functions)
        if suffix == ".safetensors":
            pytest.importorskip("safetensors")
            write_safetensors(path, wanted)
        else:
            write_npz(path, wanted)
        found = read(path)
        assert (found.targets, found.functions, found.features) == (targets, functions, wanted.features)
        assert found.classes is None


def test_targets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Too many of them, a scale of 0, a loss that is none: one line."""
    path = tmp_path / "bad.npz"
    arrays: dict[str, Any] = {**network().parameters, "targets": ["a", "b", "c"], "loss": "huber"}
    np.savez(path, **arrays)
    assert read(path).targets == Targets("huber", (), ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3)
    for change, words in (
        ({"targets": ["a", "b"]}, "names 2 outputs, but the network has 3"),
        ({"target_scale": np.array([1.0, 0.0, 1.0])}, "with a mean and a positive scale each"),
        ({"target_mean": np.zeros(2)}, "with a mean and a positive scale each"),
        ({"loss": "cross_entropy"}, "and a loss for them"),
        ({"quantiles": ["many"]}, "could not convert"),
        ({"target_mean": np.array([0.0, np.nan, 0.0])}, "must be finite"),
    ):
        np.savez(path, **{**arrays, **change})
        assert words in refusal(path)


def test_targets_are_put_in_order_by_name() -> None:
    """Rows of the last layer and the map go with their names, levels together; other names change nothing."""
    own = Targets("quantile", (), ("a", "b"), (1.0, 2.0), (3.0, 4.0), (0.2, 0.8))
    W = np.arange(8.0).reshape(4, 2)
    given = StoredNetwork({"W1": W, "b1": W[:, 0]}, None, None, own)
    found = arranged(given, None, None, ("b", "a"), "x")
    assert found.targets == Targets("quantile", (), ("b", "a"), (2.0, 1.0), (4.0, 3.0), (0.2, 0.8))
    assert found.parameters["W1"].tolist() == W[[2, 3, 0, 1]].tolist()
    assert arranged(given, None, None, ("b", "c"), "x") == given


def test_numbers_in_another_order_are_names() -> None:
    """Digits that a file has as 2, 0, 1 are those that a network knows as 0, 1, 2; beside other names they are none."""
    W = np.arange(9.0).reshape(3, 3)
    numbers = ("0", "1", "2")
    given = StoredNetwork({"W1": W, "b1": W[0]}, None, numbers, features=numbers)
    found = arranged(given, ("2", "0", "1"), ("1", "2", "0"), (), "x")
    assert found.parameters["W1"].tolist() == W[[2, 0, 1]][:, [1, 2, 0]].tolist()
    assert found.parameters["b1"].tolist() == W[0, [2, 0, 1]].tolist()
    assert arranged(given, ("a", "b", "c"), ("x", "y", "z"), (), "x") == given


def refusal(path: Path) -> str:
    """Return the one line with which a file is refused, in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ProgramError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert isinstance(caught.value, DataError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a ZIP archive."""
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return image.getvalue()


def npy(shape: str, content: bytes = bytes(80), dtype: str = "<f4") -> bytes:
    """Return an .npy file whose header says what it likes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def safetensors(header: object, content: bytes = b"") -> bytes:
    """Return a .safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def with_flag(image: bytes) -> bytes:
    """Return an archive that claims to be encrypted."""
    flagged = bytearray(image)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        flagged[image.index(mark) + place] |= 1
    return bytes(flagged)


def with_method(image: bytes, method: int) -> bytes:
    """Return an archive whose members claim a method of compression."""
    changed = bytearray(image)
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        changed[image.index(mark) + place] = method
    return bytes(changed)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "four terabytes.npz": lambda: archive({"W1.npy": npy("(1000000, 1000000)")}),
    "a negative size.npz": lambda: archive({"W1.npy": npy("(-5, 4)")}),
    "a bomb.npz": lambda: archive({"W1.npy": npy("(500000000,)", bytes(2_000_000_000))}, zipfile.ZIP_DEFLATED),
    "objects.npz": lambda: archive({"W1.npy": npy("(10,)", dtype="|O")}),
    "a deep header.npz": lambda: archive({"W1.npy": npy("(" * 3000)}),
    "encrypted.npz": lambda: with_flag(archive({"W1.npy": npy("(5, 4)")})),
    "a method nobody knows.npz": lambda: with_method(archive({"W1.npy": npy("(5, 4)")}), 97),
    "trailing bytes.npz": lambda: archive({"W1.npy": npy("(5, 4)", bytes(90))}),
    "one array.npz": lambda: npy("(5, 4)"),
    "numbers without end.npz": lambda: archive({f"{'9' * 5000}.weight.npy": npy("(5, 4)"), "²": npy("(5, 4)")}),
    "fp8.safetensors": lambda: safetensors(
        {"W1": {"dtype": "F8_E4M3", "shape": [5, 4], "data_offsets": [0, 20]}}, bytes(20)
    ),
    "deep classes.safetensors": lambda: safetensors({"__metadata__": {"classes": "[" * 100_000}}),
    "a deep header.safetensors": lambda: safetensors(b'{"a":' * 50_000),
    "four terabytes.safetensors": lambda: safetensors(
        {"W1": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}, bytes(80)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line(name: str, tmp_path: Path) -> None:
    """Whatever the libraries raise, and before memory is taken for what is only declared."""
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    path = tmp_path / name
    path.write_bytes(HOSTILE[name]())
    assert refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damage_anywhere_is_one_line_or_harmless(suffix: str, tmp_path: Path) -> None:
    """Two thousand damaged files: cut, bytes changed, pieces moved; what is read all the same is a network."""
    good, path = written(tmp_path, suffix), tmp_path / f"bad{suffix}"
    drawn = random.Random(1)
    refused = 0
    for _ in range(2000):
        image = bytearray(good)
        for _ in range(drawn.randint(1, 3)):
            kind, place = drawn.randrange(4), drawn.randrange(max(1, len(image)))
            if kind == 0:
                del image[place:]
            elif kind == 1 and image:
                image[place] ^= 1 << drawn.randrange(8)
            elif kind == 2:
                image[place : place + 8] = drawn.randbytes(8)
            else:
                piece = image[place : place + 40]
                image[drawn.randrange(max(1, len(image))) :] = piece
        path.write_bytes(image)
        try:
            read(path)
        except ProgramError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".h5"])
def test_a_pipe_is_not_waited_for(suffix: str, tmp_path: Path) -> None:
    """One to which nobody writes is refused at once."""
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    assert "is not a regular file" in refusal(path)


def layers(names: list[str]) -> dict[str, Any]:
    """Return square layers, all weights of layer l being l."""
    found: dict[str, Any] = {}
    for l, name in enumerate(names, start=1):
        found |= {f"{name}.weight": np.full((4, 4), l, np.float32), f"{name}.bias": np.full(4, l, np.float32)}
    return found


@pytest.mark.parametrize("names", [["0", "2", "10"], ["net.fc1", "net.fc2", "net.out3"], ["l.0.lin", "l.1.lin"]])
def test_numbered_layers_are_taken_in_order(names: list[str], tmp_path: Path) -> None:
    """By the numbers in their names, wherever they are in the file."""
    arrays = layers(names)
    np.savez(tmp_path / "a.npz", **{name: arrays[name] for name in sorted(arrays, reverse=True)})
    found = read(tmp_path / "a.npz").parameters
    assert [int(found[f"W{l}"][0, 0]) for l in range(1, len(names) + 1)] == list(range(1, len(names) + 1))


@pytest.mark.parametrize(
    "names",
    [
        ["input", "hidden", "output"],
        ["model1.input", "model1.hidden", "model1.output"],
        ["encoder.0", "encoder.1", "decoder.0", "decoder.1"],
        ["fc1", "fc2", "output"],
    ],
)
def test_names_without_an_order_are_refused(names: list[str], tmp_path: Path) -> None:
    """An alphabet is no order of layers: square ones would be taken in it in silence."""
    np.savez(tmp_path / "a.npz", **layers(names))
    with pytest.raises(DataError, match="have no order: number the layers"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("kind", "said"), [("keras", "another HDF5 file"), ("torch", "a ZIP archive"), ("table", "text, such as a table")]
)
def test_a_foreign_file_is_called_foreign(kind: str, said: str, tmp_path: Path) -> None:
    """Not damaged, and nobody is asked to remove it."""
    path = tmp_path / "model.h5"
    if kind == "keras":
        with h5py.File(path, "w") as file:
            file["model_weights/dense/kernel"] = np.ones((4, 4))
    elif kind == "table":
        path.write_text("größe,b,y\n" + "1,2,é\n" * 1000)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", b"x" * 10_000)
    with pytest.raises(DataError, match=f"is no checkpoint of ddp_mlp but {said}") as refused:
        read(path)
    assert "remove" not in str(refused.value)


def test_the_mean_of_large_numbers_is_kept_in_float64(tmp_path: Path) -> None:
    """Unix seconds: subtracted in float64 and then rounded they are told apart, in float32 they are not."""
    files = pytest.importorskip("safetensors.numpy")
    X = 1_700_000_000.0 + np.arange(8.0).reshape(2, 4)
    standardization = {"mean": X.mean(axis=0), "scale": X.std(axis=0)}
    write_safetensors(tmp_path / "a.safetensors", network()._replace(standardization=standardization))
    state = files.load_file(tmp_path / "a.safetensors")
    recipe = ((X - state["mean"]) / state["scale"]).astype(np.float32)  # as docs/models.md has it
    assert recipe.tolist() == [[-1] * 4, [1] * 4]
    rounded = (X.astype(np.float32) - state["mean"].astype(np.float32)) / state["scale"].astype(np.float32)
    assert np.ptp(rounded) == 0
