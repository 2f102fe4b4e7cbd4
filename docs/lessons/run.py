"""Run the code of a lesson from top to bottom: `python docs/lessons/run.py 2`, also under `mpirun -n 4`.

Every rank runs every cell; rank 0 alone prints. `--with FILE` puts a page's solutions in: its block of code that begins
with `# exercise N` takes the place of the lesson's cell with that first line. `--write-answers` keeps their hashes.
"""

import argparse
import contextlib
import io
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def blocks(path: Path, kind: str) -> list[str]:
    """Return the code of a page's fenced blocks of a kind, such as `{code-cell}`, in order."""
    return re.findall(rf"^```{re.escape(kind)}[^\n]*\n(.*?)^```", path.read_text(), re.M | re.S)


def lesson_path(name: str) -> Path:
    """Return the file of a lesson that is named by its number or its path."""
    return Path(name) if name.endswith(".md") else next(HERE.glob(f"{name}-*.md"))


def main() -> None:
    """Run the lesson that the command line names; exit code 1 where solutions are given and one is not right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lesson", help="its number, or its file")
    parser.add_argument("--with", dest="solutions", type=Path, metavar="FILE", help="a page with solutions to use")
    parser.add_argument(
        "--write-answers", action="store_true", help="keep the hashes of these solutions as the right ones"
    )
    chosen = parser.parse_args()
    sys.path.insert(0, str(HERE))
    import grading
    import ranks

    graded: dict[str, str] = {}
    right: list[bool] = []

    def check(exercise: str, answer: object) -> bool:
        graded[exercise] = grading.hashed(exercise, answer)
        right.append(grading.check(exercise, answer) if not chosen.write_answers else True)
        return right[-1]

    found = blocks(chosen.solutions, "python") if chosen.solutions else []
    solutions = {code.splitlines()[0]: code for code in found}
    names: dict[str, object] = {"__name__": "__main__"}
    with contextlib.nullcontext() if ranks.rank == 0 else contextlib.redirect_stdout(io.StringIO()):
        for number, code in enumerate(blocks(lesson_path(chosen.lesson), "{code-cell}"), start=1):
            exec(compile(solutions.get(code.splitlines()[0], code), f"cell {number}", "exec"), names)
            if "check" in names:
                names["check"] = check
    if chosen.write_answers and ranks.rank == 0:
        path = HERE / "answers.json"
        known = json.loads(path.read_text()) | graded
        path.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")
    ranks.barrier()
    sys.exit(0 if not chosen.solutions or all(right) else 1)


if __name__ == "__main__":
    main()
