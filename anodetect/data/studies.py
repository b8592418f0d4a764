"""Files of a folder that belong to one study, as the channels of one image or volume.

Files are of one study if what the wildcards of their patterns stand for is the same, as
`sub-01_T1w.nii.gz` and `sub-01_FLAIR.nii.gz` for `*T1w*` and `*FLAIR*`. Without regard to that all
files are of one study that lie in a BIDS session, in a DICOM study, or in a folder of their own, if
no channel occurs twice there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from anodetect.data import dicom_head, names
from anodetect.data.channels import ChannelFile, Channels, Match, joined_notes, matched
from anodetect.data.records import Dataset, Problem, Record
from anodetect.data.truth_files import NamedFile
from anodetect.errors import ConfigError, DataError

Place = tuple[str, ...]  # the folders of a study, or its kind and its identifier


@dataclass(frozen=True)
class Candidate:
    """A file or series, and the channel that it is by its name: its number among the channels."""

    file: NamedFile
    record: Record
    channel: int
    match: Match


@dataclass(frozen=True)
class Study:
    """The files of a study in the order of channels; `problem` says why they are no record, "" if
    they are."""

    files: tuple[Candidate, ...]
    problem: str

    def record(self, channels: Channels) -> Record:
        """Return the study as one record, which is named for its first file."""
        first = self.files[0].record
        by_channel = {each.channel: each.record for each in self.files}
        parts, notes = [], {}
        for number, name in enumerate(channels.names):
            record = by_channel.get(number)
            if record is None:
                parts.append(ChannelFile(name))
            else:
                parts.append(ChannelFile(name, record.id, record.path, record.files))
                notes[name] = record.note
        return with_channels(replace(first, note=joined_notes(notes)), parts)


def with_channels(record: Record, channels: Sequence[ChannelFile]) -> Record:
    """Return a record that consists of these channels, one of which is there at least."""
    first = next(channel for channel in channels if channel.path is not None)
    assert first.path is not None
    return replace(record, path=first.path, files=first.files, channels=tuple(channels))


def find_channel(file: NamedFile, record: Record, channels: Channels) -> Candidate | None:
    """Return which channel a file is, None if none; ConfigError if it may be one or another.

    Of several patterns that fit, the one with the most characters beside wildcards decides.
    """
    path = (*file.folders, file.path.name)
    others = []
    if record.files:
        others = [record.description, *file.folders[-1:]]
    found: list[tuple[int, int, Match]] = []
    for number, pattern in enumerate(channels.patterns.values()):
        match = matched(pattern, path, others)
        if match is not None:
            found.append((match.literal, number, match))
    if not found:
        return None

    found.sort(key=lambda each: -each[0])
    if len(found) > 1 and found[0][0] == found[1][0]:
        one, other = (channels.names[number] for _, number, _ in found[:2])
        raise ConfigError(
            f"--channels: {record.id} may be {one} or {other}; make one of the patterns narrower"
        )
    _, number, match = found[0]
    return Candidate(file, record, number, match)


def studies_of(candidates: Sequence[Candidate], channels: Channels) -> list[Study]:
    """Return the studies that files belong to, in the order of their first files."""
    places: dict[Place, list[Candidate]] = {}
    for candidate in candidates:
        places.setdefault(_place(candidate), []).append(candidate)

    studies = []
    for place, together in places.items():
        if _is_one_study(place, together, channels):
            studies.append(_study(together, channels))
            continue
        by_rest: dict[tuple[str, ...], list[Candidate]] = {}
        for candidate in together:
            by_rest.setdefault(candidate.match.rest, []).append(candidate)
        studies += [_study(found, channels) for found in by_rest.values()]
    return studies


def _place(candidate: Candidate) -> Place:
    """Return where the files of a candidate's study lie."""
    record, folders = candidate.record, candidate.file.folders
    if record.files:
        study = dicom_head.headline(record.path).study
        if study:
            return "", "DICOM", study
    for number, folder in enumerate(folders):
        if folder.startswith("sub-"):
            session = folders[number + 1 : number + 2]
            own = session if session and session[0].startswith("ses-") else ()
            return "", "BIDS", *folders[: number + 1], *own
    return folders[: len(folders) - candidate.match.folders]


def _is_one_study(place: Place, together: Sequence[Candidate], channels: Channels) -> bool:
    """Return whether all files at a place are of one study, whatever their names."""
    numbers = [candidate.channel for candidate in together]
    if len(set(numbers)) < len(numbers):
        return False
    if not place:  # the root
        return len(numbers) == len(channels.names)
    return place[0] == "" or not names.meaning(place[-1])


def _study(together: Sequence[Candidate], channels: Channels) -> Study:
    """Return the study of these files, with what is wrong with it."""
    files = tuple(sorted(together, key=lambda candidate: candidate.channel))
    for number, name in enumerate(channels.names):
        found = [candidate.record.id for candidate in files if candidate.channel == number]
        if len(found) > 1:
            problem = f"{len(found)} files are {name}: {found[0]}, {found[1]}"
            return Study(files, f"{problem}; make the pattern of {name} narrower")
    problem = missing([candidate.channel for candidate in files], channels)
    return Study(files, problem)


def missing(present: Sequence[int], channels: Channels) -> str:
    """Return in words which channels a study lacks; "" if none, or if that is allowed."""
    if channels.allow_missing and present:
        return ""
    lacking = []
    for number, (name, pattern) in enumerate(channels.patterns.items()):
        if number not in present:
            lacking.append(f"{name} ({pattern})" if pattern else name)
    if not lacking:
        return ""
    return f"no {' and no '.join(lacking)}; a model of --allow-missing does without"


def in_channels(dataset: Dataset, channels: Channels | None, manifest: str) -> Dataset:
    """Return a data set that a manifest lists with these channels only, or with all of those that
    it names if these are None. Studies that lack one are problems.

    DataError if the manifest names no channels, or not these.
    """
    named: dict[str, str] = {}
    for record in dataset.records:
        named |= {channel.name: "" for channel in record.channels}
    if channels is None and not named:
        return dataset
    channels = channels or Channels(named)
    unknown = [name for name in channels.names if name not in named]
    if unknown:
        hint = "add a column 'channels'"
        if named:
            hint = f"its column 'channels' has {', '.join(named)}"
        raise DataError(f"{dataset.root}: {manifest} names no channel {unknown[0]}; {hint}")

    records, problems = [], list(dataset.problems)
    for record in dataset.records:
        own = {channel.name: channel for channel in record.channels}
        chosen = [own.get(name, ChannelFile(name)) for name in channels.names]
        present = [number for number, each in enumerate(chosen) if each.path is not None]
        reason = missing(present, channels)
        if reason:
            problems.append(Problem(record.id, reason))
        else:
            records.append(with_channels(record, chosen))
    return replace(dataset, records=tuple(records), problems=tuple(problems), channels=channels)
