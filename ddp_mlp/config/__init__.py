"""The configuration of a run: its keys (`keys`), what a key may hold (`values`), and flags and files (`parsing`).

Invariants: a key has one spelling (file key = flag = attribute); each `Config` that exists is valid; whatever is wrong
with a configuration is one line, a `ConfigError`; nothing here starts MPI or loads an array library.
"""

from ddp_mlp.config.keys import Config, changed, first_difference, from_dict, standardize_word, to_dict
from ddp_mlp.config.parsing import dump, parse
from ddp_mlp.config.values import Interval, parse_interval

__all__ = [
    "Config",
    "Interval",
    "changed",
    "dump",
    "first_difference",
    "from_dict",
    "parse",
    "parse_interval",
    "standardize_word",
    "to_dict",
]
