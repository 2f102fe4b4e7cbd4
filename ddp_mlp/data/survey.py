"""A split surveyed by all ranks together: every row checked, the same figures for every P."""

from ddp_mlp.nn.arithmetic import NATIVE, Arithmetic
from ddp_mlp.parallel.communicator import Communicator
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import NumberRule, Survey, merge_surveys, survey_block, survey_blocks
from ddp_mlp.summing.tree import cut


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
    from tqdm import tqdm

    blocks = survey_blocks(info.splits[split].rows)
    share = cut(len(blocks), communicator.size)
    mine = blocks[share[communicator.rank] : share[communicator.rank + 1]]
    shown = None if progress and communicator.rank == 0 else True
    found = []
    with communicator.in_agreement(), Reader(info, split) as reader:
        for lo, hi in tqdm(mine, desc=f"checking {split}", leave=False, delay=1, disable=shown):
            found.append(survey_block(reader, lo, hi, classes, rule, arithmetic))
    everything = [block for part in communicator.allgather(found) for block in part]
    return communicator.on_rank_0(merge_surveys, everything)
