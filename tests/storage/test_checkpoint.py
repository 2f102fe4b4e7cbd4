"""Checkpoints survive crashes, full disks and damage, and hostile files do no harm."""

import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.storage.atomic import sweep
from ddp_mlp.storage.checkpoint import Checkpoint
from ddp_mlp.storage.checkpoint_image import decode, encode
from ddp_mlp.storage.checkpoints import Newest, load, newest, save, save_best
from tests.conftest import Program
from tests.oracles import FAILPOINTS, HALF_WRITTEN

USER_BLOCK = 512


def image_of(checkpoint: Checkpoint) -> bytes:
    """Return the bytes of a checkpoint's file."""
    return bytes(encode(checkpoint))


def make(
    widths: tuple[int, ...] = (3, 4, 2),
    dtype: str = "float32",
    slots: tuple[str, ...] = ("m", "v"),
    step: int = 1,
    seed: int = 0,
    **changes: Any,
) -> Checkpoint:
    """Return a checkpoint of a network with these widths, n_0 first, and random numbers in all arrays."""
    random = np.random.default_rng(seed)

    def arrays() -> dict[str, Any]:
        shapes = [(f"W{i}", (n, p)) for i, (p, n) in enumerate(itertools.pairwise(widths), 1)]
        return {
            name: random.standard_normal(size).astype(dtype)
            for W, shape in shapes
            for name, size in ((W, shape), ("b" + W[1:], shape[:1]))
        }

    whole = Checkpoint(
        parameters=arrays(),
        optimizer={slot: arrays() for slot in slots},
        standardization={"mean": random.standard_normal(widths[0]), "scale": random.random(widths[0]) + 0.5},
        config={"hidden": list(widths[1:-1]), "learning_rate": 1e-3, "run_dir": "läufe/\udcff"},
        epoch=3,
        step=step,
        progress={"loss_sum": 0.1 + 0.2, "best": math.inf, "bad_epochs": 2, "seconds": 1e-300},
        classes=tuple(f"class {k}" for k in range(widths[-1])),
        data={"sha256": "00ff", "rows": 2**60},
        versions={"numpy": "2.4.6"},
    )
    return dataclasses.replace(whole, **changes)


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    """Compare two checkpoints; arrays by dtype, shape and bytes, the rest by its JSON text."""
    for a, b in [
        (one.parameters, other.parameters),
        *((one.optimizer[slot], other.optimizer[slot]) for slot in one.optimizer),
        (one.standardization or {}, other.standardization or {}),
    ]:
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            assert a[name].shape == b[name].shape
            assert a[name].tobytes() == b[name].tobytes()  # C order, whatever the memory order
    assert one.optimizer.keys() == other.optimizer.keys()
    assert (one.standardization is None) == (other.standardization is None)
    for name in ("config", "epoch", "step", "progress", "classes", "data", "versions"):
        assert type(getattr(one, name)) is type(getattr(other, name))
        assert json.dumps(getattr(one, name), sort_keys=True) == json.dumps(getattr(other, name), sort_keys=True)


def signed(image: bytes) -> bytes:
    """Return the file with a user block that is right for its image, as anybody can compute it."""
    rest = image[USER_BLOCK:]
    text = f"ddp_mlp checkpoint 1\nlength {len(rest)}\nsha256 {hashlib.sha256(rest).hexdigest()}\n"
    return text.encode().ljust(USER_BLOCK, b"\0") + rest


def refusal(image: bytes) -> str:
    """Return the message with which `decode` refuses the image, having checked that it is one line with the name."""
    with pytest.raises(DataError) as caught:
        decode(image, "some.h5")
    message = str(caught.value)
    assert message.startswith("some.h5: ")
    assert "\n" not in message
    return message


# --- Round trips ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple),
    dtype=st.sampled_from(["float32", "float64"]),
    slots=st.sampled_from([(), ("velocity",), ("m", "v"), ("W", "b1")]),
    fortran=st.booleans(),
    standardized=st.booleans(),
    progress=st.dictionaries(st.text(), json_values, max_size=4),
    labels=st.text(),
)
def test_round_trip(
    widths: tuple[int, ...],
    dtype: str,
    slots: tuple[str, ...],
    fortran: bool,
    standardized: bool,
    progress: dict[str, Any],
    labels: str,
) -> None:
    """Every network, optimizer, dtype and memory order comes back with its bits, floats of `progress` included."""
    before = make(widths, dtype, slots, progress=progress, classes=(labels,) * widths[-1])
    if fortran:
        before = dataclasses.replace(before, parameters={k: np.asfortranarray(a) for k, a in before.parameters.items()})
    if not standardized:
        before = dataclasses.replace(before, standardization=None)
    after = decode(image_of(before), "some.h5")
    assert_same(before, after)
    assert list(after.parameters) == list(before.parameters)  # W1, b1, W2, …
    assert all(a.flags.c_contiguous and a.flags.writeable for a in after.parameters.values())


def test_values_that_are_not_finite() -> None:
    """An optimizer's state may overflow: NaN with its payload and infinities come back."""
    before = make()
    before.optimizer["v"]["W1"][0, :] = [math.nan, math.inf, -math.inf]
    before.optimizer["v"]["b1"].view("u4")[0] = 0x7FC12345
    assert_same(before, decode(image_of(before), "some.h5"))


def test_many_classes() -> None:
    """Names of classes that are too long for an HDF5 attribute are a data set of that name, and come back."""
    before = make((2, 20_000))
    image = image_of(before)
    assert_same(before, decode(image, "some.h5"))
    with h5py.File(io.BytesIO(image)) as file:
        assert json.loads(file["classes"][()]) == list(before.classes)


@pytest.mark.parametrize("length", [60_000, 60_001, 65_536])
def test_text_about_the_longest_attribute(length: int) -> None:
    """Text comes back on either side of the length where it is no longer an attribute."""
    before = make(data={"x": "x" * (length - len(json.dumps({"x": ""})))})
    assert_same(before, decode(image_of(before), "some.h5"))


def test_many_layers() -> None:
    """A group of 600 arrays, whose B-tree in the file has two levels, comes back."""
    before = make((1,) * 301, slots=("velocity",))
    assert_same(before, decode(image_of(before), "some.h5"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"parameters": {"W1": np.zeros((2, 3))}}, "without a gap"),
        ({"parameters": {"W1": np.zeros((2, 3)), "b1": np.zeros((2, 1))}}, "b1 has shape (2, 1), must have (2,)"),
        ({"parameters": {"W1": np.zeros((2, 3), int), "b1": np.zeros(2)}}, "W1 is int64"),
        ({"optimizer": {"m/../..": {}}}, "slot 'm/../..'"),
        ({"standardization": {"mean": np.zeros(3)}}, "must hold mean and scale"),
        ({"classes": ("one",)}, "1 classes for 2 outputs"),
        ({"parameters": {"W1": np.full((2, 3), np.nan), "b1": np.zeros(2)}, "optimizer": {}}, "W1 holds numbers that"),
        ({"standardization": {"mean": np.zeros(3), "scale": np.array([1, np.inf, 1])}}, "scale holds numbers that"),
        ({"step": -1}, "must not be negative"),
    ],
)
def test_encode_refuses_what_decode_would(changes: dict[str, Any], complaint: str) -> None:
    """A checkpoint that could not be read again is never written."""
    with pytest.raises(ValueError, match=re.escape(complaint)):
        image_of(make(**changes))


# --- The file ---


def test_plain_h5py_shows_the_layout(tmp_path: Path) -> None:
    """Any HDF5 reader finds arrays, attributes and JSON where the format says."""
    before = make()
    path = save(tmp_path, before, keep=1)
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        arrays = ["W1", "W2", "b1", "b2"]
        assert sorted(names) == sorted(
            ["parameters", "optimizer", "optimizer/m", "optimizer/v", "standardization"]
            + [f"{group}/{name}" for group in ("parameters", "optimizer/m", "optimizer/v") for name in arrays]
            + ["standardization/mean", "standardization/scale"]
        )
        assert file["parameters/W1"].dtype == "<f4"
        assert np.array_equal(file["parameters/W1"][()], before.parameters["W1"])
        assert file["standardization/mean"].dtype == "<f8"
        assert file.attrs["format"] == b"ddp_mlp checkpoint 1"
        assert (file.attrs["epoch"], file.attrs["step"]) == (3, 1)
        assert json.loads(file.attrs["config"]) == before.config
        assert json.loads(file.attrs["classes"]) == ["class 0", "class 1"]
        assert file.attrs["parameters_sha256"].decode() == before.parameters_sha256
    first_lines = path.read_bytes()[:USER_BLOCK].rstrip(b"\0").decode().splitlines()
    assert first_lines[0] == "ddp_mlp checkpoint 1"
    assert first_lines[2] == "sha256 " + hashlib.sha256(path.read_bytes()[USER_BLOCK:]).hexdigest()


def test_parameters_sha256_by_hand() -> None:
    """The figure is that of W1, b1, W2, b2 in C order, little-endian, also from Fortran-ordered arrays."""
    parameters = {
        "b2": np.array([9.0]),
        "W2": np.array([[7.0, 8.0]]),
        "b1": np.array([5.0, 6.0]),
        "W1": np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
    }
    checkpoint = make((2, 2, 1), "float64", (), parameters=parameters)
    by_hand = hashlib.sha256(struct.pack("<9d", *range(1, 10))).hexdigest()
    assert checkpoint.parameters_sha256 == by_hand
    assert decode(image_of(checkpoint), "some.h5").parameters_sha256 == by_hand


def test_same_content_same_bytes(tmp_path: Path, run_python: Program) -> None:
    """Neither time, process, hash seed, memory order nor the order of dictionaries shows in the file."""
    one = make()
    other = make(
        parameters={name: np.asfortranarray(a) for name, a in reversed(one.parameters.items())},
        optimizer=dict(reversed(one.optimizer.items())),
        progress=dict(reversed(one.progress.items())),
    )
    path = save(tmp_path, one, keep=1)
    assert image_of(other) == path.read_bytes()
    script = (
        "import sys; from pathlib import Path; from ddp_mlp.storage import checkpoints as c; "
        "c.save(Path(sys.argv[2]), c.load(Path(sys.argv[1])), 1)"
    )
    (tmp_path / "again").mkdir()
    assert run_python("-c", script, path, tmp_path / "again", env={"PYTHONHASHSEED": "7"}).returncode == 0
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    with h5py.File(path) as file:
        for name in ("/", "parameters", "optimizer/m", "parameters/W1"):
            assert h5py.h5o.get_info(file[name].id).mtime == 0


# --- A folder of checkpoints ---


def names_in(folder: Path) -> list[str]:
    """Return what is in the folder, hidden files too."""
    return sorted(os.listdir(folder))


def found_in(folder: Path) -> Newest:
    """Return the newest checkpoint, having checked that there is one."""
    found = newest(folder)
    assert found is not None
    return found


def test_save_keeps_the_newest(tmp_path: Path) -> None:
    """Only the `keep` newest steps stay; the best model and foreign files are not counted."""
    (tmp_path / "notes.txt").write_text("mine")
    save_best(tmp_path, make(step=1))
    for step in (1, 2, 3, 4):
        save(tmp_path, make(step=step), keep=2)
    assert names_in(tmp_path) == ["best.h5", "notes.txt", "step-00000003.h5", "step-00000004.h5"]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    """A step of nine digits is newer than one of eight, though its name sorts before it."""
    for step in (99_999_999, 100_000_000):
        path = save(tmp_path, make(step=step), keep=2)
    assert path.name == "step-100000000.h5"
    assert found_in(tmp_path).checkpoint.step == 100_000_000
    save(tmp_path, make(step=100_000_001), keep=2)
    assert names_in(tmp_path) == ["step-100000000.h5", "step-100000001.h5"]


def test_a_damaged_newer_file_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    """After a resume from an older step, `keep = 1` keeps what was just written, not the damaged later step."""
    (tmp_path / "step-00000009.h5").write_bytes(b"damaged\0")
    save(tmp_path, make(step=7), keep=1)
    save(tmp_path, make(step=8), keep=1)
    found = found_in(tmp_path)
    assert found.checkpoint.step == 8
    assert [path.name for path, _ in found.passed_over] == ["step-00000009.h5"]
    assert "not a ddp_mlp checkpoint" in found.passed_over[0][1]


def test_newest_of_nothing(tmp_path: Path) -> None:
    """An empty or missing folder holds no checkpoint, and that is no error."""
    assert newest(tmp_path) is None
    assert newest(tmp_path / "missing") is None


def test_a_name_that_is_not_its_step_s_is_passed_over(tmp_path: Path) -> None:
    """A copy under a later step's name would be taken at every start, and never be rotated out."""
    path = save(tmp_path, make(step=3), keep=2)
    (tmp_path / "step-00009999.h5").write_bytes(path.read_bytes())
    found = newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert "step-00009999.h5: holds the checkpoint of step 3, not that of its name" in found.passed_over[0][1]


@pytest.mark.parametrize(("name", "value"), [("step", 2), ("epoch", 7), ("step", "3")])
def test_progress_that_is_not_its_step_s_is_refused(name: str, value: Any) -> None:
    """A signed file whose progress says another step than its attributes would go on to other bits."""
    good = make(step=3)
    forged = dataclasses.replace(good, progress={**good.progress, name: value})
    with pytest.raises(DataError, match=f"{name} is .*, but its progress says"):
        decode(bytes(encode(forged)), "forged")


@pytest.mark.parametrize("name", ["activation", "output_activation", "arithmetic"])
@pytest.mark.parametrize("value", [None, -1, 10**400, math.nan, [], {}, "", "x", "relu,relu,relu", "\n"])
def test_functions_that_a_network_cannot_have_are_refused(name: str, value: Any) -> None:
    """Where it is written, and where it is read: signed, whole, and of a configuration that nobody can have had."""
    whole = make()
    changed = dataclasses.replace(whole, config={**whole.config, name: value})
    if name == "output_activation" and value in ("", "x", "\n"):
        assert encode(changed)  # classes have softmax, whatever is said of numbers
        return
    with pytest.raises(ValueError, match=f"config: ({name} must be a text|no such network has )"):
        encode(changed)
    assert refusal(forged_config(whole, changed)).startswith("some.h5: not a valid checkpoint, config: ")


def forged_config(whole: Checkpoint, changed: Checkpoint) -> bytes:
    """Return the signed image of one checkpoint with the configuration of the other, which nobody would write."""
    stored, forged = (json.dumps(each.config, sort_keys=True).encode() for each in (whole, changed))
    forgery = io.BytesIO(image_of(whole))
    with h5py.File(forgery, "r+") as file:
        assert file.attrs["config"] == stored
        file.attrs["config"] = np.bytes_(forged)
    return signed(forgery.getvalue())


@pytest.mark.parametrize(
    "keys",
    [
        *({"huber_delta": value} for value in (None, -1, 10**400, math.nan, math.inf, "1", True)),
        *({"target_weight": {"a": value}} for value in (None, -1, 10**400, "1")),
        {"target_weight": [1.0]},
        {"huber_delta": "x", "target_weight": {"huber_delta": 1.0}},
        {"standardize": {}},
        {"standardize": None},
        {"standardize": 1},
    ],
    ids=lambda keys: str(keys)[:40],
)
def test_a_loss_or_map_that_no_run_can_have_is_refused(keys: dict[str, Any]) -> None:
    """Before predict forms a loss by it, or a run its inputs: where it is written, and where it is read."""
    whole = make()
    changed = dataclasses.replace(whole, config={**whole.config, **keys})
    with pytest.raises(ValueError, match=r"config: (huber_delta|a|target_weight|standardize) must be"):
        encode(changed)
    assert refusal(forged_config(whole, changed)).startswith("some.h5: not a valid checkpoint, config: ")


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_regular_file_is_passed_over(tmp_path: Path, kind: str) -> None:
    """A pipe to which nobody writes would be waited for without end."""
    path, odd = save(tmp_path, make(step=3), keep=2), tmp_path / "step-00000004.h5"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(odd))
    found = newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert [passed for passed, _ in found.passed_over] == [odd]


def test_newest_when_all_are_damaged(tmp_path: Path) -> None:
    """A folder whose checkpoints are all damaged is an error in one line, not a fresh start."""
    for step in (1, 2):
        (tmp_path / f"step-0000000{step}.h5").write_bytes(image_of(make(step=step))[:-1])
    with pytest.raises(DataError, match=r"none of its 2 checkpoints can be used; newest: .*step-00000002.h5") as caught:
        newest(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, and a folder in place of one, are storage errors that name the path and the reason."""
    with pytest.raises(StorageError, match=r"absent.h5: cannot be read \(No such file or directory\)"):
        load(tmp_path / "absent.h5")
    with pytest.raises(StorageError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "step-00000002.h5").mkdir()
    with pytest.raises(StorageError, match="none of its 1 checkpoints"):
        newest(tmp_path)
    save(tmp_path, make(step=1), keep=1)
    assert found_in(tmp_path).checkpoint.step == 1


def test_a_huge_foreign_file_is_not_read_whole(tmp_path: Path) -> None:
    """A terabyte of something else is refused by its first bytes."""
    path = tmp_path / "images.h5"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="not a ddp_mlp checkpoint"):
        load(path)


# --- Crashes and failing disks ---


def assert_old_or_new(folder: Path, failpoint: str) -> None:
    """After a failed save of step 2 over step 1, the loader gives the one that belongs to this moment, whole."""
    sweep(folder)
    assert [name for name in names_in(folder) if not re.fullmatch(r"step-0000000[12]\.h5", name)] == []
    found = found_in(folder)
    assert found.passed_over == []
    renamed = FAILPOINTS.index(failpoint) >= FAILPOINTS.index("renamed")
    assert_same(found.checkpoint, make(step=2, seed=2) if renamed else make(step=1, seed=1))
    save(folder, make(step=2, seed=2), keep=1)  # and the run goes on
    assert names_in(folder) == ["step-00000002.h5"]


@pytest.mark.parametrize("failpoint", [*FAILPOINTS, HALF_WRITTEN])
def test_killed_while_saving(tmp_path: Path, failpoint: str, run_python: Program) -> None:
    """SIGKILL at any moment of a save, a half-written file among them, leaves the old checkpoint or the new one."""
    save(tmp_path, make(step=1, seed=1), keep=1)
    other = tmp_path.with_name(tmp_path.name + "-new.h5")
    other.write_bytes(image_of(make(step=2, seed=2)))
    script = (
        "import sys; from pathlib import Path; from ddp_mlp.storage import checkpoints as c; "
        "c.save(Path(sys.argv[1]), c.load(Path(sys.argv[2])), keep=1)"
    )
    killed = run_python("-c", script, tmp_path, other, env={"DDP_MLP_FAILPOINT": f"{failpoint}:kill"})
    assert killed.returncode == -signal.SIGKILL
    assert_old_or_new(tmp_path, failpoint.rpartition(",")[2])


@pytest.mark.parametrize("failpoint", [*FAILPOINTS, HALF_WRITTEN])
@pytest.mark.parametrize(("action", "reason"), [("EIO", "Input/output error"), ("ENOSPC", "No space left on device")])
def test_error_while_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failpoint: str, action: str, reason: str
) -> None:
    """An error of the disk at any moment is one StorageError, leaves no temporary file and a checkpoint that loads."""
    save(tmp_path, make(step=1, seed=1), keep=1)
    monkeypatch.setenv("DDP_MLP_FAILPOINT", f"{failpoint}:{action}")
    with pytest.raises(StorageError) as caught:
        save(tmp_path, make(step=2, seed=2), keep=1)
    monkeypatch.delenv("DDP_MLP_FAILPOINT")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "step-0000000"))
    assert f"({reason})" in message
    assert "\n" not in message
    assert "the newest checkpoint kept is step-0000000" in message
    assert not any(".tmp" in name for name in names_in(tmp_path))  # before any sweep
    assert_old_or_new(tmp_path, failpoint.rpartition(",")[2])


def test_failed_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A best model that cannot be written leaves the earlier one."""
    save_best(tmp_path, make(step=1, seed=1))
    monkeypatch.setenv("DDP_MLP_FAILPOINT", "fsync:EIO")
    with pytest.raises(StorageError, match=r"best.h5: cannot be written .* a whole best.h5 is there"):
        save_best(tmp_path, make(step=2, seed=2))
    assert names_in(tmp_path) == ["best.h5"]
    assert_same(load(tmp_path / "best.h5"), make(step=1, seed=1))


def test_failed_first_save(tmp_path: Path) -> None:
    """Where there is nothing to fall back to, the error says so."""
    with pytest.raises(StorageError, match=r"\(No such file or directory\); no checkpoint is kept there"):
        save(tmp_path / "missing", make(), keep=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False, timeout=10
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True, timeout=10)


def test_full_disk(small_disk: Path) -> None:
    """On a disk that is really full a save fails in one line, and the checkpoint before it verifies."""
    widths = (100, 300, 10)  # about 400 kB with two slots: the third file does not fit
    save(small_disk, make(widths, step=1), keep=5)
    save(small_disk, make(widths, step=2), keep=5)
    with pytest.raises(StorageError, match=r"step-00000003.h5: .*No space left.* kept is step-00000002.h5"):
        save(small_disk, make(widths, step=3), keep=5)
    assert names_in(small_disk) == ["step-00000001.h5", "step-00000002.h5"]
    found = found_in(small_disk)
    assert_same(found.checkpoint, make(widths, step=2))


# --- Damage ---


def damaged(image: bytes, random: np.random.Generator) -> bytes:
    """Return the image with some bits flipped, its end cut off or grown, or a stretch of zeros."""
    copy = bytearray(image)
    match random.integers(4):
        case 0:
            for _ in range(random.integers(1, 4)):
                copy[random.integers(len(copy))] ^= 1 << random.integers(8)
        case 1:
            del copy[random.integers(len(copy)) :]
        case 2:
            copy += bytes(random.integers(1, 600))
        case _:
            page = int(random.choice([64, 512, 4096]))
            start = int(random.integers(-(-len(copy) // page))) * page
            copy[start : start + page] = bytes(len(copy[start : start + page]))
    return bytes(copy)


def test_random_damage_is_detected() -> None:
    """Two thousand damaged files, none accepted."""
    image = image_of(make())
    random = np.random.default_rng(1)
    tried = 0
    while tried < 2000:
        broken = damaged(image, random)
        if broken != image:  # three flips may cancel, a page may be zeros already
            refusal(broken)
            tried += 1


def test_damage_anywhere_in_the_first_lines_is_detected() -> None:
    """A flipped bit in any byte of the user block, its padding among them, is seen."""
    image = image_of(make())
    for position in range(USER_BLOCK):
        broken = bytearray(image)
        broken[position] ^= 1 << (position % 8)
        refusal(bytes(broken))


def test_newest_passes_over_damaged_files(tmp_path: Path) -> None:
    """With a damaged newest file the run goes on from the one before, and the damage is told."""
    save(tmp_path, make(step=1, seed=1), keep=1)
    image = image_of(make(step=2, seed=2))
    random = np.random.default_rng(2)
    path = tmp_path / "step-00000002.h5"
    for _ in range(100):
        broken = damaged(image, random)
        if broken == image:
            continue
        path.write_bytes(broken)
        found = found_in(tmp_path)
        assert found.path.name == "step-00000001.h5"
        ((passed_over, why),) = found.passed_over
        assert passed_over == path
        assert why.startswith(f"{path}: ")


def test_newer_format() -> None:
    """A file of a later format is not called damaged: the user is told to update."""
    later = image_of(make()).replace(b"checkpoint 1\n", b"checkpoint 3\n", 1)
    assert "format 3, this version reads formats up to 2: written by a newer version" in refusal(later)


# --- Hostile files, each with a correct hash ---


Change = Callable[[h5py.File], object]


def tampered(change: Change, **options: Any) -> bytes:
    """Return a valid file after `change` has been at it, signed again."""
    buffer = io.BytesIO(image_of(make(**options)))
    with h5py.File(buffer, "r+") as file:
        change(file)
    return signed(buffer.getvalue())


def frugal_refusal(image: bytes) -> str:
    """Return the message with which `decode` refuses the image, having checked that it took little memory."""
    tracemalloc.start()
    message = refusal(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000
    return message


def array(name: str, data: Any = None, **options: Any) -> Change:
    """Return a change that puts another array in the place of `name`."""
    return lambda file: (file.pop(name), file.create_dataset(name, data=data, **options))


def zeros(name: str, *shape: int, dtype: str = "<f4", **options: Any) -> Change:
    """Return a change that puts an array of zeros in the place of `name`."""
    return array(name, np.zeros(shape, dtype), **options)


def link(name: str, target: Callable[[h5py.File], object]) -> Change:
    """Return a change that puts a link in the place of `name`."""

    def change(file: h5py.File) -> None:
        found = target(file)
        if name in file:
            del file[name]
        file[name] = found

    return change


def attribute(name: str, value: Any) -> Change:
    """Return a change that gives a root attribute another value; bytes are a text of fixed size."""
    return lambda file: file.attrs.create(name, np.bytes_(value) if isinstance(value, bytes) else value)


def external(source: str = "/etc/hostname") -> Change:
    """Return a change after which the bytes of W1 are those of another file."""
    return array("parameters/W1", shape=(4, 3), dtype="<f4", external=[(source, 0, 48)])


def virtual(source: str = "/etc/hostname", rows: int | None = 4) -> Change:
    """Return a change after which W1 is made of another file, its shape too if `rows` is None."""
    layout = h5py.VirtualLayout((4, 3), "<f4", maxshape=(rows, 3))
    end = h5py.h5s.UNLIMITED if rows is None else rows
    layout[0:end, :] = h5py.VirtualSource(source, "x", (4, 3), maxshape=(rows, 3))[0:end, :]
    return lambda file: (file.pop("parameters/W1"), file.create_virtual_dataset("parameters/W1", layout))


def compact(file: h5py.File) -> None:
    """Let b1 be stored within its own header."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    del file["parameters/b1"]
    h5py.h5d.create(file["parameters"].id, b"b1", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), creation)


W1, b1, W2, b2 = (f"parameters/{name}" for name in ("W1", "b1", "W2", "b2"))
TYPE = "b1 must be little-endian, of type float32, float64 or"

HOSTILE: dict[str, tuple[Change, str]] = {
    "external link": (link(W1, lambda _: h5py.ExternalLink("/etc/hostname", "/x")), "W1 is a link to elsewhere"),
    "soft link": (link(b1, lambda _: h5py.SoftLink("/optimizer/m/b1")), "b1 is a link to elsewhere"),
    "soft link to itself": (link("optimizer", lambda _: h5py.SoftLink("/optimizer")), "link to elsewhere"),
    "two links to one array": (link("optimizer/m/W1", lambda f: f[W1]), "second link"),
    "cycle": (link("optimizer/m", lambda f: f["optimizer"]), "second link"),
    "cycle through the root": (link("optimizer/m/W1", lambda f: f["/"]), "second link"),
    "external storage": (external(), "W1 must be stored contiguously in this file"),
    "virtual": (virtual(), "W1 must be stored contiguously in this file"),
    "filter": (zeros(W1, 4, 3, compression="gzip"), "W1 must be stored contiguously"),
    "chunks": (zeros(W1, 4, 3, chunks=(1, 1)), "W1 must be stored contiguously"),
    "compact": (compact, "b1 must be stored contiguously"),
    "huge, never written": (array(W1, shape=(2**30, 3), dtype="<f4"), "12884901888 bytes, which are not in the file"),
    "object reference": (array(b1, shape=(4,), dtype=h5py.ref_dtype), TYPE),
    "variable length": (array(b1, shape=(4,), dtype=h5py.vlen_dtype("f4")), TYPE),
    "text of variable length": (array(b1, shape=(4,), dtype=h5py.string_dtype()), TYPE),
    "compound": (zeros(b1, 4, dtype="f4,f4"), TYPE),
    "integers": (zeros(b1, 4, dtype="<i4"), TYPE),
    "half precision": (zeros(b1, 4, dtype="<f2"), TYPE),
    "big-endian": (zeros(b1, 4, dtype=">f4"), TYPE),
    "no shape": (array(b1, h5py.Empty("<f4")), TYPE),
    "text": (zeros(b1, 4, dtype="S4"), "b1 is |S4, must be float32"),
    "mixed precision": (zeros(b1, 4, dtype="<f8"), "b1 is float64, must be float32"),
    "W that does not chain": (zeros(W2, 2, 5), "W2 has shape (2, 5), must have (2, 4)"),
    "W of one dimension": (zeros(W1, 12), "W1 has shape (12,)"),
    "b of two dimensions": (zeros(b1, 4, 1), "b1 has shape (4, 1)"),
    "scalar": (zeros(b1), "b1 has shape ()"),
    "no rows": (zeros(b2, 0), "b2 has shape (0,), must be at least 1"),
    "slot of another shape": (zeros("optimizer/m/b1", 5), "m/b1 has shape (5,)"),
    "missing b": (lambda f: f.pop(b2), "without a gap"),
    "missing layer": (lambda f: (f.pop(W1), f.pop(b1)), "without a gap"),
    "no parameters": (lambda f: f.pop("parameters"), "without a gap"),
    "no optimizer": (lambda f: f.pop("optimizer"), "/optimizer must be a group"),
    "array for a group": (zeros("parameters", 3), "root attributes are"),
    "array for a slot": (zeros("optimizer/m", 3), "hold groups alone"),
    "group for an array": (lambda f: (f.pop(W1), f.create_group(W1)), "W1 is a group, must be an array"),
    "deep groups": (lambda f: f.create_group("optimizer/m/W9/x"), "optimizer slot 'm/W9'"),
    "missing slot array": (lambda f: f.pop("optimizer/m/b1"), "optimizer slot m holds"),
    "slot with a strange name": (lambda f: f.move("optimizer/m", "optimizer/m\n\x1b[2J"), "/optimizer holds 'm\\n"),
    "unexpected group": (lambda f: f.create_group("more"), "/more is a group"),
    "unexpected array": (lambda f: f.create_dataset("more", data=1.0), "root attributes are"),
    "named type": (link("parameters/W3", lambda _: np.dtype("f4")), "W3 is a named type"),
    "attribute of an array": (lambda f: f[W1].attrs.create("x", 1), "/parameters/W1 has attributes"),
    "mean of another length": (zeros("standardization/mean", 4, dtype="<f8"), "mean has shape (4,)"),
    "scale in float32": (zeros("standardization/scale", 3), "scale is float32"),
    "missing scale": (lambda f: f.pop("standardization/scale"), "must hold mean and scale"),
    "missing attribute": (lambda f: f.attrs.pop("progress"), "root attributes"),
    "unexpected attribute": (attribute("x", 1), "root attributes"),
    "attribute twice": (lambda f: f.create_dataset("config", data=np.bytes_(b"{}")), "root attributes"),
    "attribute of variable size": (attribute("config", "{}"), "config must be one text"),
    "several texts": (attribute("config", np.array([b"{}", b"{}"])), "config must be one text"),
    "no text": (attribute("config", h5py.Empty("S2")), "config must be one text"),
    "number for a text": (attribute("config", 1), "config must be one text"),
    "text for a number": (attribute("step", b"7"), "step must be one integer"),
    "vector for a number": (attribute("step", np.zeros(3, "<i8")), "step must be one integer"),
    "float for a number": (attribute("epoch", 1.0), "epoch must be one integer"),
    "negative step": (attribute("step", np.int64(-1)), "step -1: must not be negative"),
    "another format": (attribute("format", b"ddp_mlp checkpoint 9"), "format 'ddp_mlp checkpoint 9'"),
    "not JSON": (attribute("config", b"cos\nsystem"), "JSON that cannot be read"),
    "not ASCII": (attribute("config", b'{"\xff": 1}'), "cannot be read"),
    "JSON of another kind": (attribute("progress", b"[]"), "progress must be a JSON object"),
    "classes that are no list": (attribute("classes", b"{}"), "classes must be a JSON array"),
    "classes that are no texts": (attribute("classes", b"[1, 2]"), "JSON array of texts"),
    "too few classes": (attribute("classes", b'["a"]'), "1 classes for 2 outputs"),
    "JSON too deep": (attribute("config", b"[" * 50_000), "cannot be read"),
    "integer too long": (attribute("config", b'{"x": ' + b"9" * 10_000 + b"}"), "cannot be read"),
    "another hash": (attribute("parameters_sha256", b"0" * 64), "parameters_sha256 is not that"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_is_refused(kind: str) -> None:
    """A correct hash opens no door: every construct that `encode` does not write is refused, in little memory."""
    change, complaint = HOSTILE[kind]
    message = frugal_refusal(tampered(change))
    assert complaint in message
    assert message.isprintable()


def test_tampering_with_nothing_is_accepted() -> None:
    """The hostile files above are refused for what was done to them, not for having been opened and signed again."""
    assert_same(decode(tampered(lambda _: None), "some.h5"), make())


def test_parameters_that_are_not_finite() -> None:
    """Parameters that no run could have saved are refused."""
    assert "W1 holds numbers that are not finite" in refusal(tampered(array(W1, np.full((4, 3), np.inf, "f4"))))


def test_forged_shape_beyond_the_file() -> None:
    """A shape that was overwritten with a huge one in the bytes of the file allocates nothing."""
    image = image_of(make((5, 7, 2)))
    forged = image.replace(struct.pack("<QQ", 7, 5), struct.pack("<QQ", 2**32, 2**31))
    assert forged != image
    frugal_refusal(signed(forged))


@pytest.mark.parametrize(("moved", "size"), [(0, 40), (2**20, 48)])
def test_forged_place_of_the_bytes(moved: int, size: int) -> None:
    """An array whose bytes are said to be fewer than its shape needs, or behind the end of the file, is refused."""
    image = image_of(make())
    with h5py.File(io.BytesIO(image)) as file:
        offset = file[W1].id.get_offset() - USER_BLOCK
    forged = image.replace(struct.pack("<QQ", offset, 48), struct.pack("<QQ", offset + moved, size))
    message = frugal_refusal(signed(forged))
    assert "48 bytes, which are not in the file" in message or "invalid dataset size" in message  # HDF5's own words


def test_huge_network_without_bytes() -> None:
    """Arrays that fit together, terabytes of them, and were never written allocate nothing."""

    def change(file: h5py.File) -> None:
        for name, shape in (("W1", (2**30, 300)), ("b1", (2**30,)), ("W2", (2, 2**30))):
            array(f"parameters/{name}", shape=shape, dtype="<f4")(file)

    image = tampered(change, widths=(300, 4, 2), slots=())
    assert "which are not in the file" in frugal_refusal(image)


def test_forged_arrays_on_the_same_bytes() -> None:
    """Arrays that share their bytes could fill any memory from a small file; together they may not exceed it."""
    before = make((300, 300), "float64", ())

    def add_slot(file: h5py.File) -> None:
        slot = file.create_group("optimizer/m")
        slot.create_dataset("W1", (300, 300), "<f8")  # without any bytes yet
        slot.create_dataset("b1", data=np.zeros(300))

    buffer = io.BytesIO(image_of(before))
    with h5py.File(buffer, "r+") as file:
        add_slot(file)
        offset = file["parameters/W1"].id.get_offset() - USER_BLOCK
    nowhere = struct.pack("<QQ", 2**64 - 1, 300 * 300 * 8)
    assert buffer.getvalue().count(nowhere) == 1
    forged = buffer.getvalue().replace(nowhere, struct.pack("<QQ", offset, 300 * 300 * 8))
    assert "m/W1 and the arrays before it are larger than the file" in refusal(signed(forged))


def test_hdf5_elsewhere_in_the_file() -> None:
    """HDF5 behind more than the user block, no HDF5 at all, and nothing at all are refused."""
    image = image_of(make())
    assert "HDF5 begins at byte 1024" in refusal(signed(image[:USER_BLOCK] + bytes(512) + image[USER_BLOCK:]))
    refusal(signed(bytes(5000)))
    refusal(signed(bytes(USER_BLOCK)))


def test_nothing_else_is_opened(tmp_path: Path, run_python: Program) -> None:
    """A file that points elsewhere is refused without a look: what it points to is a pipe, which would block."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    changes: list[Change] = [
        link(W1, lambda _: h5py.ExternalLink(str(pipe), "/x")),
        link("parameters", lambda _: h5py.ExternalLink(str(pipe), "/x")),
        external(str(pipe)),
        virtual(str(pipe)),
        virtual(str(pipe), None),
    ]
    for number, change in enumerate(changes):
        (tmp_path / f"step-{number:08d}.h5").write_bytes(tampered(change))
    script = (
        "import sys; from pathlib import Path; from ddp_mlp.storage import checkpoints as c\n"
        "try: c.newest(Path(sys.argv[1]))\n"
        "except c.DataError as error: print(error)"
    )
    said = run_python("-c", script, tmp_path, timeout=20)
    assert "none of its 5 checkpoints can be used" in said.stdout
