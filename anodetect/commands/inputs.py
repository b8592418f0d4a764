"""The files to score: files, folders, or the test part of a data set."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anodetect.data import cards
from anodetect.data.channels import Channels
from anodetect.data.listing import list_plain
from anodetect.data.records import Dataset, Problem, Record
from anodetect.data.scan import reasons
from anodetect.data.series import identified
from anodetect.errors import ConfigError, DataError
from anodetect.files import common_parent, is_below, path_text, relative_text
from anodetect.remote.paths import is_url, place

TRAIN_PART = "images of the train part"


@dataclass(frozen=True)
class Inputs:
    """The records to score, with ids relative to the folder `root`, the files that cannot be looked
    at, by the reason how many were passed over, and the names of what is scored: data sets, or
    folders and files by their paths below `root`, which itself goes by its own name."""

    root: Path
    records: Sequence[Record]
    problems: Sequence[Problem]
    passed_over: Mapping[str, int]
    names: Sequence[str] = ()


def collect(
    paths: Sequence[str],
    out: Path,
    follow_symlinks: bool,
    keep_identifiers: bool = False,
    channels: Channels | None = None,
) -> Inputs:
    """Return what is at these paths, without what lies in the score directory `out`. With
    `channels` the files of a study are one record.

    With several paths the root is their common parent folder. ConfigError without a path, DataError
    if there is nothing to score.
    """
    if not paths:
        raise ConfigError("nothing to score: give files, folders or a data set's name")
    listed: list[str | Path] = []
    for path in paths:
        listed.append(place(path) if is_url(path) else path)  # listed once, whoever looks at it
    if channels is None and (found := _plain(listed, out, follow_symlinks)):
        return found
    datasets = []
    for each in listed:
        dataset = cards.open_data(each, follow_symlinks=follow_symlinks, channels=channels)
        datasets.append(dataset)
    if len(datasets) == 1:
        (dataset,) = datasets
        testing = dataset.testing()
        inputs = Inputs(dataset.root, testing, dataset.problems, _passed_over(dataset, testing))
    else:
        inputs = _joined(datasets)
    names = [name_of(*each, inputs.root) for each in zip(listed, datasets, strict=True)]

    records = {record.id: record for record in inputs.records}
    if is_below(out, inputs.root):  # only then can outputs be among the inputs
        records = {
            name: record for name, record in records.items() if not is_below(record.path, out)
        }
    if keep_identifiers:
        records = {name: identified(record) for name, record in records.items()}
    if not records and not inputs.problems:
        raise DataError(f"{', '.join(paths)}: nothing to score")
    return replace(inputs, records=list(records.values()), names=names)


def _plain(paths: Sequence[str | Path], out: Path, follow_symlinks: bool) -> Inputs | None:
    """Return what is in one folder of very many images whose names say nothing; None for anything
    else, and if `out` lies in it."""
    root = place(paths[0])
    if len(paths) > 1 or not root.is_dir() or is_below(out, root):
        return None
    found = list_plain(root, follow_symlinks=follow_symlinks)
    if found is None:
        return None
    listing, walked = found
    passed_over = reasons(walked.passed_over.all())
    return Inputs(root, listing, walked.problems, passed_over, [own_name(root)])


def name_of(data: str | Path, dataset: Dataset, root: Path) -> str:
    """Return the name of what is scored: that of a data set, or of a folder or file its path below
    the folder `root`."""
    path = place(data)
    if not is_url(data) and not path.exists():
        return dataset.name
    below = relative_text(path, root)
    return own_name(path) if below == "." else below


def own_name(folder: Path) -> str:
    """Return the name of a folder, "" of that of a whole disk."""
    found = common_parent([folder])
    return path_text((found or folder).name)


def _joined(datasets: Sequence[Dataset]) -> Inputs:
    """Return several data sets as one below their common parent folder."""
    roots = [dataset.root for dataset in datasets]
    root = common_parent(roots)
    if root is None:
        names = ", ".join(map(str, roots))
        raise DataError(f"{names}: not on one drive or in one bucket; score them apart")
    records: list[Record] = []
    problems: list[Problem] = []
    passed_over: Counter[str] = Counter()
    for dataset in datasets:
        testing = dataset.testing()
        records += [cards.relative_to(record, root) for record in testing]
        passed_over.update(_passed_over(dataset, testing))
        below = relative_text(dataset.root, root)
        prefix = "" if below == "." else f"{below}/"
        problems += [replace(each, name=prefix + each.name) for each in dataset.problems]
    return Inputs(root, records, problems, passed_over)


def _passed_over(dataset: Dataset, testing: Sequence[Record]) -> Mapping[str, int]:
    """Return how many files of a data set are not scored, by the reason."""
    counts = reasons(dataset.passed_over)
    if others := len(dataset.records) - len(testing):
        counts[TRAIN_PART] = others
    return counts
