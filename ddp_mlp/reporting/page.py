"""A report as one HTML file: style, figures and pictures inside, no script, nothing fetched from elsewhere.

In this order: the result, what the model gets right and wrong, how training went, how the machine was used, settings.
Text becomes HTML in `markup.py` alone.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import ddp_mlp
from ddp_mlp.reporting.curves import training_charts
from ddp_mlp.reporting.figures import cards, results, spread
from ddp_mlp.reporting.machine_use import machine_charts
from ddp_mlp.reporting.markup import escaped, figures_of, folded, paragraph, section, svg_of, table
from ddp_mlp.reporting.right_and_wrong import Found, Shape, of_all_runs, of_run
from ddp_mlp.reporting.runs import RunLog, differing
from ddp_mlp.reporting.settings import settings_of, shown, starts_of
from ddp_mlp.run_dir.journal import utc_now


def page(
    runs: Sequence[RunLog],
    outcomes: Sequence[Found],
    shapes: Sequence[Shape],
    search: str = "",
    refresh: float | None = None,
) -> str:
    """Return the report of one or several runs; `outcomes` and `shapes` of their features as pictures, one per run.

    `search` is what `search_page` says of a search, whose first member the run is. `refresh`: after how many seconds a
    browser reads the page again, as that of a run that goes on.
    """
    if len(runs) == 1:
        title, body = runs[0].name, _of_one(runs[0], outcomes[0], shapes[0], search)
    else:
        title = f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
        body = _of_several(runs, outcomes, shapes)
    return document(title, body, refresh)


def page_of_search(folder: Path, search: str) -> str:
    """Return the report of a search that has no best network yet; `search` is what `search_page` says of it."""
    header = f"<header><h1>{escaped(folder.resolve().name)}</h1>"
    return document(
        folder.resolve().name, [f'{header}<p class="soft"><code>{escaped(folder)}</code></p></header>', search]
    )


def document(title: str, body: Sequence[str], refresh: float | None = None) -> str:
    """Return a whole page with its style; `body` is HTML, part by part."""
    style = resources.files("ddp_mlp.reporting").joinpath("page.css").read_text(encoding="utf-8")
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh:g}">\n'
    live = "" if refresh is None else f" The page reads itself anew every {refresh:g} seconds while the run goes on."
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        f'img-src data:">\n{again}'
        f'<link rel="icon" href="data:,">\n<title>{escaped(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        "<main>\n"
        + "\n".join(body)
        + f'\n</main>\n<footer class="soft">Made by ddp_mlp {escaped(ddp_mlp.__version__)}, {utc_now()}.{live}</footer>'
        "\n</body>\n</html>\n"
    )


def _of_one(run: RunLog, outcome: Found, shape: Shape, search: str) -> list[str]:
    state = f"{run.state}, in "
    head = (
        f'<header><h1>{escaped(run.name)}</h1><p class="soft">{escaped(state)}<code>{escaped(run.folder)}</code></p>'
        f"</header>\n{cards(run)}"
    )
    return [
        head,
        search,
        section(_heading([run]), of_run(run, outcome, shape, "test")),
        _training([run]),
        _machine([run]),
        section("Settings", settings_of(run) + _starts([run], "rung, or killed" if search else "killed")),
    ]


def _of_several(runs: Sequence[RunLog], outcomes: Sequence[Found], shapes: Sequence[Shape]) -> list[str]:
    title = f"{len(runs)} runs"
    differ = [[name, *map(shown, values)] for name, values in differing(runs).items()]
    settings = table(["setting", *(run.name for run in runs)], differ) if differ else paragraph("No setting differs.")
    each = "".join(folded(f"Settings of {run.name}", settings_of(run)) for run in runs)
    return [
        f"<header><h1>{title}</h1></header>\n" + results(runs) + spread(runs),
        section("Settings that differ", settings),
        section(_heading(runs), of_all_runs(runs, outcomes, shapes)),
        _training(runs),
        _machine(runs),
        section("All settings", each + _starts(runs)),
    ]


def _heading(runs: Sequence[RunLog]) -> str:
    of_classes = any("classes" in run.start["data"] for run in runs)
    return "What the model gets right and wrong" if of_classes else "How near the model comes to each target"


def _training(runs: Sequence[RunLog]) -> str:
    charts = training_charts(runs)
    if not charts:
        return section("Training", paragraph("The journal has no figures yet."))
    wide, narrow = charts
    drawn = svg_of(wide, "training-wide", "wide") + svg_of(narrow, "training", "narrow")
    figure = f'<figure class="training">{drawn}</figure>'
    notes = []
    if len(runs) > 1:
        notes.append("Where runs have the same curve, the thinner line lies on the thicker one.")
    if not any(run.of("step") for run in runs):
        notes.append("No single steps: log_every was 0, or the runs are shorter than one interval.")
    return section("Training", figure + "".join(paragraph(note, soft=True) for note in notes))


def _machine(runs: Sequence[RunLog]) -> str:
    charts = machine_charts(runs)
    notes = []
    if any(run.phase_seconds() for run in runs):
        notes.append("Between steps are evaluation, checkpoints and logging; waiting is for other ranks.")
    for run in runs:
        if isinstance(crowd := run.start.get("crowded"), dict):
            threads, cores, host = (crowd.get(name) for name in ("threads", "cores", "host"))
            words = f"{threads} threads shared {cores} core{'' if cores == 1 else 's'} of {host}"
            if times := run.crowded_times():
                words += f"; a step took {times:.3g} times the processor time of its busiest rank"
            notes.append(words + (f" in {run.name}." if len(runs) > 1 else "."))
    content = figures_of(charts, "machine") + "".join(paragraph(note, soft=True) for note in notes)
    return section("How the machine was used", content) if charts else ""


def _starts(runs: Sequence[RunLog], silent: str = "killed") -> str:
    """Return the table of starts, of runs that have several; `silent` is what ended those that tell no end."""
    resumed = [run for run in runs if len(run.starts) > 1]
    rows = [[*([run.name] if len(runs) > 1 else []), *row] for run in resumed for row in starts_of(run, silent)]
    head = [*(["run"] if len(runs) > 1 else []), "time (UTC)", "steps", "ended by", "P", "hosts", "from"]
    return f"<h3>Starts</h3>{table(head, rows)}" if rows else ""
