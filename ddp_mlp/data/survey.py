"""The splits of a data set looked over by all ranks together: every row checked, the same figures for every P.

A run that goes on looks at what tells of a change, and at a sample of blocks, where its folder has a record of files
that are the very ones; `check = full` looks at every row again.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import ddp_mlp
from ddp_mlp.config import Config
from ddp_mlp.nn import arithmetic as arithmetics
from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage import surveyed
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import BlockSurvey, NumberRule, Survey, merge_surveys, survey_block, survey_blocks
from ddp_mlp.storage.surveyed import Record
from ddp_mlp.summing.tree import cut

SAMPLED = 4
"""Blocks of a split that are read again where nothing tells of a change: the first, the last, others drawn."""


class LookedOver(NamedTuple):
    """What all splits hold, and how that is known."""

    surveys: dict[str, Survey]
    check: str
    """"every row", or "sample" for files that an earlier start of the run has looked over."""
    record: Record | None
    """What a later start may rely on, where this one has read every row."""


def look_over(config: Config, info: DatasetInfo, rule: NumberRule, communicator: Communicator) -> LookedOver:
    """Return what each split holds, every row checked by this start of the run or by an earlier one. Collective.

    Raises DataError on all ranks for a row that cannot be used.
    """
    reading = communicator.on_rank_0(_reading, config, info, rule)
    files = communicator.on_rank_0(surveyed.identities, info)
    kept = communicator.on_rank_0(_recalled, config, reading, files)
    arithmetic = arithmetics.called(config.arithmetic)
    if kept is not None and _is_sample_unchanged(info, kept, communicator, rule, arithmetic):
        return LookedOver(kept, "sample", None)
    surveys: dict[str, Survey] = {}
    classes = None if info.classes is None else len(info.classes)
    for split in info.splits:  # train first: where the file names no classes, the labels of train do
        surveys[split] = survey(info, split, classes, communicator, not config.quiet, rule, arithmetic)
        classes = None if info.numbers else len(surveys[split].class_counts)
    return LookedOver(surveys, "every row", Record(reading, files, surveys) if files else None)


def _reading(config: Config, info: DatasetInfo, rule: NumberRule) -> dict[str, Any]:
    """Return what decides what the rows of files are taken for, besides the files. Local."""
    return {
        "version": ddp_mlp.__version__,
        "names": [info.x_name, info.y_name],
        "features": [info.features, None if info.order is None else list(info.order)],
        "classes": None if info.classes is None else list(info.classes),
        "numbers": info.numbers,
        "rule": asdict(rule),
        "arithmetic": config.arithmetic,
        "rows": {split: structure.rows for split, structure in info.splits.items()},
    }


def _recalled(config: Config, reading: dict[str, Any], files: list[list[int]]) -> dict[str, Survey] | None:
    """Return what an earlier start has found in the very same files, where that is asked for. Local."""
    if config.check != "auto" or config.run_dir is None or not files:
        return None
    record = surveyed.load(Path(config.run_dir) / surveyed.SURVEY)
    if record is None or (record.reading, record.files) != (reading, files):
        return None
    return record.surveys


def _is_sample_unchanged(
    info: DatasetInfo,
    kept: dict[str, Survey],
    communicator: Communicator,
    rule: NumberRule,
    arithmetic: Arithmetic,
) -> bool:
    """Tell whether some blocks of every split still have the bytes that they had. Collective."""
    same = True
    for split, known in kept.items():
        blocks = survey_blocks(info.splits[split].rows)
        chosen = communicator.broadcast(_sample(len(blocks)))
        classes = None if info.numbers else len(known.class_counts)
        found = _survey_some(info, split, [blocks[i] for i in chosen], classes, communicator, None, rule, arithmetic)
        same &= [block.digest.hex() for block in found] == [known.blocks[i] for i in chosen]
    return same


def _sample(count: int) -> list[int]:
    """Return the numbers of some of so many blocks: others at each start, since no bit depends on which."""
    between = range(1, count - 1)
    return sorted({0, count - 1, *random.SystemRandom().sample(between, min(SAMPLED - 2, len(between)))})


def survey(
    info: DatasetInfo,
    split: str,
    classes: int | None,
    communicator: Communicator,
    progress: bool = False,
    rule: NumberRule | None = None,
    arithmetic: Arithmetic = NATIVE,
) -> Survey:
    """Check every row of a split, and return its statistics and fingerprint: the same for every P. Collective.

    Each rank surveys its share of the blocks; with `progress`, rank 0 shows how far it is where stderr is a terminal.
    Raises DataError on all ranks for a row that cannot be used.
    """
    shown = f"checking {split}" if progress else None
    blocks = survey_blocks(info.splits[split].rows)
    everything = _survey_some(info, split, blocks, classes, communicator, shown, rule, arithmetic)
    return communicator.on_rank_0(merge_surveys, everything)


def _survey_some(
    info: DatasetInfo,
    split: str,
    blocks: Sequence[tuple[int, int]],
    classes: int | None,
    communicator: Communicator,
    shown: str | None,
    rule: NumberRule | None,
    arithmetic: Arithmetic,
) -> list[BlockSurvey]:
    """Survey blocks, each rank its share of them; return all. `shown` are the words beside rank 0's bar. Collective."""
    from tqdm import tqdm

    share = cut(len(blocks), communicator.size)
    mine = blocks[share[communicator.rank] : share[communicator.rank + 1]]
    hidden = None if shown and communicator.rank == 0 else True
    found = []
    with communicator.in_agreement(), Reader(info, split) as reader:
        for lo, hi in tqdm(mine, desc=shown, leave=False, delay=1, disable=hidden):
            found.append(survey_block(reader, lo, hi, classes, rule, arithmetic))
    return [block for part in communicator.allgather(found) for block in part]
