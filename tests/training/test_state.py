"""Tests of training/state.py: what ranks compare."""

import numpy as np

from ddp_mlp.training.state import checksum


def test_the_checksum_sees_each_bit() -> None:
    """One bit anywhere changes it."""
    array = np.arange(100, dtype=np.float32)
    seen = {checksum(array)}
    for byte in range(0, array.nbytes, 7):
        changed = array.copy()
        changed.view(np.uint8)[byte] ^= 1 << byte % 8
        seen.add(checksum(changed))
    assert len(seen) == 1 + len(range(0, array.nbytes, 7))
