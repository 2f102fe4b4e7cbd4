"""One line of an examination, for people and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ddp_mlp.errors import printable


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    check: str
    fine: bool
    found: str
    do: str = ""
    """What to do where it is not fine."""
    values: dict[str, Any] = field(default_factory=dict)
    """The figures of `found`, for programs."""


def report(findings: Sequence[Finding], seconds: float, as_json: bool) -> str:
    """Return the findings as text for people, or as JSON."""
    wrong = sum(not finding.fine for finding in findings)
    if as_json:
        listed = [asdict(finding) for finding in findings]
        return json.dumps({"fine": not wrong, "seconds": round(seconds, 2), "findings": listed}, indent=1)
    lines = []
    for finding in findings:
        lines.append(f"{'fine' if finding.fine else 'NOT FINE':<9} {finding.check:<10} {printable(finding.found)}")
        if not finding.fine:
            lines.append(f"{'':<9} {'':<10} → {printable(finding.do)}")
    verdict = f"{wrong} of {len(findings)} checks are not fine" if wrong else f"all {len(findings)} checks are fine"
    return "\n".join([*lines, f"{verdict}; {seconds:.1f} s"])
