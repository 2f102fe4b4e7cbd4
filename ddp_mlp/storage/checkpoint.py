"""Checkpoints: one self-verifying HDF5 file each, written so that a crash leaves the old file or the new one.

Invariants:

- A file is a 512-byte user block in plain text (format, length, SHA-256) and then an ordinary HDF5 image. The hash
  covers every byte of the image, and the user block must be exactly the one that belongs to that image, so that no
  byte of the file can change unnoticed. `h5py.File(path)` opens it like any other HDF5 file.
- The bytes are a function of the content alone: no time, no host, no memory order, nothing shaped by the number of
  ranks.
- A hash proves that a file is intact, not that it is harmless: links, external or virtual storage, filters, foreign
  types and sizes beyond the file are refused in one `DataError` before any array is read. What remains: bytes that are
  forged at the level of HDF5's own structures and carry a correct SHA-256 are trusted as far as the HDF5 library is.
- A file appears under its name only when it is whole and on the disk (`atomic.py`).

Everything here is local: the caller sees to it that one process writes.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError, StorageError
from ddp_mlp.nn.parameters import parameters_sha256
from ddp_mlp.nn.targets import Targets
from ddp_mlp.storage.atomic import listing, remove, write_atomically
from ddp_mlp.storage.regular import open_regular

FORMAT_VERSION = 2
"""The newest. A network of ReLU and classes, of whose inputs no names are known, is written in format 1, which version
0.1 reads; any other in format 2."""
USER_BLOCK = 512  # bytes; the smallest user block that HDF5 has
BEST = "best.h5"

_JSON_ATTRIBUTES = {"config": dict, "progress": dict, "classes": list, "data": dict, "versions": dict}
_OPTIONAL = {"targets": dict, "inputs": dict}
"""JSON attributes that are there where there is something to say."""
_ATTRIBUTES = {"format": str, "parameters_sha256": str, "epoch": int, "step": int, **_JSON_ATTRIBUTES}
_ROOM_FOR_STRUCTURE = 8 * 1024  # bytes; more than what HDF5 adds to the file, to a group or to an array
_LONGEST_ATTRIBUTE = 60_000  # bytes; HDF5's oldest layout ends just below 2^16

_NAME = re.compile("[A-Za-z][A-Za-z0-9_]{,31}")
_NAMES = "names must be a letter and at most 31 letters, digits and underscores"
_STEP_FILE = re.compile(r"step-([0-9]{8,})\.h5")

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after `step` steps; all that a resumed run or a prediction needs.

    The dictionaries `config`, `progress`, `data` and `versions` hold JSON values with text as keys (a tuple comes back
    as a list). Floats survive exactly, among them the ones that are not finite (written as `NaN`, `Infinity`).
    """

    parameters: dict[str, Array]
    """`W1` (n_1, n_0), `b1` (n_1,), `W2` (n_2, n_1), …: float32 or float64, one dtype for all, in any memory order."""
    optimizer: dict[str, dict[str, Array]]
    """Slots such as `m` and `v`, each with the names, shapes and dtype of `parameters`; `{}` for plain SGD."""
    standardization: dict[str, Array] | None
    """`mean` and `scale`, float64 (n_0,), or None where the data are used as they are."""
    config: dict[str, Any]
    """The resolved configuration."""
    epoch: int
    """Finished epochs."""
    step: int
    """Finished steps since the run began."""
    progress: dict[str, Any]
    """What else the training loop wants back: sums of the epoch so far, best score, the run's clock."""
    classes: tuple[str, ...]
    """Names of the n_L classes, in the order of the outputs."""
    data: dict[str, Any]
    """Fingerprint of the data set."""
    versions: dict[str, Any]
    """Versions of the libraries that computed this state."""
    targets: dict[str, Any] | None = None
    """The numbers that the outputs are, as `nn.targets.Targets` has them; None for classes."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """What is known of the inputs beyond numbers, JSON: `features`, their n_0 names; `feature_shape`; `recipe`."""

    @property
    def format_version(self) -> int:
        """The oldest format in which it can be understood."""
        new = self.targets is not None or self.inputs or self.config.get("activation", "relu") != "relu"
        return 2 if new else 1

    @property
    def parameters_sha256(self) -> str:
        """SHA-256 (hex) of W1, b1, W2, b2, … in C order: the figure by which two runs are compared."""
        return _sha256_in_order(self.parameters)


class Newest(NamedTuple):
    """The newest checkpoint of a folder that verifies, its file, and the newer files that do not, each with why."""

    checkpoint: Checkpoint
    path: Path
    passed_over: list[tuple[Path, str]]


def encode(checkpoint: Checkpoint) -> memoryview:
    """Return the checkpoint as the bytes of its file; the same content gives the same bytes.

    A text that is too long for an HDF5 attribute is a data set of the same name. Raises ValueError where the arrays do
    not fit together or are not finite (the optimizer's may be), TypeError where a dictionary is not JSON.
    """
    _check_arrays(checkpoint.parameters, checkpoint.optimizer, checkpoint.standardization)
    _check_outputs(checkpoint.parameters, checkpoint.classes, checkpoint.targets)
    _check_finite(checkpoint)
    if min(checkpoint.epoch, checkpoint.step) < 0:
        raise ValueError(f"epoch {checkpoint.epoch}, step {checkpoint.step}: must not be negative")
    texts = {name: json.dumps(getattr(checkpoint, name), sort_keys=True) for name in _JSON_ATTRIBUTES}
    for name in _OPTIONAL:
        if getattr(checkpoint, name):
            texts[name] = json.dumps(getattr(checkpoint, name), sort_keys=True)
    groups = {"parameters": checkpoint.parameters, "optimizer": {}}
    groups |= {f"optimizer/{slot}": arrays for slot, arrays in sorted(checkpoint.optimizer.items())}
    if checkpoint.standardization is not None:
        groups["standardization"] = checkpoint.standardization

    everything = [array for arrays in groups.values() for array in arrays.values()]
    room = sum(array.nbytes for array in everything) + sum(map(len, texts.values()))
    room += _ROOM_FOR_STRUCTURE * (2 + len(groups) + len(everything))
    memory = _Memory(room)
    # The oldest layout: every HDF5 reader knows it, it holds no times, and no later library changes it.
    with h5py.File(memory, "w", libver=("earliest", "v108"), userblock_size=USER_BLOCK) as file:
        written = {path: _write_arrays(file.create_group(path), arrays, memory) for path, arrays in groups.items()}
        _write_text(file, "format", _format(checkpoint.format_version))
        _write_text(file, "parameters_sha256", _sha256_in_order(written["parameters"]))
        for name in ("epoch", "step"):
            file.attrs.create(name, getattr(checkpoint, name), dtype="<i8")
        for name, text in texts.items():
            _write_text(file, name, text)
    image = memory.bytes[: memory.length].data
    image[:USER_BLOCK] = _user_block(image[USER_BLOCK:], checkpoint.format_version)
    return image


def _format(version: int) -> str:
    return f"ddp_mlp checkpoint {version}"


class _Memory(io.RawIOBase):
    """A file of at most `room` bytes for HDF5 to write: zeros, of which only those that are written take memory."""

    def __init__(self, room: int) -> None:
        self.bytes = np.zeros(room, np.uint8)
        self.length = self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.length}[whence]
        return self._position

    def readinto(self, out: Any) -> int:
        part = self.bytes[self._position : self._position + len(out)]
        out[: len(part)] = part.data
        self._position += len(part)
        return len(part)

    def write(self, data: Any) -> int:
        self.bytes[self._position : self._position + len(data)] = np.frombuffer(data, np.uint8)
        self._position += len(data)
        self.length = max(self.length, self._position)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        self.length = self._position if size is None else size
        return self.length


def decode(image: bytes, name: str) -> Checkpoint:
    """Return the checkpoint whose file has the bytes `image`; arrays are C-ordered copies.

    Arrays together take no more memory than the image. Raises DataError, one line that begins with `name`, for content
    that `encode` would not have written.
    """
    version = _check_user_block(image[:USER_BLOCK], len(image), name)
    if image[:USER_BLOCK] != _user_block(memoryview(image)[USER_BLOCK:], version):
        raise DataError(f"{name}: damaged, its bytes do not have the SHA-256 in its first lines; {_REMEDY}")
    try:
        with h5py.File(io.BytesIO(image), "r") as file:
            return _read(file, len(image), version)
    except MemoryError:  # of this machine: nothing that is read is larger than the file
        raise
    except Exception as error:  # h5py and json answer a hostile file with many types
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, _InvalidError):
            reason = f"HDF5 or JSON that cannot be read ({reason})"
        raise DataError(f"{name}: not a valid checkpoint, {reason}; {_REMEDY}") from error


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint file; raises DataError when it is not intact, StorageError when unreadable."""
    try:
        with open_regular(path) as file:
            # A foreign file, perhaps a huge one, is refused by its first bytes.
            _check_user_block(file.read(USER_BLOCK), os.fstat(file.fileno()).st_size, str(path))
            file.seek(0)
            found = decode(file.read(), str(path))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise StorageError(f"{path}: cannot be read (not enough memory on this machine)") from error
    name = _STEP_FILE.fullmatch(path.name)
    if name and int(name[1]) != found.step:
        raise DataError(f"{path}: holds the checkpoint of step {found.step}, not that of its name; {_REMEDY}")
    return found


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `step-<step>.h5`, then remove all older ones but `keep - 1`; return the path.

    Files of later steps are left alone: after a resume from an older step they are the damaged ones that were passed
    over, and must not push out good ones. Raises StorageError, naming what is kept; the older checkpoints are intact.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: must be at least 1")
    path = folder / f"step-{checkpoint.step:08d}.h5"
    image = encode(checkpoint)
    try:
        write_atomically(path, image)
        older = [other for step, other in _step_files(folder) if step < checkpoint.step]
        for other in older[: max(0, len(older) - (keep - 1))]:
            remove(other)
    except StorageError as error:
        raise StorageError(f"{error}; {_what_is_kept(folder, checkpoint.step)}") from error
    return path


def save_best(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `best.h5`; return the path. Raises StorageError; an earlier `best.h5` is not harmed."""
    path = folder / BEST
    try:
        write_atomically(path, encode(checkpoint))
    except StorageError as error:
        raise StorageError(f"{error}; {'a whole' if path.exists() else 'no'} {BEST} is there") from error
    return path


def newest(folder: Path) -> Newest | None:
    """Return the newest checkpoint in `folder` that verifies, or None where there is no checkpoint at all.

    Raises DataError when there are checkpoints and none can be used; StorageError when neither the folder nor any of
    them can be read.
    """
    passed_over: list[tuple[Path, str]] = []
    kind: type[DataError | StorageError] = StorageError
    for _, path in reversed(_step_files(folder)):
        try:
            return Newest(load(path), path, passed_over)
        except (DataError, StorageError) as error:
            passed_over.append((path, str(error)))
            kind = DataError if isinstance(error, DataError) else kind
    if passed_over:
        raise kind(f"{folder}: none of its {len(passed_over)} checkpoints can be used; newest: {passed_over[0][1]}")
    return None


def find(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`: of the file, or the one that a run's folder (or its `checkpoints`) has kept.

    That is the best one where the run was to finish with it, else the newest that verifies. Raises DataError, or
    StorageError.
    """
    if not path.is_dir():
        return load(path)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found, best = newest(folder), folder / BEST
    if found is None and not best.exists():
        raise DataError(f"{path}: holds no checkpoint: name a checkpoint file or a run_dir")
    wants_best = found is None or found.checkpoint.config.get("restore_best")
    return load(best) if found is None or (wants_best and best.exists()) else found.checkpoint


def _step_files(folder: Path) -> list[tuple[int, Path]]:
    """Return the steps of the checkpoints in `folder` and their paths, oldest first."""
    matches = (_STEP_FILE.fullmatch(name) for name in listing(folder))
    return sorted((int(match[1]), folder / match[0]) for match in matches if match)


def _what_is_kept(folder: Path, latest: int) -> str:
    with contextlib.suppress(StorageError):
        if files := [path for step, path in _step_files(folder) if step <= latest]:
            return f"the newest checkpoint kept is {files[-1].name}"
    return "no checkpoint is kept there"


def _write_text(file: h5py.File, name: str, text: str) -> None:
    """Write an ASCII attribute of fixed size, or a data set of that name where no attribute is large enough."""
    if len(text) <= _LONGEST_ATTRIBUTE:
        file.attrs.create(name, np.bytes_(text.encode("ascii")))
    else:
        file.create_dataset(name, data=np.bytes_(text.encode("ascii")))


def _write_arrays(group: h5py.Group, arrays: Mapping[str, Array], memory: _Memory) -> dict[str, Array]:
    """Write the arrays as data sets of a group in the file `memory`; return them as they lie there.

    HDF5 only gives them their places: to copy them through h5py would hold up all of Python, and with it the training
    that goes on meanwhile.
    """
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    written = {}
    for name, array in sorted(arrays.items()):
        dtype = array.dtype.newbyteorder("<")
        start = group.create_dataset(name, array.shape, dtype, dcpl=layout).id.get_offset()
        written[name] = memory.bytes[start : start + array.nbytes].view(dtype).reshape(array.shape)
        np.copyto(written[name], array)
    return written


# --- The user block ---

_REMEDY = "remove it, or put an intact copy in its place"


def _user_block(image: memoryview, version: int) -> bytes:
    digest = hashlib.sha256(image).hexdigest()
    return f"{_format(version)}\nlength {len(image)}\nsha256 {digest}\n".encode().ljust(USER_BLOCK, b"\0")


def _check_user_block(block: bytes, file_size: int, name: str) -> int:
    """Return the format of the checkpoint of `file_size` bytes that `block` announces. Raises DataError."""
    magic = re.match(rb"ddp_mlp checkpoint ([1-9][0-9]{0,8})\n", block)
    if magic is None:
        raise DataError(f"{name}: {_foreign(block)}")
    if int(magic[1]) > FORMAT_VERSION:
        raise DataError(
            f"{name}: checkpoint format {int(magic[1])}, this version reads formats up to {FORMAT_VERSION}: "
            "written by a newer version of ddp_mlp, use that one"
        )
    length = re.match(rb"length ([0-9]{1,19})\n", block[magic.end() :])
    if length is None:
        raise DataError(f"{name}: damaged, its first lines do not say its length; {_REMEDY}")
    if file_size != USER_BLOCK + int(length[1]):
        raise DataError(f"{name}: has {file_size} bytes, must have {USER_BLOCK + int(length[1])}; {_REMEDY}")
    return int(magic[1])


def _foreign(block: bytes) -> str:
    """Say what a file is that does not begin as a checkpoint does."""
    for magic, kind in _FOREIGN.items():
        if block.startswith(magic):
            return f"is no checkpoint of ddp_mlp but {kind}; init_from takes .safetensors, .npz and checkpoints"
    return f"not a ddp_mlp checkpoint, or damaged in its first line; {_REMEDY}"


_FOREIGN = {
    b"\x89HDF\r\n\x1a\n": "another HDF5 file (Keras writes such ones, and convert)",
    b"PK\x03\x04": "a ZIP archive (PyTorch's .pt, Keras's .keras, an .npz)",
    b"\x80\x02": "a pickle (PyTorch's older .pt)",
    b"\x80\x04": "a pickle",
    b"\x08": "another program's file (ONNX begins so)",
}


# --- Reading what anybody may have written ---


class _InvalidError(ValueError):
    """What is wrong with the content, without the name of the file."""


def _read(file: h5py.File, file_size: int, version: int) -> Checkpoint:
    """Examine everything, then read it; raises _InvalidError, or whatever h5py and json raise."""
    if file.userblock_size != USER_BLOCK:
        raise _InvalidError(f"HDF5 begins at byte {file.userblock_size}, must begin at byte {USER_BLOCK}")
    groups = _examine(file, file_size)
    values = _read_attributes(file, groups.pop(""), file_size)
    if (found := values.pop("format")) != _format(version):
        raise _InvalidError(f"format {found!r}, must be {_format(version)!r}")
    parameters, scaling = groups.pop("/parameters", {}), groups.pop("/standardization", None)
    if groups.pop("/optimizer", None) != {}:
        raise _InvalidError("/optimizer must be a group, and hold groups alone")
    if foreign := [path for path in groups if not path.startswith("/optimizer/")]:
        raise _InvalidError(f"{foreign[0]} is a group, must be an array or not be there")
    optimizer = {path.removeprefix("/optimizer/"): arrays for path, arrays in groups.items()}
    _check_arrays(parameters, optimizer, scaling)
    _check_outputs(parameters, values["classes"], values.get("targets"))

    names = _parameter_names(len(parameters) // 2)
    expected_sha256 = values.pop("parameters_sha256")
    checkpoint = Checkpoint(
        parameters={name: parameters[name][()] for name in names},
        optimizer={slot: {name: arrays[name][()] for name in names} for slot, arrays in optimizer.items()},
        standardization=None if scaling is None else {name: array[()] for name, array in scaling.items()},
        **values,
    )
    _check_finite(checkpoint)
    for name in ("epoch", "step"):
        if (found := checkpoint.progress.get(name, values[name])) != values[name]:
            raise _InvalidError(f"{name} is {values[name]}, but its progress says {found!r:.40}")
    if checkpoint.parameters_sha256 != expected_sha256:
        raise _InvalidError("parameters_sha256 is not that of its parameters")
    return checkpoint


def _examine(file: h5py.File, file_size: int) -> dict[str, dict[str, h5py.Dataset]]:
    """Return the path of each group, and its arrays by name, none of them read.

    Raises _InvalidError unless each member is a group or an array of its own, and all of them fit into the file.
    """
    groups: dict[str, dict[str, h5py.Dataset]] = {"": {}}
    seen = {h5py.h5o.get_info(file["/"].id).addr}
    left = file_size
    for path in (paths := [""]):  # grows as groups are found
        for name in file[path or "/"]:
            here = f"{path}/{name}"
            if not _NAME.fullmatch(name):
                raise _InvalidError(f"{path or '/'} holds {name!a}, {_NAMES}")
            if not isinstance(file.get(here, getlink=True), h5py.HardLink):
                raise _InvalidError(f"{here} is a link to elsewhere")
            member = file[here]
            if (address := h5py.h5o.get_info(member.id).addr) in seen:
                raise _InvalidError(f"{here} is a second link to another object")
            seen.add(address)
            if len(member.attrs) > 0:
                raise _InvalidError(f"{here} has attributes of its own")
            if isinstance(member, h5py.Group):
                paths.append(here)
                groups[here] = {}
            elif isinstance(member, h5py.Dataset):
                left -= _stored_size(member, here, file_size)
                if left < 0:
                    raise _InvalidError(f"{here} and the arrays before it are larger than the file")
                groups[path][name] = member
            else:
                raise _InvalidError(f"{here} is a named type, must be an array or a group")
    return groups


def _stored_size(dataset: h5py.Dataset, path: str, file_size: int) -> int:
    """Return the bytes of an array, or raise _InvalidError unless all of them are in this file, as they are."""
    creation = dataset.id.get_create_plist()
    # First of all the storage: even the shape of a virtual data set may come out of other files.
    if creation.get_layout() != h5py.h5d.CONTIGUOUS or creation.get_external_count() or creation.get_nfilters():
        raise _InvalidError(f"{path} must be stored contiguously in this file, unfiltered")
    if dataset.shape is None or not (dataset.dtype.str in ("<f4", "<f8") or dataset.dtype.kind == "S"):
        raise _InvalidError(f"{path} must be little-endian, of type float32, float64 or text of fixed size")
    size: int = math.prod(dataset.shape) * dataset.dtype.itemsize
    offset = dataset.id.get_offset()  # None where nothing was ever written
    if dataset.id.get_storage_size() != size or offset is None or offset + size > file_size:
        raise _InvalidError(f"{path} is declared with {size} bytes, which are not in the file")
    return size


def _read_attributes(file: h5py.File, texts: dict[str, h5py.Dataset], file_size: int) -> dict[str, Any]:
    """Return the root's attributes, JSON decoded; `texts` are the root's data sets, attributes that were too long."""
    there = {*file.attrs, *texts}
    if len(there) != len(file.attrs) + len(texts) or there - _OPTIONAL.keys() != _ATTRIBUTES.keys():
        raise _InvalidError(f"root attributes are {sorted([*file.attrs, *texts])!a}, must be {sorted(_ATTRIBUTES)}")
    values: dict[str, Any] = {}
    for name, kind in (_ATTRIBUTES | {name: kind for name, kind in _OPTIONAL.items() if name in there}).items():
        stored = texts[name].id if name in texts else file.attrs.get_id(name)
        scalar = stored.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
        right = stored.dtype == "<i8" if kind is int else stored.dtype.kind == "S"
        if not (scalar and right and stored.dtype.itemsize <= file_size):
            raise _InvalidError(f"attribute {name} must be one {'integer' if kind is int else 'text'}")
        value = texts[name][()] if name in texts else file.attrs[name]
        values[name] = int(value) if kind is int else value.decode("ascii")
        if name in _JSON_ATTRIBUTES or name in _OPTIONAL:
            values[name] = json.loads(values[name])
            if not isinstance(values[name], kind):
                raise _InvalidError(f"attribute {name} must be a JSON {'object' if kind is dict else 'array'}")
    if min(values["epoch"], values["step"]) < 0:
        raise _InvalidError(f"epoch {values['epoch']}, step {values['step']}: must not be negative")
    if not all(isinstance(label, str) for label in values["classes"]):
        raise _InvalidError("attribute classes must be a JSON array of texts")
    _check_inputs(values.get("inputs", {}))
    return values | {"classes": tuple(values["classes"])}


def _check_inputs(inputs: dict[str, Any]) -> None:
    names, shape, recipe = (inputs.get(name) for name in ("features", "feature_shape", "recipe"))
    if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
        raise _InvalidError("inputs: features must be an array of texts")
    if not (shape is None or (isinstance(shape, list) and all(isinstance(extent, int) for extent in shape))):
        raise _InvalidError("inputs: feature_shape must be an array of integers")
    if not (recipe is None or isinstance(recipe, str)):
        raise _InvalidError("inputs: recipe must be a text")


# --- What fits together, the same for both directions ---


def _parameter_names(layers: int) -> list[str]:
    return [f"{letter}{layer}" for layer in range(1, layers + 1) for letter in "Wb"]


def _sha256_in_order(parameters: Mapping[str, Array]) -> str:
    return parameters_sha256(parameters[name] for name in _parameter_names(len(parameters) // 2))


def _check_arrays(
    parameters: Mapping[str, Array],
    optimizer: Mapping[str, Mapping[str, Array]],
    standardization: Mapping[str, Array] | None,
) -> None:
    """Raise _InvalidError unless the shapes and dtypes are those of one network, its optimizer and its data."""
    names = _parameter_names(max(1, len(parameters) // 2))
    if set(parameters) != set(names):
        raise _InvalidError(f"parameters are {sorted(parameters)}, must be W1, b1, W2, b2, … without a gap")
    dtype = parameters["W1"].dtype
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise _InvalidError(f"W1 is {dtype}, must be float32 or float64")
    inputs = parameters["W1"].shape[-1:]
    widths = inputs
    for W, b in zip(names[::2], names[1::2], strict=True):
        _check_array(b, parameters[b], parameters[b].shape[:1], dtype)
        _check_array(W, parameters[W], parameters[b].shape + widths, dtype)
        widths = parameters[b].shape
    for slot, arrays in optimizer.items():
        if not _NAME.fullmatch(slot):
            raise _InvalidError(f"optimizer slot {slot!a}: {_NAMES}")
        if set(arrays) != set(names):
            raise _InvalidError(f"optimizer slot {slot} holds {sorted(arrays)}, must hold {names}")
        for name in names:
            _check_array(f"{slot}/{name}", arrays[name], parameters[name].shape, dtype)
    if standardization is not None:
        if set(standardization) != {"mean", "scale"}:
            raise _InvalidError(f"standardization holds {sorted(standardization)}, must hold mean and scale")
        for name, array in standardization.items():
            _check_array(name, array, inputs, np.dtype(np.float64))


def _check_outputs(
    parameters: Mapping[str, Array], classes: tuple[str, ...], kept_targets: Mapping[str, Any] | None
) -> None:
    """Raise _InvalidError unless there are as many classes, or numbers, as outputs."""
    outputs = len(parameters[f"b{len(parameters) // 2}"])
    if kept_targets is None:
        if len(classes) != outputs:
            raise _InvalidError(f"{len(classes)} classes for {outputs} outputs")
        return
    try:
        targets = Targets.from_dict(kept_targets)
    except (KeyError, TypeError, ValueError) as error:
        raise _InvalidError(f"attribute targets is not what it must be: {error}") from error
    if targets.outputs != outputs or classes:
        raise _InvalidError(f"{targets.outputs} numbers and {len(classes)} classes for {outputs} outputs")


def _check_finite(checkpoint: Checkpoint) -> None:
    for name, array in (checkpoint.parameters | (checkpoint.standardization or {})).items():
        if not np.isfinite(array).all():
            raise _InvalidError(f"{name} holds numbers that are not finite")


def _check_array(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if array.shape != shape:
        raise _InvalidError(f"{name} has shape {array.shape}, must have {shape} to fit its neighbours")
    if not all(shape or (0,)):
        raise _InvalidError(f"{name} has shape {shape}, must be at least 1 in each direction")
    if array.dtype != dtype:
        raise _InvalidError(f"{name} is {array.dtype}, must be {dtype}")
