"""Put measured and predicted figures into the documentation, and draw its charts of them.

    python scripts/benchmarks/benchmark.py --repeats 9 --seconds 0.5 -o benchmark.json
    python scripts/tools/figures.py benchmark.json

The measurement is kept as docs/figures/speed.json; several files, of some networks each, become one. What stands
between `<!-- figures: NAME -->` and `<!-- end of figures -->` on a page is made from it, and a test holds the pages
against it. Without a file, the pages are made anew from what is kept.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ddp_mlp.units import counted  # noqa: E402 # the checkout need not be installed
from scripts.benchmarks.scaling import Case, Machine, efficiency, play  # noqa: E402

KEPT = ROOT / "docs" / "figures" / "speed.json"
OURS, ONE, EIGHT, PRODUCTS = "exact P=2 K=2", "exact P=1 K=1", "exact P=1 K=8", "products 1 core"
PEERS = {
    "PyTorch": "PyTorch 2 threads",
    "PyTorch DDP, gloo": "PyTorch DDP gloo P=2",
    "JAX, jitted": "JAX all cores",
    "scikit-learn": "scikit-learn",
}
"""By the name in the table, the contender of the benchmark."""
NEEDED = (OURS, ONE, EIGHT, PRODUCTS, "allreduce P=1", "allreduce P=2", "portable P=1", "portable P=2", *PEERS.values())
SCALED = ((64, 1), (512, 1), (4096, 1), (64, 64), (512, 32), (4096, 32), (4096, 128))
"""(ranks, ranks of a node) of the table of predictions."""
WIDTHS, ROWS = (784, 512, 512, 10), 64


@dataclass(frozen=True)
class Speed:
    """A measurement: seconds per step of every contender on every network, one figure a turn."""

    about: dict[str, Any]
    """Of the machine, the versions and the turns."""
    seconds: dict[str, dict[str, list[float]]]
    """By network, such as 784-512-512-10@512, and contender."""

    def ms(self, network: str, name: str) -> float:
        """Return the median of a contender's turns, in milliseconds."""
        return 1e3 * statistics.median(self.seconds[network][name])

    def ratio(self, network: str, slower: str, faster: str = OURS) -> float:
        """Return the median of the ratios within a turn."""
        pairs = zip(self.seconds[network][slower], self.seconds[network][faster], strict=True)
        return statistics.median(a / b for a, b in pairs)


def measured(paths: Sequence[Path]) -> Speed:
    """Return what benchmark.py has written, of one or more parts. Raises SystemExit where something is missing."""
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    seconds: dict[str, dict[str, list[float]]] = {}
    for part, path in zip(parts, paths, strict=True):
        for network, figures in part["seconds_per_step"].items():
            if missing := [name for name in NEEDED if name not in figures]:
                lacking = ", ".join(missing)
                raise SystemExit(f"{path}: {network} has no {lacking}: install the extra bench, measure again")
            seconds[network] = {name: [float(f"{value:.4g}") for value in turns] for name, turns in figures.items()}
    abouts = [{name: value for name, value in part.items() if name != "seconds_per_step"} for part in parts]
    if any(about != abouts[0] for about in abouts):
        raise SystemExit("the files are of different machines, versions or turns: measure them alike")
    return Speed(abouts[0], seconds)


# ---- what stands on the pages ----------------------------------------------------------------------------------------


def machine(speed: Speed) -> str:
    """Return the machine in words, such as "2 cores of an Intel Xeon Processor (family 6, model 207)"."""
    processor = speed.about["processor"]
    return f"{speed.about['cores']} cores of an {processor}"


def table_of_steps(speed: Speed) -> str:
    """Return what was measured, in a sentence, and the table of this program's step beside its peers'."""
    versions = ", ".join(f"{name} {version}" for name, version in speed.about["versions"].items() if name != "ddp_mlp")
    ours = speed.about["versions"]["ddp_mlp"]
    mkl = all("exact P=2 K=2 MKL" in figures for figures in speed.seconds.values())
    head = ["network", "ms", *PEERS, "`allreduce`", *(["`--blas mkl`"] if mkl else [])]
    head += ["products ÷ step, 1 core", "`allreduce` ÷ K = 8, 1 core"]
    rows = []
    for network in speed.seconds:
        others = [*PEERS.values(), "allreduce P=2", *(["exact P=2 K=2 MKL"] if mkl else [])]
        rows.append(
            [named(network), f"{speed.ms(network, OURS):.2f}"]
            + [f"{speed.ratio(network, other):.2f}" for other in others]
            + [f"{speed.ratio(network, PRODUCTS, ONE):.2f}", f"{speed.ratio(network, 'allreduce P=1', EIGHT):.2f}"]
        )
    turns = speed.about["repeats"]
    return (
        f"Version {ours} on {machine(speed)}.\nMedians of {turns} turns; {versions}.\n\n"
        f"{table(head, rows)}\n\n{who_is_ahead(speed)}"
    )


def who_is_ahead(speed: Speed) -> str:
    """Return the peers that are faster than this program, with their ratios."""
    ahead = [
        f"{peer} on {named(network)} ({speed.ratio(network, contender):.2f})"
        for network in speed.seconds
        for peer, contender in PEERS.items()
        if round(speed.ratio(network, contender), 2) < 1
    ]
    if not ahead:
        return "Below 1, the other would be the faster. On this machine no peer is."
    return "Below 1, the other is the faster:\n\n" + "\n".join(f"- {peer}" for peer in ahead)


def table_of_portable(speed: Speed) -> str:
    """Return the table of portable steps beside native ones."""
    evaluated = all("evaluation, portable" in figures for figures in speed.seconds.values())
    head = ["network", "ms, 1 core", "÷ native, 1 core", "ms, 2 cores", "÷ native, 2 cores"]
    head += ["evaluation ÷ native, 1 core"] if evaluated else []
    rows = [
        [
            named(network),
            f"{speed.ms(network, 'portable P=1'):.2f}",
            f"{speed.ratio(network, 'portable P=1', ONE):.2f}",
            f"{speed.ms(network, 'portable P=2'):.2f}",
            f"{speed.ratio(network, 'portable P=2'):.2f}",
            *([f"{speed.ratio(network, 'evaluation, portable', 'evaluation P=1'):.2f}"] if evaluated else []),
        ]
        for network in speed.seconds
    ]
    return table(head, rows)


def in_the_readme(speed: Speed) -> str:
    """Return the figures of the first network in two sentences, and how often a peer is ahead."""
    first, ours = next(iter(speed.seconds)), speed.about["versions"]["ddp_mlp"]
    peers = [f"{_in_brackets(peer)} {speed.ratio(first, name):.2f}" for peer, name in PEERS.items()]
    compared = [speed.ratio(network, name) for network in speed.seconds for name in PEERS.values()]
    behind = sum(round(ratio, 2) < 1 for ratio in compared)
    last = "In none" if not behind else f"In {behind}"
    return (
        f"Version {ours} on {machine(speed)}.\nA step of {named(first)}, takes {speed.ms(first, OURS):.1f} ms with the "
        f"exact sum.\nThe peers take this many times as long: {', '.join(peers)}.\n"
        f"{last} of {len(compared)} comparisons, over {counted(len(speed.seconds), 'network')}, a peer is the faster."
    )


def _in_brackets(peer: str) -> str:
    """Return a name of a sentence: what stands behind its comma in brackets."""
    name, _, rest = peer.partition(", ")
    return f"{name} ({rest})" if rest else name


def table_of_scaling(cases: Sequence[tuple[int, int]] = SCALED) -> str:
    """Return the table of predicted steps on many ranks, at the default costs."""
    head = ["ranks", "a node", "messages a rank", "exact", "flat", "Allreduce"]
    rows = []
    for P, per_node in cases:
        row = play(Case(P, per_node, WIDTHS, ROWS * P, P), Machine())
        kinds = row.exact, row.flat, row.allreduce
        steps = [f"{1e3 * kind.step:.2f} ({efficiency(row, kind):.2f})" for kind in kinds]
        rows.append([f"{P:,}", f"{per_node}", f"{sum(part.messages for part in row.parts)}", *steps])
    return table(head, rows, first="---:")


def named(network: str) -> str:
    """Return the name of a network and batch in words."""
    return network.replace("@", ", batch ")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], first: str = "---") -> str:
    """Return a table in Markdown, all columns but the first flush right."""
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    lines.insert(1, f"|{'|'.join([first, *['---:'] * (len(head) - 1)])}|")
    return "\n".join(lines)


MADE: dict[tuple[str, str], Callable[[Speed], str]] = {
    ("README.md", "speed"): in_the_readme,
    ("docs/performance.md", "speed"): table_of_steps,
    ("docs/performance.md", "portable"): table_of_portable,
    ("docs/scaling.md", "scaling"): lambda speed: table_of_scaling(),
}
"""By page and name, what is made."""


def marked(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names of what is made on a page, each with what stands there."""
    yield from re.findall(r"^<!-- figures: (\w+) -->\n(.*?)\n<!-- end of figures -->$", text, re.M | re.S)


def replaced(text: str, name: str, made: str) -> str:
    """Return a page's text with the figures of a name made anew. Raises ValueError where it has no place for them."""
    before, mark, rest = text.partition(f"<!-- figures: {name} -->\n")
    _, end, after = rest.partition("\n<!-- end of figures -->")
    if not (mark and end):
        raise ValueError(f"no place for the figures {name!r}")
    return f"{before}{mark}{made}{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep the measurement, write the figures into the pages, and draw the charts."""
    parser = argparse.ArgumentParser(description="Put measured and predicted figures into the documentation.")
    parser.add_argument("benchmark", nargs="*", type=Path, help="what benchmark.py -o has written (what is kept)")
    asked = parser.parse_args(arguments)
    if not asked.benchmark and not KEPT.exists():
        parser.error("nothing is measured yet: name what benchmark.py -o has written")
    speed = measured(asked.benchmark or [KEPT])
    KEPT.parent.mkdir(exist_ok=True)
    lines = (f'  "{name}": {json.dumps(value)}' for name, value in speed.about.items())
    networks = (
        f'  "{network}": {{\n'
        + ",\n".join(f'   "{name}": {json.dumps(turns)}' for name, turns in figures.items())
        + "\n  }"
        for network, figures in speed.seconds.items()
    )
    text = "{\n" + ",\n".join(lines) + ',\n  "seconds_per_step": {\n' + ",\n".join(networks) + "\n }\n}\n"
    KEPT.write_text(text, encoding="utf-8")
    for (page, name), make in MADE.items():
        path = ROOT / page
        path.write_text(replaced(path.read_text(encoding="utf-8"), name, make(speed)), encoding="utf-8")
        print(f"{page}: {name}")
    from scripts.tools import pictures

    return pictures.main(["speed.svg", "scaling.svg"])


if __name__ == "__main__":
    sys.exit(main())
