"""The formats of an export, by the suffix of the file that is asked for, and what is written beside it."""

from collections.abc import Sequence
from pathlib import Path

from ddp_mlp.errors import ConfigError
from ddp_mlp.exporting.c_code import c_header, c_source
from ddp_mlp.exporting.description import Description, describe_network
from ddp_mlp.exporting.fortran_code import fortran_selftest, fortran_source
from ddp_mlp.exporting.onnx_ensemble import onnx_ensemble
from ddp_mlp.exporting.onnx_graph import onnx_graph
from ddp_mlp.exporting.panels import in_a_file, in_panels
from ddp_mlp.inference.network import Network
from ddp_mlp.storage import weights
from ddp_mlp.storage.atomic import write_atomically

SUFFIXES = (".c", ".f90", ".onnx", ".safetensors", ".npz")


def files_of(path: Path) -> list[Path]:
    """Return `path` and all that may be written beside it. Raises ConfigError for an unknown suffix."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}: the format to write")
    weights_beside = path.with_suffix(".bin")
    if path.suffix == ".c":
        return [path, path.with_suffix(".h"), weights_beside]
    return [path, _selftest_of(path), weights_beside] if path.suffix == ".f90" else [path]


def _selftest_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_selftest.f90")


def write_together(networks: Sequence[Network], path: Path) -> list[Path]:
    """Write networks that answer together to one file, which must be ONNX; atomically. Raises as `write` does."""
    if path.suffix != ".onnx":
        raise ConfigError(
            f"{path}: {len(networks)} networks together are written as .onnx alone: or export one of them"
        )
    write_atomically(path, onnx_ensemble([describe_network(network) for network in networks]))
    return [path]


def write(network: Network, path: Path) -> list[Path]:
    """Write the network to `path` in the format that its suffix names; atomically. Return the files written. Local.

    Beside a source of C stands its header; beside one of Fortran, a program that tests it; beside both, weights that
    are too many for the source. Raises ConfigError for an unknown suffix or a library that is not installed, DataError
    for a network too large for the format, StorageError where a file cannot be written.
    """
    files_of(path)
    if path.suffix in (".npz", ".safetensors"):
        used = network.standardization.used
        standardization = {"mean": network.standardization.mean, "scale": network.standardization.scale}
        functions = {"activation": network.architecture.activation, "output_activation": network.output_activation}
        found = weights.StoredNetwork(
            network.parameters,
            standardization if used else None,
            network.classes,
            network.targets,
            functions,
            network.feature_names,
        )
        write_weights = weights.write_npz if path.suffix == ".npz" else weights.write_safetensors
        write_weights(path, found)
        return [path]
    images = _images(describe_network(network), path)
    for place, image in images.items():
        write_atomically(place, image)
    return list(images)


def _images(described: Description, path: Path) -> dict[Path, bytes]:
    """Return the bytes of the file asked for, and of those beside it."""
    stem = path.stem
    if path.suffix == ".onnx":
        return {path: onnx_graph(described)}
    if path.suffix == ".c":
        texts = {path: c_source(described, stem), path.with_suffix(".h"): c_header(described, stem)}
    else:
        texts = {path: fortran_source(described, stem), _selftest_of(path): fortran_selftest(described, stem)}
    images = {place: text.encode("utf-8", "backslashreplace") for place, text in texts.items()}
    if in_a_file(described):
        images[path.with_suffix(".bin")] = in_panels(described).image()
    return images
