"""The figures on the pages are those of the measurement that is kept, and of the scaling model as it is now."""

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from scripts.tools import figures
from tests.conftest import ROOT

REMEDY = "python scripts/tools/figures.py makes it anew"
TURNS = {
    "exact P=2 K=2": [0.002, 0.004, 0.003],
    "exact P=1 K=1": [0.004, 0.008, 0.004],
    "exact P=1 K=8": [0.005, 0.005, 0.005],
    "products 1 core": [0.003, 0.004, 0.002],
    "allreduce P=1": [0.004, 0.004, 0.006],
    "allreduce P=2": [0.002, 0.008, 0.006],
    "portable P=1": [0.012, 0.016, 0.012],
    "portable P=2": [0.006, 0.008, 0.009],
    "PyTorch 2 threads": [0.001, 0.002, 0.006],
    "PyTorch DDP gloo P=2": [0.004, 0.012, 0.006],
    "JAX all cores": [0.002, 0.006, 0.006],
    "scikit-learn": [0.02, 0.02, 0.03],
}
"""Of one network, three turns in which the machine was not equally fast."""


def measurement(path: Path, network: str = "64-128-10@256", **changes: object) -> Path:
    """Write what benchmark.py writes."""
    about = {"processor": "Acme 7 (family 1, model 2)", "cores": 2, "repeats": 3}
    versions = {"ddp_mlp": "9.8.7", "NumPy": "2.0", "BLAS": "openblas 1 Haswell"}
    found = {**about, "versions": versions, "seconds_per_step": {network: TURNS}, **changes}
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(("page", "name"), [key for key in figures.MADE if key[1] != "scaling"])
def test_measured_figures_are_on_the_pages(page: str, name: str) -> None:
    """What a page says of speed is made of the measurement in docs/figures, and of nothing else."""
    if not figures.KEPT.exists():
        pytest.skip("these figures are older than the script: benchmark.py has not been run since")
    made = figures.MADE[page, name](figures.measured([figures.KEPT]))
    assert dict(figures.marked((ROOT / page).read_text()))[name] == made, REMEDY


def test_predicted_figures_are_on_the_page() -> None:
    """The table of predictions is what the model says; the rows that take seconds are left to the script."""
    [there] = [text for name, text in figures.marked((ROOT / "docs/scaling.md").read_text()) if name == "scaling"]
    small = [case for case in figures.SCALED if case[0] <= 512]
    for line in figures.table_of_scaling(small).splitlines():
        assert line in there.splitlines(), REMEDY
    assert len(there.splitlines()) == len(figures.SCALED) + 2


def test_ratios_are_formed_within_a_turn(tmp_path: Path) -> None:
    """Medians by hand: of times, and of ratios of the same turn, not the ratio of medians."""
    speed = figures.measured([measurement(tmp_path / "one.json")])
    row = figures.table_of_steps(speed).split("\n\n")[1].splitlines()[2]
    assert row == "| 64-128-10, batch 256 | 3.00 | 0.50 | 2.00 | 1.50 | 10.00 | 2.00 | 0.50 | 0.80 |"
    assert "- PyTorch on 64-128-10, batch 256 (0.50)" in figures.table_of_steps(speed)
    assert "Version 9.8.7 on 2 cores of an Acme 7" in figures.table_of_steps(speed)
    assert figures.table_of_portable(speed).splitlines()[2] == ("| 64-128-10, batch 256 | 12.00 | 3.00 | 8.00 | 3.00 |")
    words = figures.in_the_readme(speed)
    assert "takes 3.0 ms" in words
    assert "PyTorch 0.50, PyTorch DDP (gloo) 2.00, JAX (jitted) 1.50, scikit-learn 10.00" in words
    assert "In 1 of 4 comparisons, over 1 network, a peer is the faster." in words


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    """Parts of one measurement become one; of another machine, or without a peer, they are named."""
    one, two = measurement(tmp_path / "one.json"), measurement(tmp_path / "two.json", "8-4@16")
    assert list(figures.measured([one, two]).seconds) == ["64-128-10@256", "8-4@16"]
    with pytest.raises(SystemExit, match="different machines"):
        figures.measured([one, measurement(tmp_path / "other.json", "8-4@16", processor="another")])
    without = {name: turns for name, turns in TURNS.items() if name != "JAX all cores"}
    with pytest.raises(SystemExit, match=r"lacks\.json: 8-4@16 has no JAX all cores: install the extra bench"):
        figures.measured([measurement(tmp_path / "lacks.json", seconds_per_step={"8-4@16": without})])
    with pytest.raises(ValueError, match="no place for the figures 'speed'"):
        figures.replaced("a page\n", "speed", "figures")
