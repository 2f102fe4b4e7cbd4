"""A network as one file of Fortran 2008, and a program that tests it.

Invariants:
- every constant has the bits of the model: decimal, with as many digits as its type needs;
- sums have the order that they have in C, and a row has the same bits in whatever block it stands;
- procedures are `recursive`, so that no compiler puts their arrays where threads would share them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from numpy.typing import NDArray

from ddp_mlp import __version__
from ddp_mlp.exporting import exact
from ddp_mlp.exporting.description import Description, about, variables
from ddp_mlp.exporting.literals import (
    comment,
    fill_template,
    fortran_numbers,
    fortran_string,
    identifier,
    template,
    wrapped,
)
from ddp_mlp.exporting.panels import CHUNK, Panels, in_a_file, in_panels
from ddp_mlp.nn.activations import LEAK

BLOCK = 240
"""Numbers that one DATA statement sets, and lines that one array of names takes, at most: a statement has 256 lines."""
INTEGERS = 80
"""Characters of integers that stand behind the declaration of their array."""

ACTIVATIONS = {
    "relu": ["f = merge(0.0_wp, z, z < 0)"],
    "leaky_relu": [f"f = merge({LEAK}_wp * z, z, z < 0)"],
    "elu": ["e = tanh(merge(z, 0.0_wp, z < 0) / 2)", "f = merge(2 * e / (1 - e), z, z < 0)"],
    "tanh": ["f = tanh(z)"],
    "sigmoid": ["e = exp(-abs(z))", "f = merge(e, 1.0_wp, z < 0) / (1 + e)"],
    "softplus": ["e = exp(-abs(z))", "f = merge(0.0_wp, z, z < 0) + 2 * atanh(e / (2 + e))"],
    "gelu": ["f = 0.5_wp * z * (1 + erf(z * 0.70710678118654752440_wp))"],
    "silu": ["e = exp(-abs(z))", "f = z * (merge(e, 1.0_wp, z < 0) / (1 + e))"],
    "identity": ["f = z"],
    "exp": ["f = exp(z)"],
}
"""f(z), written so that a z that is no number stays none. exp(z) − 1 = 2t / (1 − t) with t = tanh(z/2), and
log(1 + e) = 2 atanh(e / (2 + e)): Fortran has no expm1 and no log1p."""

FUNCTION = """\
    elemental function f_@name@(z) result(f)
        real(wp), intent(in) :: z
        real(wp) :: f@local@

@body@
    end function
"""

SOFTMAX = """\
        real(real64) :: total
        real(wp) :: largest
        integer :: k

        largest = z(1)
        do k = 1, outputs
            if (z(k) > largest) largest = z(k)
        end do
        total = 0
        do k = 1, outputs
            y(k) = real(exp(z(k) - largest), real64)
            total = total + y(k)
        end do
        do k = 1, outputs
            y(k) = y(k) / total
        end do"""

EXACT_SOFTMAX = """\
        real(real64) :: sums(outputs)
        real(wp) :: largest
        integer :: k, n

        largest = z(1)
        do k = 1, outputs
            if (z(k) > largest) largest = z(k)
        end do
        do k = 1, outputs
            y(k) = exact_exp(z(k) - largest)
        end do
        sums = y
        n = outputs
        do while (n > 1) ! the last n / 2 terms are added to the first
            do k = 1, n / 2
                sums(k) = sums(k) + sums(n - n / 2 + k)
            end do
            n = n - n / 2
        end do
        do k = 1, outputs
            y(k) = narrowed(y(k) / sums(1))
        end do"""

ELEMENTWISE = """\
        real(wp) :: v
        integer :: k

        do k = 1, outputs
@cases@
            y(k) = @value@
        end do"""

ACTIVATE = """
    !> Set the z of hidden layer l to f(z).
    pure subroutine activate(l, count, z)
        integer, intent(in) :: l, count
        real(wp), intent(inout) :: z(count)

@cases@
    end subroutine
"""

SETTLED_ONE = """
        call settle(features, 1, a, bits(1))"""
SETTLE_ONE = """
            if (l < layers) call settle(width(l), 1, z, bits(l + 1))"""
SETTLED_MANY = """
            do g = 1, used
                call settle(features, group, a(1, 1, g), bits(1))
            end do"""
SETTLE_MANY = """
                do g = 1, used
                    call settle(width(l), group, z(1, 1, g), bits(l + 1))
                end do"""

BITS = "\n    integer, parameter :: bits(layers) = [{}]"

CALL_ONE = """
            if (l < layers) call activate(l, panels * lanes, z)"""
CALL_MANY = """
                    if (l < layers) call activate(l, lanes * group, tiles(1, 1, g))"""

LABEL = """
    !> Return the number of the most probable class, counted from 1; of equals, the first.
    pure integer function label(y)
        real(real64), intent(in) :: y(outputs)
        integer :: k

        label = 1
        do k = 1, outputs
            if (y(k) > y(label)) label = k
        end do
    end function
"""

GUARD = """
        if (.not. loaded) then
            y = ieee_value(1.0_real64, ieee_quiet_nan)
            return
        end if"""

LOAD = """
    path = @bin@
    if (command_argument_count() > 0) call get_command_argument(1, path)
    call load_weights(trim(path), status)
    if (status /= 0) then
        print '(2a, i0)', trim(path), ': cannot be used: ', status
        error stop 1
    end if
"""

USE_NAN = "\n    use, intrinsic :: ieee_arithmetic, only: ieee_quiet_nan, ieee_value"

COMPOSED = re.compile(
    r"f_\w*|(feature|output)_names(_\d+)?|(input|target)_(mean|scale)|test_(x|y|size)|bits|(int|real)\d+"
    "|case|char|data|default|impure|logical|select",
    re.IGNORECASE,
)
"""Names of the code that its texts do not have as they are."""


def fortran_source(network: Description, stem: str) -> str:
    """Return the text of `stem`.f90."""
    panels, layers = in_panels(network), network.layers
    wp = {4: "real32", 8: "real64"}[network.dtype.itemsize]
    beside = in_a_file(network)
    bits = {"real32": "int32", "real64": "int64"}[wp]
    kinds = {"real64", wp, *(["real32"] if network.exact else []), *(["int8", "int64", bits] if beside else [])}
    digest = panels.sha256()
    words = (f"{int(digest[k : k + 8], 16)}_int64" for k in range(0, 64, 8))
    constants = (f"{constant}_int64" for constant in _sha256_constants())
    load = {"hash": wrapped(words, " " * 12, " &"), "constants": wrapped(constants, " " * 12, " &"), "bits": bits}
    values = {
        **_common(network, panels, stem),
        "kinds": ", ".join(sorted(kinds)) + (USE_NAN if beside or network.exact else ""),
        "public": _public(network, beside),
        "features": str(network.widths[0]),
        "outputs": str(network.widths[-1]),
        "wp": wp,
        "layers": str(len(layers)),
        "widths": _integers(network.widths),
        "widest": str(panels.widest),
        "lanes": str(panels.lanes),
        "groups": str(panels.groups),
        "chunk": str(CHUNK),
        "at_w": _integers(panels.offset(f"W{l}") + 1 for l in range(1, len(layers) + 1)),
        "at_b": _integers(panels.offset(f"b{l}") + 1 for l in range(1, len(layers) + 1)),
        "names": _names("feature_names", "features", network.feature_names)
        + _names("output_names", "outputs", network.output_names),
        "weights": f"    real(wp), save :: weights({panels.size})"
        + ("\n    logical, save :: loaded = .false." if beside else "\n" + _data("weights", panels.flat())),
        "standardization": _vector("input_mean", "features", "real64", network.mean)
        + _vector("input_scale", "features", "wp", _narrow(network)),
        "target": _vector("target_mean", "outputs", "real64", network.target_mean)
        + _vector("target_scale", "outputs", "real64", network.target_scale),
        "standardized_one": _standardized(network, "x(i)"),
        "standardized_many": _standardized(network, "x(i, r)"),
        "guard": GUARD if beside else "",
        "label": LABEL if network.classes else "",
        "activation": _functions(network),
        "exact": _exact(network),
        "settled_one": SETTLED_ONE if network.exact else "",
        "settle_one": SETTLE_ONE if network.exact else "",
        "settled_many": SETTLED_MANY if network.exact else "",
        "settle_many": SETTLE_MANY if network.exact else "",
        "bits": BITS.format(_integers(panels.bits)) if network.exact else "",
        "activate": _activate(network),
        "activate_one": CALL_ONE if network.activations else "",
        "activate_many": CALL_MANY if network.activations else "",
        "output": _output(network),
        "loading": fill_template(template("load.f90"), load) if beside else "",
    }
    text = fill_template(template("model.f90"), values)
    return _impure(text) if network.exact else text


def fortran_selftest(network: Description, stem: str) -> str:
    """Return the text of `stem`_selftest.f90. The network has examples."""
    assert network.examples is not None
    X, Y = network.examples
    beside = in_a_file(network)
    allowed = f"{network.tolerance:.1e}_real64"
    values = {
        **_common(network, in_panels(network), stem),
        "tests": str(len(X)),
        "allowed": allowed,
        "test_x": _data("test_x", X),
        "test_y": _data("test_y", Y),
        "test_size": _data("test_size", network.sizes(Y)),
        "use_load": ", load_weights" if beside else "",
        "declare_load": ", status\n    character(len=1024) :: path" if beside else "",
        "load": fill_template(LOAD, {"bin": fortran_string(f"{stem}.bin")}) if beside else "",
    }
    return fill_template(template("selftest.f90"), values)


def module_name(stem: str) -> str:
    """Return a name for the module of a file: `identifier`, with an end of its own where the code has that name too."""
    name = identifier(stem)
    return f"{name}_network" if name.lower() in _words() or COMPOSED.fullmatch(name) else name


@cache
def _words() -> frozenset[str]:
    """Return all words of the code, in small letters: names of its own, and of Fortran."""
    whole = ("model", "selftest", "load", "exact", *(f"exact_{piece}" for piece in exact.PIECES))
    functions = (line for lines in (*ACTIVATIONS.values(), *exact.FORTRAN.values()) for line in lines)
    parts = (FUNCTION, SOFTMAX, EXACT_SOFTMAX, ELEMENTWISE, ACTIVATE, LABEL, GUARD, LOAD, USE_NAN)
    code = "\n".join((*(template(f"{name}.f90") for name in whole), *functions, *parts))
    return frozenset(re.findall(r"[a-z]\w*", re.sub(r"!.*|'[^']*'|@\w+@", " ", code).lower()))


def _narrow(network: Description) -> NDArray[Any] | None:
    """Return the scale of the inputs in the type of the layers."""
    return None if network.scale is None else network.scale.astype(network.dtype)


def _common(network: Description, panels: Panels, stem: str) -> dict[str, str]:
    beside = f"{stem}.bin" if in_a_file(network) else None
    return {
        "module": module_name(stem),
        "file": comment(stem),
        "title": f"{identifier(stem)}: a trained network, written by ddp_mlp {__version__}.",
        "about": "\n".join(f"! {line}" for line in (*about(network), *panels.about(beside, "load_weights"))),
        "state": "weights that are read once" if beside else "no state that changes",
        "variables": "\n".join(f"! {line}" for line in variables(network, "x({})", "y({})", first=1)),
    }


def _public(network: Description, beside: bool) -> str:
    names = {
        "label": network.classes,
        "load_weights": beside,
        "feature_names": network.feature_names is not None,
        "output_names": network.output_names is not None,
    }
    return "".join(f", {name}" for name, there in names.items() if there)


def _standardized(network: Description, x: str) -> str:
    less = "" if network.mean is None else " - input_mean(i)"
    value = f"real({x}{less} + 0 * {x}, wp)"
    return value if network.scale is None else f"{value} / input_scale(i)"


def _functions(network: Description) -> str:
    wanted = dict.fromkeys((*network.activations, *network.outputs))
    texts = []
    for name in (name for name in wanted if name not in ("softmax", "identity")):
        lines = exact.FORTRAN[name] if network.exact else ACTIVATIONS[name]
        body = "\n".join(f"        {line}" for line in lines)
        texts.append(fill_template(FUNCTION, {"name": name, "local": ", e" if len(lines) > 1 else "", "body": body}))
    return "\n".join(texts)


def _exact(network: Description) -> str:
    """Return what exact arithmetic needs besides."""
    if not network.exact:
        return ""
    more = ("product",) if network.target_scale is not None else ()
    return exact.fortran_functions((*network.activations, *network.outputs), more)


def _impure(text: str) -> str:
    """Return the source without pure procedures, which may have no volatile variable."""
    return re.sub(
        r"^( +)elemental ", r"\1impure elemental ", re.sub(r"^( +)pure ", r"\1", text, flags=re.M), flags=re.M
    )


def _activate(network: Description) -> str:
    """Return the procedure that computes f of a hidden layer."""
    if not network.activations:
        return ""
    return fill_template(ACTIVATE, {"cases": _cases(network.activations, "l", "z = f_{}(z)", "z = z")})


def _cases(names: Sequence[str], number: str, statement: str, unchanged: str) -> str:
    """Return a selection by number, counted from 1, of the statements for these functions; one alone needs none."""
    places: dict[str, list[str]] = {}
    for k, name in enumerate(names, start=1):
        places.setdefault(name, []).append(str(k))
    text = f"        select case ({number})\n"
    for order, (name, where) in enumerate(places.items(), start=1):
        case = "default" if order == len(places) else f"(&\n{wrapped(where, ' ' * 12, ' &')})"
        text += f"        case {case}\n            {unchanged if name == 'identity' else statement.format(name)}\n"
    return f"{text}        end select"


def _output(network: Description) -> str:
    if network.softmax:
        return EXACT_SOFTMAX if network.exact else SOFTMAX
    value = "narrowed(v)" if network.exact else "real(v, real64)"
    if network.target_scale is not None:
        value = f"times(target_scale(k), {value})" if network.exact else f"target_scale(k) * {value}"
    if network.target_mean is not None:
        value = f"target_mean(k) + {value}"
    cases = _cases(network.outputs, "k", "v = f_{}(z(k))", "v = z(k)").replace("\n", "\n    ")
    return fill_template(ELEMENTWISE, {"value": value, "cases": "    " + cases})


def _integers(values: Iterable[int]) -> str:
    """Return the elements of a constant array: on its own line where they fit, else on lines of their own."""
    lines = wrapped(map(str, values), " " * 8, " &")
    return f"&\n{lines}" if "\n" in lines or len(lines) > INTEGERS else lines.strip()


def _vector(name: str, size: str, kind: str, values: NDArray[Any] | None) -> str:
    return "" if values is None else f"\n    real({kind}), save :: {name}({size})\n{_data(name, values)}\n"


def _data(name: str, values: NDArray[Any]) -> str:
    """Return DATA statements that set a vector."""
    tokens = fortran_numbers(values)
    statements = []
    for start in range(0, len(tokens), BLOCK):
        part = tokens[start : start + BLOCK]
        place = f"{name}({start + 1}:{start + len(part)})"
        statements.append(f"    data {place} / &\n{wrapped(part, ' ' * 8, ' &')} /")
    return "\n".join(statements)


def _names(array: str, size: str, names: Sequence[str] | None) -> str:
    """Return a constant array of names, of several where one statement would have too many lines."""
    if names is None:
        return ""
    length = max(1, *(len(name.encode("utf-8", "backslashreplace")) for name in names))
    kind = f"character(len={length})"
    parts = list(_parts([fortran_string(name) for name in names]))
    text = ""
    for number, part in enumerate(parts, start=1):
        values = ", &\n        ".join(part)
        text += f"\n    {kind}, parameter :: {array}_{number}({len(part)}) = [{kind} :: &\n        {values}]"
    whole = wrapped((f"{array}_{number}" for number in range(1, len(parts) + 1)), " " * 8, " &")
    return f"{text}\n    {kind}, parameter :: {array}({size}) = [ &\n{whole}]\n"


def _parts(strings: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    lines = 0
    for string in strings:
        count = string.count("\n") + 1
        if part and lines + count > BLOCK:
            yield part
            part, lines = [], 0
        part.append(string)
        lines += count
    yield part


def _sha256_constants() -> list[int]:
    """Return the 64 constants of SHA-256 as the template for C has them."""
    table = template("load.c").split("K[64] = {")[1].split("}")[0]
    return [int(word, 16) for word in re.findall("0x[0-9a-f]{8}", table)]
