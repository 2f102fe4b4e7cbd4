"""What was proven of products, kept on disk for the next start: one small file each, in the user's cache folder.

Invariants:
- a proof is taken for what it was made of alone: its own code, library, kernel, NumPy, vector instructions, processor,
  what the environment sets, the values that functions and products come to here, shapes and dtype;
- what cannot be read, is not whole, is not the user's own or says another key is no proof, and is made again; what
  cannot be written is not kept. Neither is an error, and no bit depends on either.

DDP_MLP_CACHE names another folder; empty, nothing is kept.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from ddp_mlp.nn import kernels
from ddp_mlp.nn.buffers import Shortcuts
from ddp_mlp.parallel.host import processor_model

CACHE_VARIABLE = "DDP_MLP_CACHE"
"""The environment variable that names the folder."""
DECIDING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES")
"""Environment variables on which kernels or their blocks depend."""
MOST = 2_000
"""Files; the oldest go where there are more."""
LARGEST = 1 << 16
"""Bytes of a file."""

Proof = dict[int, Shortcuts]
"""Of every layer."""


def key_of(widths: Sequence[int], sizes: Sequence[int], dtype: np.dtype[np.generic]) -> dict[str, str]:
    """Return all that a proof for groups of these shapes depends on, by name. Local."""
    shards = tuple(sorted(set(sizes)))
    return {
        **kernels.names(),
        "processor": processor_model(),
        "environment": " ".join(f"{name}={os.environ[name]}" for name in DECIDING if name in os.environ),
        "code": _code(),
        "functions": kernels.fingerprint(dtype),
        "products": kernels.products_fingerprint(tuple(widths), shards, dtype),
        "shapes": f"{'-'.join(map(str, widths))} in {'+'.join(map(str, sizes))} {dtype}",
    }


def recall(key: dict[str, str]) -> Proof | None:
    """Return what was proven under a key, or None."""
    folder = cache_folder()
    if folder is None:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        with open(_file(folder, key), "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or found.st_mode & 0o022:  # others could have written it
                return None
            text = file.read(LARGEST)
        kept = json.loads(text)
        if kept["key"] == key and kept["sha256"] == _digest(key, kept["layers"]):
            return {l: Shortcuts(*layer) for l, layer in enumerate(kept["layers"], start=1)}
    return None


def remember(key: dict[str, str], proof: Proof) -> None:
    """Keep what was proven under a key, where that is possible."""
    folder = cache_folder()
    if folder is None:
        return
    layers = [list(proof[l]) for l in sorted(proof)]
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _forget_the_oldest(folder)
        handle, part = tempfile.mkstemp(dir=folder, prefix=".part-")
        try:
            with open(handle, "w") as file:
                json.dump({"key": key, "layers": layers, "sha256": _digest(key, layers)}, file)
            os.replace(part, _file(folder, key))
        except BaseException:
            os.unlink(part)
            raise


def cache_folder() -> Path | None:
    """Return the folder of proofs, which need not be there; None where none is to be kept."""
    asked = os.environ.get(CACHE_VARIABLE)
    if asked is not None:
        return Path(asked) / "proofs" if asked else None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "ddp_mlp" / "proofs" if os.path.isabs(home) else None


def _file(folder: Path, key: dict[str, str]) -> Path:
    return folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]}.json"


def _digest(key: dict[str, str], layers: list[list[bool]]) -> str:
    return hashlib.sha256(json.dumps([key, layers], sort_keys=True).encode()).hexdigest()


def _forget_the_oldest(folder: Path) -> None:
    """Delete half of the files where there are too many."""
    with os.scandir(folder) as entries:
        files = [(entry.stat().st_mtime, entry.path) for entry in entries]
    for _, path in sorted(files)[: len(files) // 2] if len(files) > MOST else []:
        with suppress(OSError):
            os.unlink(path)


@cache
def _code() -> str:
    """Return a hash of the code that proves and multiplies."""
    room = Path(__file__).parent
    nn = room.with_name("nn")
    files = (room / "proven.py", nn / "blas.py", nn / "cblas.py", nn / "backprop.py", nn / "buffers.py")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
