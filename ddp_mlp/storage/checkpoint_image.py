"""The bytes of a checkpoint's file: one self-verifying HDF5 image, made and examined.

Invariants:

- A file is a 512-byte user block in plain text (format, length, SHA-256) and then an ordinary HDF5 image. The hash
  covers every byte of the image, and the user block must be exactly the one that belongs to that image, so that no
  byte of the file can change unnoticed. `h5py.File(path)` opens it like any other HDF5 file.
- The bytes are a function of the content alone: no time, no host, no memory order, nothing shaped by the number of
  ranks.
- A hash proves that a file is intact, not that it is harmless: links, external or virtual storage, filters, foreign
  types and sizes beyond the file are refused in one `DataError` before any array is read. What remains: bytes that are
  forged at the level of HDF5's own structures and carry a correct SHA-256 are trusted as far as the HDF5 library is.
"""

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from ddp_mlp.errors import DataError
from ddp_mlp.storage.checkpoint import (
    NAME,
    NAMES,
    Array,
    Checkpoint,
    InvalidError,
    check,
    check_arrays,
    check_config,
    check_finite,
    check_outputs,
    parameter_names,
    sha256_in_order,
)

FORMAT_VERSION = 2
"""The newest. A network of ReLU and classes, of whose inputs no names are known, is written in format 1, which version
0.1 reads; any other in format 2."""
USER_BLOCK = 512  # bytes; the smallest user block that HDF5 has
REMEDY = "remove it, or put an intact copy in its place"

_JSON_ATTRIBUTES = {"config": dict, "progress": dict, "classes": list, "data": dict, "versions": dict}
_OPTIONAL = {"targets": dict, "inputs": dict}
"""JSON attributes that are there where there is something to say."""
_ATTRIBUTES = {"format": str, "parameters_sha256": str, "epoch": int, "step": int, **_JSON_ATTRIBUTES}
_ROOM_FOR_STRUCTURE = 8 * 1024  # bytes; more than what HDF5 adds to the file, to a group or to an array
_LONGEST_ATTRIBUTE = 60_000  # bytes; HDF5's oldest layout ends just below 2^16


def encode(checkpoint: Checkpoint) -> memoryview:
    """Return the checkpoint as the bytes of its file; the same content gives the same bytes.

    A text that is too long for an HDF5 attribute is a data set of the same name. Raises ValueError where the arrays do
    not fit together or are not finite (the optimizer's may be), TypeError where a dictionary is not JSON.
    """
    check(checkpoint)
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
        _write_text(file, "parameters_sha256", sha256_in_order(written["parameters"]))
        for name in ("epoch", "step"):
            file.attrs.create(name, getattr(checkpoint, name), dtype="<i8")
        for name, text in texts.items():
            _write_text(file, name, text)
    image = memory.bytes[: memory.length].data
    image[:USER_BLOCK] = user_block(image[USER_BLOCK:], checkpoint.format_version)
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
    version = check_user_block(image[:USER_BLOCK], len(image), name)
    if image[:USER_BLOCK] != user_block(memoryview(image)[USER_BLOCK:], version):
        raise DataError(f"{name}: damaged, its bytes do not have the SHA-256 in its first lines; {REMEDY}")
    try:
        with h5py.File(io.BytesIO(image), "r") as file:
            return _read(file, len(image), version)
    except MemoryError:  # of this machine: nothing that is read is larger than the file
        raise
    except Exception as error:  # h5py and json answer a hostile file with many types
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, InvalidError):
            reason = f"HDF5 or JSON that cannot be read ({reason})"
        raise DataError(f"{name}: not a valid checkpoint, {reason}; {REMEDY}") from error


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


def user_block(image: memoryview, version: int) -> bytes:
    """Return the user block that belongs to an HDF5 image: its format, length and SHA-256."""
    digest = hashlib.sha256(image).hexdigest()
    return f"{_format(version)}\nlength {len(image)}\nsha256 {digest}\n".encode().ljust(USER_BLOCK, b"\0")


def check_user_block(block: bytes, file_size: int, name: str) -> int:
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
        raise DataError(f"{name}: damaged, its first lines do not say its length; {REMEDY}")
    if file_size != USER_BLOCK + int(length[1]):
        raise DataError(f"{name}: has {file_size} bytes, must have {USER_BLOCK + int(length[1])}; {REMEDY}")
    return int(magic[1])


def _foreign(block: bytes) -> str:
    """Say what a file is that does not begin as a checkpoint does."""
    kinds = [kind for magic, kind in _FOREIGN.items() if block.startswith(magic)]
    if not kinds and _is_text(block):
        kinds = ["text, such as a table or a configuration"]
    if kinds:
        return f"is no checkpoint of ddp_mlp but {kinds[0]}; init_from takes .safetensors, .npz and checkpoints"
    return f"not a ddp_mlp checkpoint, or damaged in its first line; {REMEDY}"


def _is_text(block: bytes) -> bool:
    """Tell whether a file begins with text: a checkpoint's first lines are filled up with zeros."""
    text = block.decode(errors="replace").rstrip("\ufffd")  # cut within a character
    return bool(text) and all(character.isprintable() or character.isspace() for character in text)


_FOREIGN = {
    b"\x89HDF\r\n\x1a\n": "another HDF5 file (Keras writes such ones, and convert)",
    b"PK\x03\x04": "a ZIP archive (PyTorch's .pt, Keras's .keras, an .npz)",
    b"\x80\x02": "a pickle (PyTorch's older .pt)",
    b"\x80\x04": "a pickle",
    b"\x08": "another program's file (ONNX begins so)",
}


def _read(file: h5py.File, file_size: int, version: int) -> Checkpoint:
    """Examine everything, then read it; raises InvalidError, or whatever h5py and json raise."""
    if file.userblock_size != USER_BLOCK:
        raise InvalidError(f"HDF5 begins at byte {file.userblock_size}, must begin at byte {USER_BLOCK}")
    groups = _examine(file, file_size)
    values = _read_attributes(file, groups.pop(""), file_size)
    if (found := values.pop("format")) != _format(version):
        raise InvalidError(f"format {found!r}, must be {_format(version)!r}")
    parameters, scaling = groups.pop("/parameters", {}), groups.pop("/standardization", None)
    if groups.pop("/optimizer", None) != {}:
        raise InvalidError("/optimizer must be a group, and hold groups alone")
    if foreign := [path for path in groups if not path.startswith("/optimizer/")]:
        raise InvalidError(f"{foreign[0]} is a group, must be an array or not be there")
    optimizer = {path.removeprefix("/optimizer/"): arrays for path, arrays in groups.items()}
    check_arrays(parameters, optimizer, scaling)
    check_outputs(parameters, values["classes"], values.get("targets"))

    names = parameter_names(len(parameters) // 2)
    expected_sha256 = values.pop("parameters_sha256")
    checkpoint = Checkpoint(
        parameters={name: parameters[name][()] for name in names},
        optimizer={slot: {name: arrays[name][()] for name in names} for slot, arrays in optimizer.items()},
        standardization=None if scaling is None else {name: array[()] for name, array in scaling.items()},
        **values,
    )
    check_config(checkpoint)
    check_finite(checkpoint)
    for name in ("epoch", "step"):
        if (found := checkpoint.progress.get(name, values[name])) != values[name]:
            raise InvalidError(f"{name} is {values[name]}, but its progress says {found!r:.40}")
    if checkpoint.parameters_sha256 != expected_sha256:
        raise InvalidError("parameters_sha256 is not that of its parameters")
    return checkpoint


def _examine(file: h5py.File, file_size: int) -> dict[str, dict[str, h5py.Dataset]]:
    """Return the path of each group, and its arrays by name, none of them read.

    Raises InvalidError unless each member is a group or an array of its own, and all of them fit into the file.
    """
    groups: dict[str, dict[str, h5py.Dataset]] = {"": {}}
    seen = {h5py.h5o.get_info(file["/"].id).addr}
    left = file_size
    for path in (paths := [""]):  # grows as groups are found
        for name in file[path or "/"]:
            here = f"{path}/{name}"
            if not NAME.fullmatch(name):
                raise InvalidError(f"{path or '/'} holds {name!a}, {NAMES}")
            if not isinstance(file.get(here, getlink=True), h5py.HardLink):
                raise InvalidError(f"{here} is a link to elsewhere")
            member = file[here]
            if (address := h5py.h5o.get_info(member.id).addr) in seen:
                raise InvalidError(f"{here} is a second link to another object")
            seen.add(address)
            if len(member.attrs) > 0:
                raise InvalidError(f"{here} has attributes of its own")
            if isinstance(member, h5py.Group):
                paths.append(here)
                groups[here] = {}
            elif isinstance(member, h5py.Dataset):
                left -= _stored_size(member, here, file_size)
                if left < 0:
                    raise InvalidError(f"{here} and the arrays before it are larger than the file")
                groups[path][name] = member
            else:
                raise InvalidError(f"{here} is a named type, must be an array or a group")
    return groups


def _stored_size(dataset: h5py.Dataset, path: str, file_size: int) -> int:
    """Return the bytes of an array, or raise InvalidError unless all of them are in this file, as they are."""
    creation = dataset.id.get_create_plist()
    # First of all the storage: even the shape of a virtual data set may come out of other files.
    if creation.get_layout() != h5py.h5d.CONTIGUOUS or creation.get_external_count() or creation.get_nfilters():
        raise InvalidError(f"{path} must be stored contiguously in this file, unfiltered")
    if dataset.shape is None or not (dataset.dtype.str in ("<f4", "<f8") or dataset.dtype.kind == "S"):
        raise InvalidError(f"{path} must be little-endian, of type float32, float64 or text of fixed size")
    size: int = math.prod(dataset.shape) * dataset.dtype.itemsize
    offset = dataset.id.get_offset()  # None where nothing was ever written
    if dataset.id.get_storage_size() != size or offset is None or offset + size > file_size:
        raise InvalidError(f"{path} is declared with {size} bytes, which are not in the file")
    return size


def _read_attributes(file: h5py.File, texts: dict[str, h5py.Dataset], file_size: int) -> dict[str, Any]:
    """Return the root's attributes, JSON decoded; `texts` are the root's data sets, attributes that were too long."""
    there = {*file.attrs, *texts}
    if len(there) != len(file.attrs) + len(texts) or there - _OPTIONAL.keys() != _ATTRIBUTES.keys():
        raise InvalidError(f"root attributes are {sorted([*file.attrs, *texts])!a}, must be {sorted(_ATTRIBUTES)}")
    values: dict[str, Any] = {}
    for name, kind in (_ATTRIBUTES | {name: kind for name, kind in _OPTIONAL.items() if name in there}).items():
        stored = texts[name].id if name in texts else file.attrs.get_id(name)
        scalar = stored.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
        right = stored.dtype == "<i8" if kind is int else stored.dtype.kind == "S"
        if not (scalar and right and stored.dtype.itemsize <= file_size):
            raise InvalidError(f"attribute {name} must be one {'integer' if kind is int else 'text'}")
        value = texts[name][()] if name in texts else file.attrs[name]
        values[name] = int(value) if kind is int else value.decode("ascii")
        if name in _JSON_ATTRIBUTES or name in _OPTIONAL:
            values[name] = json.loads(values[name])
            if not isinstance(values[name], kind):
                raise InvalidError(f"attribute {name} must be a JSON {'object' if kind is dict else 'array'}")
    if min(values["epoch"], values["step"]) < 0:
        raise InvalidError(f"epoch {values['epoch']}, step {values['step']}: must not be negative")
    if not all(isinstance(label, str) for label in values["classes"]):
        raise InvalidError("attribute classes must be a JSON array of texts")
    _check_inputs(values.get("inputs", {}))
    return values | {"classes": tuple(values["classes"])}


def _check_inputs(inputs: dict[str, Any]) -> None:
    names, shape, recipe = (inputs.get(name) for name in ("features", "feature_shape", "recipe"))
    if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
        raise InvalidError("inputs: features must be an array of texts")
    if not (shape is None or (isinstance(shape, list) and all(isinstance(extent, int) for extent in shape))):
        raise InvalidError("inputs: feature_shape must be an array of integers")
    if not (recipe is None or isinstance(recipe, str)):
        raise InvalidError("inputs: recipe must be a text")
