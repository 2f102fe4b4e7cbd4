"""Trained weights in the files of other programs: .npz and .safetensors, read and written; checkpoints read too.

Invariants:
- `W1` (n_1, n_0), `b1` (n_1,), `W2` (n_2, n_1), … are the only names above this module. A PyTorch `state_dict`, whose
  linear layers are `weight` (out, in) and `bias` (out,), is put in their order and renamed: layers follow one another
  in the order of the numbers in their names (`2.weight` before `10.weight`), and the widths must fit.
- What is read is checked: real finite numbers, and shapes that make a network. Nothing is unpickled.
"""

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import ConfigError, DataError, ProgramError, StorageError
from ddp_mlp.nn.targets import Targets
from ddp_mlp.storage import checkpoints
from ddp_mlp.storage.atomic import write_atomically
from ddp_mlp.storage.checkpoint import FUNCTIONS, Checkpoint
from ddp_mlp.storage.regular import open_regular

Arrays = dict[str, NDArray[Any]]

PLAIN = {name: FUNCTIONS[name] for name in ("activation", "output_activation")}
"""The functions of a network that says nothing of them: version 0.1's."""
MOST_BYTES, MOST_TIMES = 1 << 30, 50
"""An archive that would become more bytes than both, and than so many times itself, is no network."""


class StoredNetwork(NamedTuple):
    """A network, with what belongs to it where the file knows."""

    parameters: Arrays
    """`W1` (n_1, n_0), `b1` (n_1,), …"""
    standardization: Arrays | None
    """`mean` and `scale`, (n_0,) float64."""
    classes: tuple[str, ...] | None
    targets: Targets | None = None
    """Of a network whose outputs are numbers."""
    functions: Mapping[str, str] | None = None
    """`activation` and `output_activation`, as the configuration has them, where they are known."""
    features: tuple[str, ...] | None = None
    """The names of the n_0 features."""


def of_checkpoint(found: Checkpoint) -> StoredNetwork:
    """Return the network in a checkpoint."""
    targets = Targets.from_dict(found.targets) if found.targets is not None else None
    functions = {name: str(found.config.get(name, default)) for name, default in PLAIN.items()}
    named = found.inputs.get("features")
    features = None if named is None else tuple(named)
    return StoredNetwork(
        dict(found.parameters), found.standardization, found.classes or None, targets, functions, features
    )


def arranged(
    given: StoredNetwork,
    classes: tuple[str, ...] | None,
    features: tuple[str, ...] | None,
    targets: tuple[str, ...],
    where: str,
) -> StoredNetwork:
    """Return a network whose outputs and inputs are in the order of these classes or targets, and features, by name.

    Names that are numbers 0, 1, … are none where the others are not the same in another order, nor are targets of which
    one has another name. Raises ConfigError, beginning with `where`, where another name is not there.
    """
    parameters, standardization, own = dict(given.parameters), given.standardization, given.targets
    last = len(parameters) // 2
    outputs = _places(given.classes, classes, f"{where}: its classes")
    if own is not None and sorted(own.names) == sorted(targets) and own.names != targets:
        order, levels = [own.names.index(name) for name in targets], len(own.quantiles) or 1
        outputs = [k * levels + j for k in order for j in range(levels)]
        mean, scale = (tuple(values[k] for k in order) for values in (own.mean, own.scale))
        own = replace(own, names=targets, mean=mean, scale=scale)
    if outputs is not None:
        parameters |= {f"W{last}": parameters[f"W{last}"][outputs], f"b{last}": parameters[f"b{last}"][outputs]}
    inputs = _places(given.features, features, f"{where}: its features")
    if inputs is not None:
        parameters["W1"] = np.ascontiguousarray(parameters["W1"][:, inputs])
        if standardization is not None:
            standardization = {name: array[inputs] for name, array in standardization.items()}
    return given._replace(parameters=parameters, standardization=standardization, targets=own)


def _places(given: tuple[str, ...] | None, wanted: tuple[str, ...] | None, what: str) -> list[int] | None:
    """Return where each wanted name is among those given; None where they are as they should be, or no names."""
    if given is None or wanted is None or given == wanted:
        return None
    numbers = tuple(map(str, range(len(given))))
    if len(given) != len(wanted) or (numbers in (given, wanted) and {*given} != {*wanted}):
        return None  # no names; or whoever looks at the widths says what is wrong
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ConfigError(f"{what} are {', '.join(given[:10])}, and the data's {missing[0]!r} is none of them")
    return [given.index(name) for name in wanted]


def widths(parameters: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    """Return (n_0, …, n_L), the widths of the network with these parameters."""
    layers = len(parameters) // 2
    return (parameters["W1"].shape[1], *(len(parameters[f"b{l}"]) for l in range(1, layers + 1)))


def read(path: str | Path) -> StoredNetwork:
    """Read .npz, .safetensors, or else a checkpoint file or run folder. Local.

    Raises StorageError where it cannot be read, DataError where it does not hold a network, ConfigError where the
    library for it is not installed.
    """
    path = Path(path)
    if path.suffix == ".npz":
        tensors, words = _read_npz(path)
    elif path.suffix == ".safetensors":
        tensors, words = _read_safetensors(path)
    else:
        return of_checkpoint(checkpoints.find(path))
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
            raise DataError(f"{path}: {name} is {tensor.dtype}: must be finite floating-point numbers")
    given: Arrays = {name: tensors.pop(name).astype(np.float64) for name in ("mean", "scale") if name in tensors}
    maps = {name: tensors.pop(name, None) for name in ("target_mean", "target_scale")}
    parameters = _in_order(tensors, path)
    features = parameters["W1"].shape[1]
    if given and not (len(given) == 2 and all(array.shape == (features,) for array in given.values())):
        raise DataError(f"{path}: mean and scale must both be there, one number for each of the {features} features")
    if given and not (given["scale"] > 0).all():
        raise DataError(f"{path}: scale must be above 0 for every feature")
    names = words.get("features")
    named = names if names and len(names) == features else None
    targets = _targets(words, maps, len(parameters[f"b{len(parameters) // 2}"]), path)
    functions = {name: words[name][0] for name in PLAIN if words.get(name)} or None
    return StoredNetwork(parameters, given or None, words.get("classes") or None, targets, functions, named)


def _targets(
    words: Mapping[str, tuple[str, ...]], maps: Mapping[str, NDArray[Any] | None], outputs: int, path: Path
) -> Targets | None:
    """Return the numbers that a file names, with the map into their units; None where it names none."""
    names = words.get("targets")
    if not names:
        return None
    n = len(names)
    try:
        found = Targets.from_dict(
            {
                "loss": (words.get("loss") or ("squared_error",))[0],
                "names": names,
                "mean": np.zeros(n) if maps["target_mean"] is None else maps["target_mean"].ravel(),
                "scale": np.ones(n) if maps["target_scale"] is None else maps["target_scale"].ravel(),
                "quantiles": words.get("quantiles", ()),
            }
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if found.outputs != outputs:
        raise DataError(f"{path}: names {found.outputs} outputs, but the network has {outputs}")
    return found


def _words(weights: StoredNetwork) -> dict[str, tuple[str, ...]]:
    """Return what is said of a network besides its numbers, as far as there is something to say."""
    targets, functions = weights.targets, dict(weights.functions or {})
    words = {"classes": weights.classes or (), "features": weights.features or ()}
    if targets is not None and targets.names:
        words |= {"targets": targets.names, "loss": (targets.loss,), "quantiles": tuple(map(repr, targets.quantiles))}
    words |= {name: (value,) for name, value in functions.items()}
    return {name: word for name, word in words.items() if word}


def _maps(weights: StoredNetwork) -> Arrays:
    """Return mean and scale of inputs and of targets, float64, as far as there are any."""
    found, targets = dict(weights.standardization or {}), weights.targets
    if targets is not None and targets.names and not targets.probabilities:
        found |= {"target_mean": np.array(targets.mean), "target_scale": np.array(targets.scale)}
    return found


def write_npz(path: Path, weights: StoredNetwork) -> None:
    """Write W1, b1, …, and what belongs to the network: mean, scale, target_mean, target_scale, and names as text.

    Atomically. Raises StorageError.
    """
    arrays = {**weights.parameters, **_maps(weights)}
    arrays |= {name: np.array(words) for name, words in _words(weights).items()}
    image = io.BytesIO()
    np.savez(image, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    write_atomically(path, image.getvalue())


def write_safetensors(path: Path, weights: StoredNetwork) -> None:
    """Write `0.weight`, `0.bias`, `2.weight`, …, and what belongs to the network: names as JSON in the metadata.

    The names are those of `torch.nn.Sequential(Linear, ReLU, Linear, …)`. Atomically. Raises StorageError, or
    ConfigError where safetensors is not installed.
    """
    library = _safetensors(path)
    tensors = _maps(weights)
    for l in range(1, len(weights.parameters) // 2 + 1):
        tensors[f"{2 * (l - 1)}.weight"] = weights.parameters[f"W{l}"]
        tensors[f"{2 * (l - 1)}.bias"] = weights.parameters[f"b{l}"]
    metadata = {name: json.dumps(words) for name, words in _words(weights).items()} or None
    image = library.save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)
    write_atomically(path, _ordered(image))


def _ordered(image: bytes) -> bytes:
    """Return a .safetensors file with its metadata in one order: the library's changes from call to call."""
    length = int.from_bytes(image[:8], "little")
    header = json.loads(image[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin on a multiple of 8
    return len(text).to_bytes(8, "little") + text + image[8 + length :]


Named: TypeAlias = tuple[Arrays, dict[str, tuple[str, ...]]]
"""Tensors, and words: the names of classes, features and targets, the loss, its quantiles, the activations."""
WORDS = ("classes", "features", "targets", "loss", "quantiles", *PLAIN)


@contextmanager
def _refused(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises over a damaged or hostile file into one line."""
    try:
        yield
    except ProgramError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zlib.error, NotImplementedError, RuntimeError, AttributeError, RecursionError, …
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: is not {what} ({reason})") from error


def _read_npz(path: Path) -> Named:
    with _refused(path, "an .npz file of arrays"), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        size, whole = os.fstat(file.fileno()).st_size, sum(member.file_size for member in members)
        if whole > MOST_BYTES and whole > MOST_TIMES * size:
            raise ValueError(f"{size} bytes would become {whole}")
        tensors = {member.filename.removesuffix(".npy"): _read_npy(archive, member) for member in members}
    found = {name: tensors.pop(name) for name in WORDS if name in tensors}
    return tensors, {name: tuple(str(word) for word in array.ravel()) for name, array in found.items()}


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Return an array of an archive; the size it declares is the size that is there, before memory is taken for it."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = header[version](file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects, which are not read")
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - file.tell():
            raise ValueError(f"{member.filename} declares {size} bytes, and has {member.file_size - file.tell()}")
        content = file.read(size + 1)  # to the end, where the checksum is compared
        if len(content) != size:
            raise ValueError(f"{member.filename} declares {size} bytes, and has {len(content)}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _read_safetensors(path: Path) -> Named:
    library = _safetensors(path)
    from safetensors import safe_open

    with _refused(path, "a .safetensors file for NumPy"):
        open_regular(path).close()
        tensors = library.load_file(path)
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        words = {name: tuple(map(str, json.loads(metadata[name]))) for name in WORDS if name in metadata}
        return tensors, words


def _safetensors(path: Path) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ConfigError(f'{path}: needs safetensors: pip install "ddp_mlp[safetensors]"') from error
    return safetensors.numpy


def _in_order(tensors: Mapping[str, NDArray[Any]], path: Path) -> Arrays:
    """Return {"W1": …, "b1": …} from tensors of that name, or from the linear layers of a state_dict."""
    if "W1" in tensors:
        count = len([name for name in tensors if re.fullmatch(r"W[0-9]+", name)])
        names = {f"{kind}{l}": f"{kind}{l}" for l in range(1, count + 1) for kind in "Wb"}
    else:
        layers = sorted((name for name in tensors if re.search(r"(^|\.)weight$", name)), key=_numbers)
        if len(layers) > 1 and (
            not _numbers(layers[0]) or any(_numbers(a) == _numbers(b) for a, b in pairwise(layers))
        ):
            raise DataError(
                f"{path}: {', '.join(layers[:5])} have no order: number the layers, as in 0.weight, 2.weight or W1, W2"
            )
        names = {}
        for l, weight in enumerate(layers, start=1):
            names |= {f"W{l}": weight, f"b{l}": f"{weight.removesuffix('weight')}bias"}
    if not names or set(names.values()) != set(tensors):
        odd = sorted(set(names.values()) ^ set(tensors)) or ["nothing"]
        raise DataError(f"{path}: expected W1, b1, … or linear layers with weight and bias; found or missing: {odd[0]}")
    parameters = {name: tensors[theirs] for name, theirs in names.items()}
    shapes = [parameters[f"W{l}"].shape for l in range(1, len(names) // 2 + 1)]
    for l, shape in enumerate(shapes, start=1):
        if len(shape) != 2 or 0 in shape or parameters[f"b{l}"].shape != shape[:1]:
            raise DataError(f"{path}: {names[f'W{l}']} has shape {shape}, its bias {parameters[f'b{l}'].shape}")
    for (n, _), (_, n_prev) in pairwise(shapes):
        if n != n_prev:
            raise DataError(
                f"{path}: a layer of {n} outputs is followed by one of {n_prev} inputs: not an MLP in order"
            )
    return parameters


def _numbers(name: str) -> list[tuple[int, str]]:
    """Return the numbers in a name as something that sorts as they do, however long they are."""
    found = (digits.lstrip("0") for digits in re.findall("[0-9]+", name))
    return [(len(digits), digits) for digits in found]
