"""Tests of parallel/launcher.py: what is no number in a launcher's variable is none."""

import pytest

from ddp_mlp.parallel.launcher import launched_rank, launched_size


@pytest.mark.parametrize("text", ["", "²", "٣", "four", "-1", "1.5", "9" * 5000])
def test_what_is_no_number_is_passed_over(text: str) -> None:
    """Another launcher's variable counts then, or none."""
    assert launched_size({"PMI_SIZE": text}) == (1, None)
    assert launched_size({"OMPI_COMM_WORLD_SIZE": text, "PMI_SIZE": "4"}) == (4, "PMI_SIZE")
    assert launched_rank({"PMI_RANK": text}) == 0
    assert launched_rank({"PMI_RANK": text, "SLURM_PROCID": "3"}) == 3
