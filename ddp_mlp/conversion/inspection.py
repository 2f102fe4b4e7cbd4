"""What is in a data-set file, in lines for people."""

from collections.abc import Iterator

from tqdm import tqdm

from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import Survey, merge_surveys, survey_block, survey_blocks
from ddp_mlp.units import counted


def contents(info: DatasetInfo) -> Iterator[str]:
    """Read a whole data-set file, a few MiB at a time, and yield lines on what each split holds."""
    yield f"{info.path!r}: {info.size_mtime[0]} bytes, {counted(info.features, 'feature')}"
    for split, structure in info.splits.items():
        survey = _survey(info, split)
        yield f"{split}: X ({structure.rows}, {info.features}) {structure.dtype}, y ({structure.rows},)" + (
            f", w ({structure.rows},) of sum {survey.weight_sum:g}" if structure.weighted else ""
        )
        constant = int((survey.minimum == survey.maximum).sum())
        yield f"  values {survey.minimum.min():g} to {survey.maximum.max():g}, {constant} constant features"
        names = info.classes or tuple(str(number) for number in range(len(survey.class_counts)))
        shown = [f"{_printable(name)} {count}" for name, count in zip(names, survey.class_counts, strict=True)]
        yield f"  {counted(len(names), 'class')}: {', '.join(shown[:40])}{', …' if len(shown) > 40 else ''}"
        yield f"  fingerprint {survey.fingerprint}"


def _survey(info: DatasetInfo, split: str) -> Survey:
    classes = None if info.classes is None else len(info.classes)
    with Reader(info, split) as reader:
        blocks = tqdm(survey_blocks(reader.rows), desc=f"reading {split}", leave=False, disable=None)
        return merge_surveys([survey_block(reader, lo, hi, classes) for lo, hi in blocks])


def _printable(text: str) -> str:
    return text if text.isprintable() and text.strip() == text != "" else repr(text)
