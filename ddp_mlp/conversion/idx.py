"""Arrays in the IDX format of MNIST."""

from pathlib import Path

import numpy as np

from ddp_mlp.conversion.arrays import StoredArray
from ddp_mlp.conversion.source import open_stream, reading, unpacked_size

IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(path: Path) -> StoredArray:
    """Describe an array in the IDX format of MNIST (its web page): 0, 0, type, rank, then big-endian sizes."""
    with reading(path), open_stream(path) as stream:
        _, _, kind, rank = stream.read(4)
        sizes = stream.read(4 * rank)
        if len(sizes) < 4 * rank:
            raise EOFError("it is cut short")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    dtype, start = np.dtype(IDX_DTYPES[kind]), 4 + 4 * rank
    return StoredArray(path, str(path), shape, dtype, start, lambda: open_stream(path), unpacked_size(path))
