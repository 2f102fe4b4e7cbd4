"""The modules on the way of a portable run call nothing whose bits a processor, BLAS or NumPy version may choose.

Read, not run: each attribute of `np` and `math` in these modules must be known to be exact, or the place is named.
"""

import ast
from pathlib import Path

import pytest

import ddp_mlp

PACKAGE = Path(ddp_mlp.__file__).parent

EXACT = {
    *("asfortranarray", "diag", "isnan", "isinf", "logical_or"),
    # + − × ÷ √ and what rounds once, or not at all
    *(
        "add",
        "subtract",
        "multiply",
        "divide",
        "negative",
        "sqrt",
        "square",
        "abs",
        "rint",
        "frexp",
        "ldexp",
        "copysign",
    ),
    *("right_shift", "bitwise_and"),
    *("minimum", "maximum", "clip", "sign", "where", "isfinite", "fmax", "fmin"),
    *("greater", "greater_equal", "less", "equal", "not_equal"),
    # counts, places, shapes, memory
    *(
        "argsort",
        "argmax",
        "argmin",
        "flatnonzero",
        "bincount",
        "cumsum",
        "arange",
        "ogrid",
        "ix_",
        "concatenate",
        "prod",
        "any",
        "all",
        "unique",
        "count_nonzero",
    ),
    *("zeros", "ones", "empty", "full", "empty_like", "zeros_like", "array", "asarray", "ascontiguousarray", "copyto"),
    *(
        "array_equal",
        "argwhere",
        "errstate",
        "result_type",
        "finfo",
        "shares_memory",
        "searchsorted",
        "repeat",
        "min",
        "max",
    ),
    # names
    *(
        "ndarray",
        "ufunc",
        "dtype",
        "float32",
        "float64",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint64",
        "bool_",
        "integer",
        "floating",
    ),
    *("inf", "nan", "newaxis", "random", "generic"),
}
"""Of NumPy: one rounding per element, whole numbers, or no arithmetic at all. `cumsum`, `prod` are of whole numbers."""

MATH = {"prod", "sqrt", "isfinite", "isnan", "inf", "nan", "pi", "frexp", "ldexp", "ceil", "floor", "fsum"}
"""Of math: IEEE 754's, or (fsum) rounded once whatever the order."""

MODULES = {
    "nn": (
        "blocks",
        "cosine",
        "formulas",
        "elementary",
        "products",
        "portable",
        "lines",
        "rounding",
        "activations",
        "architecture",
        "randomness",
        "arithmetic",
        "functions",
    ),
    "nn/": ("outputs", "optimizers", "schedules", "standardization", "parameters", "buffers", "targets"),
    "data": ("order", "held_out", "survey", "batches", "memory", "targets", "access", "opening", "rounded", "stream"),
    "storage": ("survey",),
    "summing": ("agreement", "between", "plan", "tallies", "totals", "tree"),
    "training": ("portable_step", "update", "trainer", "loop", "state", "progress", "saving_rules"),
    "training/": ("batches", "building", "in_memory", "starting"),
    "inference": ("evaluate", "network", "apply", "scores", "metrics", "numbers"),
}

NAMED = {
    # of whole numbers of one unit, below 2⁵³: exact in any order
    ("nn/portable.py", "matmul"): "weight_gradient: rounded operands",
    ("nn/portable.py", "maximum.reduce"): "a maximum",
    ("nn/blocks.py", "maximum.reduce"): "a maximum",
    ("nn/blocks.py", "minimum.reduce"): "a minimum",
    ("nn/lines.py", "add.reduce"): "of whole numbers",
    ("nn/rounding.py", "maximum.reduce"): "a maximum",
    ("nn/rounding.py", "maximum.reduceat"): "maxima",
    ("nn/products.py", "matmul"): "the exact product",
    ("nn/products.py", "maximum.reduce"): "a maximum",
    ("nn/products.py", "minimum.reduce"): "a minimum",
    ("training/portable_step.py", "maximum.reduce"): "a maximum",
    # native's own, which `Arithmetic` or the portable branch keeps away
    ("nn/arithmetic.py", "sum"): "native_sum_rows",
    ("nn/arithmetic.py", "math.pow"): "NATIVE",
    ("nn/arithmetic.py", "math.cos"): "NATIVE",
    ("nn/functions.py", "add.reduce"): "native_sum",
    ("nn/functions.py", "exp"): "NATIVE",
    ("nn/functions.py", "expm1"): "NATIVE",
    ("nn/functions.py", "log"): "NATIVE",
    ("nn/functions.py", "log1p"): "NATIVE",
    ("nn/functions.py", "tanh"): "NATIVE",
    ("training/update.py", "add.reduce"): "native's norm",
    ("inference/evaluate.py", "sum"): "native's weights",
    # of one kind or the other, but of no number of a run
    ("nn/outputs.py", "add.reduce"): "a shard's loss, which portable steps form from the examples' again",
    ("nn/outputs.py", "maximum.reduce"): "a maximum",
    ("nn/outputs.py", "sum"): "of booleans",
    ("inference/apply.py", "sum"): "of counts",
    ("inference/metrics.py", "sum"): "of counts",
    ("data/opening.py", "sum"): "of counts",
    ("data/opening.py", "average"): "native's mean",
    ("inference/scores.py", "sum"): "of counts",
    ("storage/survey.py", "sum"): "of booleans",
    ("inference/scores.py", "add.at"): "of counts",
    ("nn/products.py", "@"): "of whole numbers, and a long sum's exact pieces",
    ("nn/optimizers.py", "operator.pow"): "native's default",
    ("nn/arithmetic.py", "operator.pow"): "NATIVE",
}


REDUCING = ("reduce", "accumulate", "reduceat", "outer", "at")
METHODS = ("sum", "mean", "std", "var", "dot", "average", "cumprod", "trace")


def calls(tree: ast.AST) -> set[str]:
    """Return what a module uses of np, math and operator, with reductions as "maximum.reduce", and methods that sum."""
    found = set()
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            found.add("@")
        if not isinstance(node, ast.Attribute):
            continue
        names = ast.unparse(node).split(".")
        if names[0] in ("np", "numpy") and (len(names) < 3 or names[2] in REDUCING):
            found.add(".".join(names[1:]))
        elif names[0] in ("math", "operator"):
            found.add(".".join(names))
        elif id(node) in called and node.attr in METHODS and names[0] not in ("np", "numpy"):
            found.add(node.attr)
    return {name for name in found if f"{name}.reduce" not in found and f"{name}.at" not in found}


def forbidden(path: str, source: str) -> set[str]:
    """Return what a module uses that is neither exact nor named."""
    used = calls(ast.parse(source))
    allowed = EXACT | {f"math.{name}" for name in MATH}
    return {name for name in used - allowed if (path, name) not in NAMED}


PATHS = [f"{room.rstrip('/')}/{name}.py" for room, names in MODULES.items() for name in names]


@pytest.mark.parametrize("path", PATHS)
def test_a_module_calls_nothing_else(path: str) -> None:
    """What is not known to be exact stands in the list of places, with the reason."""
    assert forbidden(path, (PACKAGE / path).read_text("utf-8")) == set()


def test_what_is_named_is_there() -> None:
    """No place is excused that has gone."""
    for path, name in NAMED:
        assert path in PATHS
        assert name in calls(ast.parse((PACKAGE / path).read_text("utf-8"))), (path, name)


@pytest.mark.parametrize(
    "planted",
    [
        "np.exp(x)",
        "x.sum()",
        "np.mean(x)",
        "x @ y",
        "np.dot(x, y)",
        "math.exp(1)",
        "np.add.reduce(x)",
        "np.linalg.norm(x)",
    ],
)
def test_a_planted_call_is_refused(planted: str) -> None:
    """Each would change with the processor."""
    assert forbidden("nn/optimizers.py", f"import math\nimport numpy as np\nvalue = {planted}\n")
