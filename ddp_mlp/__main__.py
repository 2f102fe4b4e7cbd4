"""All commands under one name: `ddp-mlp VERB …` is `python -m ddp_mlp.VERB …`."""

import runpy
import sys

from ddp_mlp import __version__
from ddp_mlp.parallel.signals import end_at_once

VERBS = {
    "train": "train a network",
    "search": "train a network many times with different settings, and keep the best",
    "predict": "classify the rows of a file",
    "convert": "make a data-set file from CSV, Parquet, NPY, NPZ, IDX or HDF5, or show what is in one",
    "export": "write a trained network as ONNX, safetensors or NPZ",
    "report": "show a run, or compare several, on one page",
    "verify": "prove on this machine what the program promises",
    "doctor": "look at what this machine has for a run",
}


def main() -> None:
    """Run the command that the first argument names, as if by `python -m`."""
    end_at_once(saves=sys.argv[1:2] in (["train"], ["search"]))
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in VERBS:
        del sys.argv[1]
        runpy.run_module(f"ddp_mlp.{verb}", run_name="__main__", alter_sys=True)
    elif verb == "--version":
        print(__version__)
    elif verb in ("-h", "--help"):
        print("usage: ddp-mlp VERB …; ddp-mlp VERB --help\n")
        for name, does in VERBS.items():
            print(f"  {name:<8} {does}")
    else:
        print(f"error: {verb!r}: expected one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
