"""Groups of a data-set file that take no part, though their names say that they were meant to."""

import re
from itertools import islice

from ddp_mlp.storage.dataset import SPLITS, DatasetInfo
from ddp_mlp.storage.hdf5 import named_failures, open_hdf5

_NEARLY_SPLIT = re.compile(r"(train|val|valid|dev|test)(ing|idation)?([_-]?(data|set|split))?", re.IGNORECASE)
_LOOKED_AT = 1000


def nearly_splits(info: DatasetInfo) -> list[str]:
    """Return a line on the groups that are called nearly as a split is, such as val or Test; local.

    The first file is looked at; nothing where features are looked up from the root. Raises DataError, StorageError.
    """
    part = info.splits[next(iter(info.splits))].parts[0]
    if part.group == "/":
        return []
    with open_hdf5(part.path) as file, named_failures(part.path, "is damaged"):
        names = [name for name in islice(file, _LOOKED_AT) if name not in SPLITS and _NEARLY_SPLIT.fullmatch(name)]
    listed = ", ".join(map(repr, names[:10]))
    return [f"{part.path}: takes no part: {listed}: splits are called {', '.join(SPLITS)}"] if names else []
