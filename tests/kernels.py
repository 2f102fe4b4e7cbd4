"""How tests run a program as another kernel class of this processor would, for the hashes that files name by class."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Program

KERNEL = (
    "import json\nfrom ddp_mlp.verification.golden import kernel_class\nprint(json.dumps(kernel_class()._asdict()))"
)


def environment_of(kernel: Mapping[str, Any]) -> dict[str, str]:
    """Return what makes a program choose a kernel class's BLAS kernels and vector instructions, where it can."""
    config: Any = np.show_config(mode="dicts")
    found_here = config["SIMD Extensions"].get("found", [])
    beyond = [name for name in found_here if name not in kernel["simd"] and not name.startswith("AVX512_")]
    if beyond:
        beyond += [name for name in found_here if name.startswith("AVX512_")]  # they need what is switched off
    return {"OPENBLAS_CORETYPE": kernel["architecture"], "NPY_DISABLE_CPU_FEATURES": " ".join(beyond)}


def skip_unless_kernel(kernel: Mapping[str, Any], run_python: Program) -> dict[str, str]:
    """Return the environment of a kernel class; skip the test where this processor or software has another."""
    env = environment_of(kernel)
    outcome = run_python("-c", KERNEL, env=env)
    if outcome.returncode != 0:
        pytest.skip(f"{kernel['architecture']}: not run by this processor (exit code {outcome.returncode})")
    found = json.loads(outcome.stdout)
    differs = {name: value for name, value in found.items() if value != kernel[name]}
    if differs:
        pytest.skip(f"no hashes for {differs}; the file has { ({name: kernel[name] for name in differs}) }")
    return env


def path_of_numpys_blas() -> str:
    """Return the file of NumPy's own OpenBLAS; skip the test where NumPy comes without one."""
    found = sorted((Path(np.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas*"))
    if not found:
        pytest.skip("this NumPy has not brought its BLAS")
    return str(found[0])
