"""What is in data-set files, in lines for people: as training reads them, or as `convert` would."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tqdm import tqdm

from ddp_mlp.conversion.array_targets import ArrayTargets
from ddp_mlp.conversion.hdf5 import hdf5_splits, y_pieces
from ddp_mlp.conversion.labels import number_classes
from ddp_mlp.conversion.source import add_labels
from ddp_mlp.storage.dataset import DatasetInfo
from ddp_mlp.storage.groups import nearly_splits
from ddp_mlp.storage.reader import Reader
from ddp_mlp.storage.survey import NumberRule, Survey, merge_surveys, survey_block, survey_blocks
from ddp_mlp.units import counted

SHOWN = 40
FEW_CLASSES = 20
"""Up to this many, classes without rows are no sign that labels are not class numbers."""


def contents(info: DatasetInfo) -> Iterator[str]:
    """Read a whole data set, a few MiB at a time, and yield lines on what each split holds."""
    yield f"{info.path!r}: {info.size_mtime[0]} bytes, {counted(info.features, 'feature')}"
    yield from nearly_splits(info)
    for split, rows in hdf5_splits(info).items():
        structure, how = info.splits[split], rows.how
        labels = Counter[str]() if how is None or how.kind == "numbers" else _labels(info, split, how)
        odd = structure.odd or _odd(how, labels, info)
        if odd:
            yield f"{split}: X ({structure.rows}, {info.features}) {structure.dtype}, y is {odd}"
            numbered, _ = number_classes(list(labels), info.path, least=1)
            yield _classes(list(numbered), [labels[name] for name in numbered])
            yield "  `python -m ddp_mlp.convert` makes class numbers of them, which training reads"
            continue
        numbers = (structure.columns or 1) if how is not None and how.kind == "numbers" else 0
        survey = _survey(replace(info, numbers=numbers), split)
        y = f", y ({structure.rows},{f' {numbers}' if numbers > 1 else ''})" if structure.labelled else ""
        w = f", w ({structure.rows},) of sum {survey.weight_sum:g}" if structure.weighted else ""
        yield f"{split}: X ({structure.rows}, {info.features}) {structure.dtype}{y}{w}"
        constant = int((survey.minimum == survey.maximum).sum())
        yield f"  values {survey.minimum.min():g} to {survey.maximum.max():g}, {constant} constant features"
        yield from _answers(info, survey, how)
        yield f"  fingerprint {survey.fingerprint}"


def _answers(info: DatasetInfo, survey: Survey, how: ArrayTargets | None) -> Iterator[str]:
    """Yield a line on classes with their rows, or one on each number."""
    if how is None:
        yield "  no labels"
    elif survey.numbers is None:
        names = info.classes or tuple(str(number) for number in range(len(survey.class_counts)))
        yield _classes(names, survey.class_counts.tolist())
    else:
        found = survey.numbers
        for k, name in enumerate(how.names[:SHOWN]):
            missing = survey.count - int(found.count[k])
            gaps = f", {missing} missing" if missing else ""
            yield f"  {_printable(name)}: {found.minimum[k]:g} to {found.maximum[k]:g}, mean {found.mean[k]:g}{gaps}"


def _labels(info: DatasetInfo, split: str, how: ArrayTargets) -> Counter[str]:
    """Return how many rows have each label."""
    labels: Counter[str] = Counter()
    lo = 0
    for y in y_pieces(info, split):
        add_labels(labels, how.piece(y, y, None, info.path, lo), info.path)
        lo += len(y)
    return labels


def _odd(how: ArrayTargets | None, labels: Counter[str], info: DatasetInfo) -> str:
    """Return what keeps training from reading labels of numbers as they are; "" where nothing does."""
    if how is None or how.kind != "labels":
        return "one-hot" if how is not None and how.kind == "one-hot" else ""
    numbers = [int(label) for label in labels] if info.classes is None else []
    if numbers and min(numbers) < 0:
        return "numbers below 0"
    gaps = numbers and max(numbers) >= FEW_CLASSES and 2 * len(numbers) <= max(numbers)
    return "numbers far apart" if gaps else ""


def _classes(names: Sequence[str], counts: Sequence[int]) -> str:
    shown = [f"{_printable(name)} {count}" for name, count in zip(names, counts, strict=True)]
    return f"  {counted(len(names), 'class')}: {', '.join(shown[:SHOWN])}{', …' if len(shown) > SHOWN else ''}"


def _survey(info: DatasetInfo, split: str) -> Survey:
    classes = None if info.classes is None else len(info.classes)
    rule = NumberRule(missing=True)
    with Reader(info, split) as reader:
        blocks = tqdm(survey_blocks(reader.rows), desc=f"reading {split}", leave=False, disable=None)
        return merge_surveys([survey_block(reader, lo, hi, classes, rule) for lo, hi in blocks])


def _printable(text: str) -> str:
    return text if text.isprintable() and text.strip() == text != "" else repr(text)
