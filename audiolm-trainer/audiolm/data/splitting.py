"""Deal an annotation out into train, valid and test, so that it stays dealt out that way.

In: an annotation, fractions, a seed. Out: three annotations in a folder. What part an entry goes to
is decided by a hash of the seed and of the entry's group (its audio file, the words of its texts,
or a key such as `speaker`): nothing else in the annotation matters, so added rows move no old ones,
rows of one group stay together, and every task is dealt out in the same proportion.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from audiolm.data.entries import Entry, NoEntryError, number_entries, write_entries
from audiolm.data.identity import clean_path, draw_fraction, list_texts, normalise_text
from audiolm.data.outputs import whole_folder
from audiolm.data.reshaping import iterate_checked
from audiolm.errors import UserError

PARTS = ("train", "valid", "test")
GROUP_BY_AUDIO = "path"
GROUP_BY_WORDS = "text"


@dataclass
class SplitReport:
    """Entries in each part, all together and by task."""

    files: dict[str, str] = field(default_factory=dict)
    num_entries: Counter[str] = field(default_factory=Counter)
    by_task: dict[str, Counter[str]] = field(default_factory=dict)


def choose_part(entry: Entry, fractions: dict[str, float], seed: int, group_key: str) -> str:
    """The part that an entry belongs to.

    Raises:
        UserError: it has no such key.
    """
    if group_key == GROUP_BY_AUDIO:
        group: object = clean_path(entry["path"])
    elif entry.get(group_key) in (None, ""):
        raise UserError(
            f"the entry of {entry['path']} has no {group_key!r}; choose another --group"
        )
    elif group_key == GROUP_BY_WORDS:
        group = sorted({normalise_text(text) for text in list_texts(entry)})
    else:
        group = entry[group_key]
    drawn = draw_fraction(seed, "split", group)
    # Test first: a larger validation set takes nothing from the test set.
    for part in ("test", "valid"):
        if drawn < fractions[part]:
            return part
        drawn -= fractions[part]
    return "train"


def split_annotation(
    path: str | Path,
    output: str | Path,
    *,
    valid: float,
    test: float,
    seed: int,
    group_key: str = GROUP_BY_AUDIO,
    suffix: str = ".json",
    overwrite: bool = False,
) -> SplitReport:
    """Write `train`, `valid` and `test` (with testset_ids) into the folder `output`.

    Args:
        path: the annotation.
        output: folder to make.
        valid, test: fractions of the groups; 0 leaves the part out.
        seed: another one deals out otherwise.
        group_key: entries in which this is equal stay together; "path": the audio file; "text": the
            words of all texts, as `find_leaks` compares them.
        suffix: .json, .jsonl or .jsonl.gz.
        overwrite: whether a folder that is there may be replaced.

    Raises:
        UserError: fractions that leave nothing to train on, a malformed entry, a part without any
            entry, or an output that cannot be written.
    """
    fractions = {"test": test, "valid": valid}
    if min(valid, test) < 0 or valid + test >= 1:
        raise UserError(f"--valid {valid} --test {test}: give fractions that leave some for train")
    report = SplitReport()
    with whole_folder(output, overwrite=overwrite, sources=[path]) as folder:
        for part in PARTS:
            if part != "train" and not fractions[part]:
                continue
            entries = (
                entry
                for entry in iterate_checked(path)
                if choose_part(entry, fractions, seed, group_key) == part
            )
            counted = _count(entries, part, report)
            file = folder / f"{part}{suffix}"
            try:
                write_entries(file, number_entries(counted) if part == "test" else counted, file)
            except NoEntryError as error:
                raise UserError(
                    f"no entry falls into {part}; use a larger fraction or another --seed"
                ) from error
            report.files[part] = str(Path(output) / file.name)
    return report


def _count(entries: Iterable[Entry], part: str, report: SplitReport) -> Iterator[Entry]:
    for entry in entries:
        report.num_entries[part] += 1
        report.by_task.setdefault(entry.get("task") or "asr", Counter())[part] += 1
        yield entry
