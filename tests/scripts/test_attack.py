"""Tests of the attack on the promise: a short form of it finds nothing, and it finds what is planted."""

from typing import Any

import numpy as np
import pytest

from ddp_mlp.nn.targets import LOSSES
from ddp_mlp.summing import between
from ddp_mlp.summing.tree import Additions
from scripts.tools import attack
from tests.conftest import Program

NARROW = """
import numpy as np
from scripts.tools.attack import data_of_arrays, standardization_of, train_in_memory
from ddp_mlp.config import Config
from tests.simulated_mpi import World

random = np.random.default_rng({seed})
X, y = random.standard_normal(({rows}, {features})).astype({dtype!r}), np.arange({rows}) % {classes}
keys = dict(dtype={dtype!r}, hidden={hidden}, shards={shards}, batch_size={batch})
config = Config(**keys, epochs=1, max_steps=5, quiet=True)
data = data_of_arrays(X, y, None, tuple(map(str, range({classes}))), standardization_of(X, None), config)

def program(communicator):
    return train_in_memory(config, data, communicator).events[-1]["parameters_sha256"]

print(len({{World(P, 1).run(program)[0] for P in {ranks}}}), end="")
"""


def test_a_short_attack_finds_nothing() -> None:
    """Forty cases, four of them from files, on two to nine simulated ranks."""
    assert attack.attack(1, range(40), 0) == []


def test_a_short_attack_on_every_loss_finds_nothing() -> None:
    """Each loss three times; none ends by an error."""
    assert attack.attack(1, range(3 * len(LOSSES)), 0, losses=True) == []
    found = [attack.with_a_loss(attack.draw(1, number), 1) for number in range(len(LOSSES))]
    assert [case.keys["loss"] for case in found] == list(LOSSES)


@pytest.mark.parametrize("losses", [False, True])
def test_an_attack_finds_a_tree_that_depends_on_p(losses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partials added from left to right, as many as there happen to be, are found by name of the case."""

    def faulty(root: Any, terms: Any, m: int, K: int) -> Additions:
        present = [i for i, (lo, hi) in enumerate(terms) if m * lo // K < m * hi // K and root[0] <= lo < root[1]]
        return Additions(tuple((present[0], i) for i in present[1:]), present[0] if present else None)

    monkeypatch.setattr(between, "additions", faulty)
    found = attack.attack(1, range(20), 0, losses=losses)
    assert found
    assert all(problem.startswith("case ") for problem in found)


@pytest.mark.parametrize("core", ["", "Prescott"])
def test_products_of_a_row_and_a_column_do_not_depend_on_addresses(core: str, run_python: Program) -> None:
    """OpenBLAS's Katmai kernels add up inner products of float64 by address, and a shard's depends on its group."""
    keys = {"seed": 10, "rows": 40, "features": 31, "dtype": "float64", "classes": 3, "hidden": (1,), "shards": 5}
    program = NARROW.format(**keys, batch=4, ranks=(1, 2, 3))
    done = run_python("-c", program, env={"OPENBLAS_CORETYPE": core} if core else {})
    assert done.stdout == "1", done.stderr


def test_shards_of_two_rows_have_the_bits_of_each(run_python: Program) -> None:
    """Where a proof had nothing but zeros to compare, BLAS added products in an order of its own."""
    keys = {"seed": 0, "rows": 64, "features": 7000, "dtype": "float32", "classes": 10, "hidden": (), "shards": 8}
    done = run_python("-c", NARROW.format(**keys, batch=16, ranks=(1, 2, 4, 8)))
    assert done.stdout == "1", done.stderr


def test_a_case_is_a_function_of_seed_and_number() -> None:
    """Drawn again, a case is the same; another seed's is another."""
    assert attack.draw(3, 17) == attack.draw(3, 17)
    assert attack.draw(3, 17) != attack.draw(4, 17)
    X, y, _ = attack.examples(attack.draw(3, 17))
    assert np.array_equal(X, attack.examples(attack.draw(3, 17))[0])
    assert set(y) == set(range(attack.draw(3, 17).classes))
