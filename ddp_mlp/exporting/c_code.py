"""A network as one file of C99, and its declarations as a header.

Invariants:
- every constant has the bits of the model: hexadecimal, in the type in which it is used;
- a row has the same bits from `predict_many` in whatever block it stands, since all rows go through the same code; and
  from `predict_one`, where the compiler contracts products and sums in both or in neither: each sum has one order.
"""

from typing import Any

from numpy.typing import NDArray

from ddp_mlp import __version__
from ddp_mlp.exporting import exact
from ddp_mlp.exporting.description import Description, about, variables
from ddp_mlp.exporting.literals import c_numbers, c_string, comment, fill_template, identifier, template, wrapped
from ddp_mlp.exporting.panels import CHUNK, in_a_file, in_panels
from ddp_mlp.nn.activations import LEAK

ACTIVATIONS = {
    "relu": "z < 0 ? 0 : z",
    "leaky_relu": f"z < 0 ? (real){LEAK} * z : z",
    "elu": "z < 0 ? expm1(z) : z",
    "tanh": "tanh(z)",
    "sigmoid": "z < 0 ? exp(z) / (1 + exp(z)) : 1 / (1 + exp(-z))",
    "softplus": "(z < 0 ? 0 : z) + log1p(exp(-fabs(z)))",
    "gelu": "(real)0.5 * z * (1 + erf(z * (real)0.70710678118654752440))",
    "silu": "z < 0 ? z * exp(z) / (1 + exp(z)) : z / (1 + exp(-z))",
    "identity": "z",
    "exp": "exp(z)",
}
"""f(z), written so that a z that is no number stays none; of hidden layers and of outputs."""
SETTLED_ONE = "    settle(@M@_FEATURES, 1, a, layers[0].bits);\n"
SETTLE_ONE = """\
        if (l + 1 < LAYERS) {
            settle(layer.n, 1, z, layers[l + 1].bits);
        }
"""
SETTLED_MANY = """\
        for (size_t g = 0; g < groups; g++) {
            settle(@M@_FEATURES, ROWS, buffers[0] + g * WIDEST * ROWS, layers[0].bits);
        }
"""
SETTLE_MANY = """\
        for (size_t g = 0; l + 1 < LAYERS && g < groups; g++) {
            settle(layer.n, ROWS, Z + g * WIDEST * ROWS, layers[l + 1].bits);
        }
"""
FUNCTIONS = ("expm1", "log1p", "exp", "tanh", "fabs", "erf")

SOFTMAX = """\
    real largest = z[0];
    double total = 0;
    for (size_t k = 1; k < @M@_OUTPUTS; k++) {
        largest = z[k * stride] > largest ? z[k * stride] : largest;
    }
    for (size_t k = 0; k < @M@_OUTPUTS; k++) {
        y[k] = (double)@exp@(z[k * stride] - largest);
        total += y[k];
    }
    for (size_t k = 0; k < @M@_OUTPUTS; k++) {
        y[k] /= total;
    }"""

EXACT_SOFTMAX = """\
    double largest = z[0], sums[@M@_OUTPUTS];
    for (size_t k = 1; k < @M@_OUTPUTS; k++) {
        largest = z[k * stride] > largest ? z[k * stride] : largest;
    }
    for (size_t k = 0; k < @M@_OUTPUTS; k++) {
        y[k] = exact_exp(z[k * stride] - largest);
        sums[k] = y[k];
    }
    for (size_t n = @M@_OUTPUTS; n > 1; n -= n / 2) { /* the last n / 2 terms are added to the first */
        for (size_t k = 0; k < n / 2; k++) {
            sums[k] += sums[n - n / 2 + k];
        }
    }
    for (size_t k = 0; k < @M@_OUTPUTS; k++) {
        y[k] = narrowed(y[k] / sums[0]);
    }"""

ELEMENTWISE = """\
    for (size_t k = 0; k < @M@_OUTPUTS; k++) {
        y[k] = @value@;
    }"""

FUNCTION = """
static inline real f_@name@(real z)
{
    return @value@;
}
"""

ACTIVATE = """
/* Set the z of hidden layer l, counted from 0, to f(z). */
static void activate(size_t l, size_t count, real *z)
{
@cases@
}
"""

ACTIVATE_ALL = """\
@unused@@indent@for (size_t j = 0; j < count; j++) {
@indent@    z[j] = f_@name@(z[j]);
@indent@}"""

ACTIVATE_ONE = """\
        if (l + 1 < LAYERS) {
            activate(l, panels * LANES, z);
        }
"""

ACTIVATE_MANY = """\
                if (l + 1 < LAYERS) {
                    activate(l, ROWS * LANES, tiles[g]);
                }
"""

LABEL = """
size_t @P@_label(const double y[@M@_OUTPUTS])
{
    size_t label = 0;
    for (size_t k = 1; k < @M@_OUTPUTS; k++) {
        label = y[k] > y[label] ? k : label;
    }
    return label;
}
"""

DECLARE_LABEL = """
/* Return the number of the most probable class; of equals, the first. */
size_t @P@_label(const double y[@M@_OUTPUTS]);
"""

DECLARE_LOAD = """
/* Read the weights from their file: once, before any thread predicts; until then outputs are NaN. Returns 0; or 1 where
   the file cannot be opened, 2 where it is too short or too long, 3 where its SHA-256 is not that of this network. */
int @P@_load(const char *path);
"""


def c_source(network: Description, stem: str) -> str:
    """Return the text of `stem`.c."""
    return _filled(template("model.c"), network, stem)


def c_header(network: Description, stem: str) -> str:
    """Return the text of `stem`.h."""
    return _filled(template("model.h"), network, stem)


def _filled(text: str, network: Description, stem: str) -> str:
    name = identifier(stem)
    names = {"P": name, "M": name.upper(), "file": comment(stem)}
    return fill_template(text, _Values(network, stem, names).all() | names)


class _Values:
    """What stands in the places of the templates."""

    def __init__(self, network: Description, stem: str, names: dict[str, str]) -> None:
        self._network, self._stem, self._names = network, stem, names
        self._panels = in_panels(network)
        self._real = {4: "float", 8: "double"}[network.dtype.itemsize]
        self._beside = in_a_file(network)

    def all(self) -> dict[str, str]:
        """Return the text for every place."""
        network, panels = self._network, self._panels
        beside = f"{self._stem}.bin" if self._beside else None
        lines = (*about(network), *panels.about(beside, f"{self._names['P']}_load"))
        return {
            "title": f"{self._names['P']}: a trained network, written by ddp_mlp {__version__}.",
            "about": "\n".join(f" * {line}" for line in lines),
            "state": "weights that are read once" if beside else "no state that changes",
            "variables": "\n".join(f" * {line}" for line in variables(network, "x[{}]", "y[{}]")),
            "declarations": self._declarations(),
            "real": self._real,
            "layers": str(len(network.layers)),
            "widest": str(panels.widest),
            "lanes": str(panels.lanes),
            "groups": str(panels.groups),
            "chunk": str(CHUNK),
            "weights": self._weights_in_a_file() if self._beside else self._weights_here(),
            "bits_member": "\n    int bits;" if network.exact else "",
            "include_float": "#include <float.h>\n" if network.exact else "",
            "table": self._table(),
            "exact": self._exact(),
            "settled_one": self._fill(SETTLED_ONE) if network.exact else "",
            "settle_one": SETTLE_ONE if network.exact else "",
            "settled_many": self._fill(SETTLED_MANY) if network.exact else "",
            "settle_many": SETTLE_MANY if network.exact else "",
            "standardization": _vectors(network.mean, "mean", "double")
            + _vectors(None if network.scale is None else network.scale.astype(network.dtype), "scale", "real"),
            "target": _vectors(network.target_mean, "target_mean", "double")
            + _vectors(network.target_scale, "target_scale", "double"),
            "activation": self._activation(),
            "activate_one": ACTIVATE_ONE if network.activations else "",
            "activate_many": ACTIVATE_MANY if network.activations else "",
            "output": self._output(),
            "standardized_one": self._standardized("x"),
            "standardized_many": self._standardized("row"),
            "guard_one": self._guard("", "OUTPUTS"),
            "guard_many": self._guard("rows * ", "OUTPUTS"),
            "label": self._fill(LABEL) if network.classes else "",
            "names": self._names_given(declared=False),
            "loading": self._loading(),
            "selftest": self._selftest(),
        }

    def _fill(self, text: str, **values: str) -> str:
        return fill_template(text, values | self._names)

    def _declarations(self) -> str:
        return self._fill(
            template("declarations.c"),
            features=str(self._network.widths[0]),
            outputs=str(self._network.widths[-1]),
            declare_names=self._names_given(declared=True),
            declare_load=self._fill(DECLARE_LOAD) if self._beside else "",
            declare_label=self._fill(DECLARE_LABEL) if self._network.classes else "",
        )

    def _names_given(self, declared: bool) -> str:
        """Return the arrays of names, or their declarations."""
        text = ""
        for what, size, names in (
            ("feature", "FEATURES", self._network.feature_names),
            ("output", "OUTPUTS", self._network.output_names),
        ):
            if names is None:
                continue
            array = f"const char *const {self._names['P']}_{what}_names[{self._names['M']}_{size}]"
            if declared:
                text += f"\nextern {array};"
            else:
                text += f"\n{array} = {{\n{wrapped(map(c_string, names))},\n}};\n"
        return text + ("\n" if declared and text else "")

    def _weights_here(self) -> str:
        return "\n".join(
            f"static const ALIGNED real {name}[] = {{\n{wrapped(c_numbers(part))},\n}};"
            for name, part in self._panels.parts.items()
        )

    def _weights_in_a_file(self) -> str:
        return (
            "#include <stdint.h>\n#include <stdio.h>\n\n"
            f"enum {{ WEIGHTS = {self._panels.size} }};\n"
            "static ALIGNED real weights[WEIGHTS]; /* written by load alone */\n"
            "static int loaded;"
        )

    def _table(self) -> str:
        rows = []
        for l, (W, _) in enumerate(self._network.layers, start=1):
            where = [f"weights + {self._panels.offset(n)}" if self._beside else n for n in (f"W{l}", f"b{l}")]
            where += [str(self._panels.bits[l - 1])] if self._network.exact else []
            rows.append(f"    {{{W.shape[1]}, {W.shape[0]}, {', '.join(where)}}},")
        return "\n".join(rows)

    def _function(self, name: str) -> str:
        """Return f(z) with the functions of libm for this type."""
        if self._network.exact:
            return exact.C[name]
        text = ACTIVATIONS[name]
        if self._real == "float":
            for function in FUNCTIONS:
                text = text.replace(f"{function}(", f"{function}f(")
        return text

    def _exact(self) -> str:
        """Return what exact arithmetic needs besides."""
        network = self._network
        if not network.exact:
            return ""
        more = ("product",) if network.target_scale is not None else ()
        return exact.c_functions((*network.activations, *network.outputs), more)

    def _activation(self) -> str:
        network = self._network
        written_out = ("softmax", "identity")
        wanted = dict.fromkeys((*network.activations, *(f for f in network.outputs if f not in written_out)))
        text = "".join(fill_template(FUNCTION, {"name": name, "value": self._function(name)}) for name in wanted)
        if not network.activations:
            return text
        layers: dict[str, list[int]] = {}
        for l, name in enumerate(network.activations):
            layers.setdefault(name, []).append(l)
        if len(layers) == 1:
            values = {"unused": "    (void)l;\n", "indent": "    ", "name": network.activations[0]}
            return text + fill_template(ACTIVATE, {"cases": fill_template(ACTIVATE_ALL, values)})
        cases = ""
        for name, which in layers.items():
            cases += "".join(f"    case {l}:\n" for l in which)
            loop = fill_template(ACTIVATE_ALL, {"unused": "", "indent": "        ", "name": name})
            cases += f"{loop}\n        break;\n"
        return text + fill_template(ACTIVATE, {"cases": f"    switch (l) {{\n{cases}    }}"})

    def _output(self) -> str:
        network = self._network
        if network.softmax and network.exact:
            return self._fill(EXACT_SOFTMAX)
        if network.softmax:
            return self._fill(SOFTMAX, exp="expf" if self._real == "float" else "exp")
        names, z = list(dict.fromkeys(network.outputs)), "z[k * stride]"
        value = z if names[-1] == "identity" else f"f_{names[-1]}({z})"
        table = ""
        if len(names) > 1:
            numbers = wrapped(str(names.index(name)) for name in network.outputs)
            table = f"    static const unsigned char which[] = {{\n{numbers},\n    }};\n"
            for number, name in enumerate(names[:-1]):
                value = f"which[k] == {number} ? {z if name == 'identity' else f'f_{name}({z})'} : {value}"
            value = f"({value})"
        if network.exact:  # predict's outputs have the parameters' type, before they are put into their units
            value = f"narrowed({value})"
        if self._real == "float":
            value = f"(double){value}"
        if network.target_scale is not None:
            value = f"product(target_scale[k], {value})" if network.exact else f"target_scale[k] * {value}"
        if network.target_mean is not None:
            value = f"target_mean[k] + {value}"
        return table + self._fill(ELEMENTWISE, value=value)

    def _standardized(self, row: str) -> str:
        network = self._network
        less = "" if network.mean is None else " - mean[i]"
        value = f"({row}[i]{less} + 0 * {row}[i])"
        value = f"(real){value}" if self._real == "float" else value
        return value if network.scale is None else f"{value} / scale[i]"

    def _guard(self, times: str, size: str) -> str:
        if not self._beside:
            return ""
        return (
            "    if (!loaded) {\n"
            f"        for (size_t k = 0; k < {times}{self._names['M']}_{size}; k++) {{\n"
            "            y[k] = (double)NAN;\n        }\n        return;\n    }\n"
        )

    def _loading(self) -> str:
        if not self._beside:
            return ""
        digest = self._panels.sha256()
        words = [f"0x{digest[k : k + 8]}" for k in range(0, 64, 8)]
        bits = {"float": "uint32_t", "double": "uint64_t"}[self._real]
        return self._fill(template("load.c"), hash=", ".join(words), bits=bits)

    def _selftest(self) -> str:
        if self._network.examples is None:
            return ""
        X, Y = self._network.examples
        load = (
            f"    const char *path = argc > 1 ? argv[1] : {c_string(f'{self._stem}.bin')};\n"
            f"    const int status = {self._names['P']}_load(path);\n"
            '    if (status != 0) {\n        printf("%s: cannot be used (%d)\\n", path, status);\n'
            "        return 1;\n    }\n"
        )
        return self._fill(
            template("selftest.c"),
            tests=str(len(X)),
            test_x=wrapped(c_numbers(X)),
            test_y=wrapped(c_numbers(Y)),
            test_size=wrapped(c_numbers(self._network.sizes(Y))),
            allowed=f"{self._network.tolerance:.1e}",
            main_arguments="int argc, char **argv" if self._beside else "void",
            main_load=load if self._beside else "",
        )


def _vectors(values: NDArray[Any] | None, name: str, kind: str) -> str:
    if values is None:
        return ""
    return f"\nstatic const {kind} {name}[] = {{\n{wrapped(c_numbers(values))},\n}};\n"
