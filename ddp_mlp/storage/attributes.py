"""Attributes of data files that anybody may have written, read within limits.

Text of variable length lies in a heap of the file. A damaged heap can keep the HDF5 library busy without end, or make
it ask for gigabytes; so such text is read by a process of its own, with limits of time and memory. What is of variable
length and no text is not read at all.
"""

import json
import os
import subprocess
import sys
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ddp_mlp.errors import DataError

CPU_SECONDS, MEMORY_BYTES = 3, 1 << 30
"""Of the process that reads text of variable length, once it has its libraries: it takes a hundredth, and a tenth."""

_CHILD = """
import json, resource, sys, time
path, name, seconds, size = sys.argv[1:]
def lower(limit, most):
    _, allowed = resource.getrlimit(limit)
    most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(limit, (most, most))
lower(resource.RLIMIT_AS, int(size))
lower(resource.RLIMIT_CORE, 0)
import h5py, numpy
lower(resource.RLIMIT_CPU, int(time.process_time()) + int(seconds))
with h5py.File(path, "r") as file:
    values = numpy.asarray(file.attrs[name])
texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values.ravel()]
print(json.dumps([values.shape, texts]))
"""


def read_attribute(file: h5py.File, path: str, name: str) -> NDArray[Any]:
    """Return a root attribute of a file that is open; text of variable length as an array of str. Local.

    Raises DataError for what cannot be read within the limits, and for what is of variable length and no text.
    """
    attribute = file.attrs.get_id(name)
    kind = attribute.get_type()
    if 0 not in attribute.shape and attribute.get_storage_size() > os.path.getsize(path):
        raise DataError(f"{path}: attribute {name} is declared larger than the file")
    if isinstance(kind, h5py.h5t.TypeStringID):
        if not kind.is_variable_str():
            return np.asarray(file.attrs[name])
    elif kind.detect_class(h5py.h5t.VLEN) or kind.detect_class(h5py.h5t.REFERENCE):
        raise DataError(f"{path}: attribute {name} is of variable length and no text: write it as text")
    else:
        return np.asarray(file.attrs[name])
    shape, texts = _read_elsewhere(path, name)
    return np.array(texts, object).reshape(shape)


def _read_elsewhere(path: str, name: str) -> tuple[list[int], list[str]]:
    command = [sys.executable, "-c", _CHILD, os.path.abspath(path), name, str(CPU_SECONDS), str(MEMORY_BYTES)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=30 * CPU_SECONDS
        )
        shape, texts = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        reason = "text of variable length that cannot be read"
        raise DataError(f"{path}: attribute {name}: damaged, or {reason}; write it with a fixed length") from error
    return shape, texts
