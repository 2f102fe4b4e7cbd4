"""Tests of storage/attributes.py: names in any form come in; a damaged heap ends in a line, soon."""

import struct
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ddp_mlp.errors import DataError
from ddp_mlp.storage import attributes
from ddp_mlp.storage.dataset import inspect

NAMES = ["ant", "bee", "läufer"]


def data_set(path: Path, classes: Any, dtype: Any) -> Path:
    """Write a small data set whose attribute `classes` is as given."""
    with h5py.File(path, "w") as file:
        file["train/X"], file["train/y"] = np.zeros((6, 2), np.float32), np.arange(6) % 3
        file.attrs.create("classes", np.array(classes, dtype) if dtype is not object else classes, dtype=dtype)
    return path


@pytest.mark.parametrize("dtype", [h5py.string_dtype(), h5py.string_dtype("ascii"), h5py.string_dtype("utf-8", 8)])
def test_names_of_any_length(dtype: Any, tmp_path: Path) -> None:
    """Text of variable and of fixed length is read alike."""
    names = ["ant", "bee", "cat"] if dtype == h5py.string_dtype("ascii") else NAMES
    encoded = [name.encode() for name in names] if h5py.check_string_dtype(dtype).length else names
    assert inspect(data_set(tmp_path / "a.h5", encoded, dtype)).classes == tuple(names)


def test_whole_numbers_of_variable_length_are_refused(tmp_path: Path) -> None:
    """They lie in the heap, too, and are no names."""
    path = tmp_path / "a.h5"
    data_set(path, NAMES, h5py.string_dtype())
    with h5py.File(path, "r+") as file:
        values = np.empty(3, object)
        values[:] = [np.arange(2), np.arange(3), np.arange(1)]
        del file.attrs["classes"]
        file.attrs.create("classes", values, dtype=h5py.vlen_dtype(np.int64))
    with pytest.raises(DataError, match="attribute classes is of variable length and no text"):
        inspect(path)


def heaps(image: bytes) -> list[int]:
    """Return where the global heaps' first objects lie (HDF5 File Format Specification 3.0, III.E)."""
    found, at = [], image.find(b"GCOL")
    while at >= 0:
        found.append(at + 16)
        at = image.find(b"GCOL", at + 1)
    return found


@pytest.mark.parametrize(
    "fault", ["free space of size 0", "an object of 8 EiB", "an object that is longer than its heap"]
)
def test_a_damaged_heap_is_one_line_soon(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of these keep the library busy without end, or make it ask for gigabytes: limits end that."""
    monkeypatch.setattr(attributes, "CPU_SECONDS", 2)
    path = data_set(tmp_path / "a.h5", NAMES, h5py.string_dtype())
    image = bytearray(path.read_bytes())
    assert heaps(bytes(image))
    for at in heaps(bytes(image)):
        if fault == "free space of size 0":
            image[at : at + 16] = struct.pack("<HHIQ", 0, 0, 0, 0)
        elif fault == "an object of 8 EiB":
            image[at + 8 : at + 16] = struct.pack("<Q", 2**63 - 8)
        else:
            image[at + 8 : at + 16] = struct.pack("<Q", 1 << 20)
    path.write_bytes(image)
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        inspect(path)
    assert time.monotonic() - began < 30
    assert "\n" not in str(caught.value)
