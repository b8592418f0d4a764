"""Volumes that a program such as dcm2niix converted from DICOM, as their names and the JSON file
beside each say: which part of a complex number, which echo, whose, and what is no image to learn
from.

dcm2niix ends names with `_e2` (echo), `_ph`, `_real`, `_imaginary`, `_ROI1` (an overlay), `_Eq_1`
and `_Tilt_1` (resampled, beside the volume they were made of), `_Crop_1`, and a letter where a name
was taken. BIDS writes `_part-phase`, `_echo-2` and `sub-01_` into names.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anodetect.data import dicom_head, formats, names
from anodetect.data.patients import STUDY
from anodetect.data.pseudonyms import pseudonym
from anodetect.data.truth_files import NamedFile

SIDECARS = "descriptions beside converted volumes"
RESAMPLED_SOURCES = "volumes of which a converter made an even or upright copy beside them"
CROPPED = "cropped copies of volumes"
LOCALIZERS = dicom_head.LOCALIZERS.removeprefix("DICOM ")
OVERLAYS = "overlays that a converter took for masks"
LARGEST = 2**20  # bytes of a JSON file that is read
# Keys of which such a file has at least two.
KEYS = (
    "ConversionSoftware", "Modality", "ImageType", "SeriesDescription", "EchoTime",
    "MagneticFieldStrength", "Manufacturer", "ProtocolName",
)  # fmt: skip
PARTS = {
    "ph": "phase", "phase": "phase", "real": "real", "imaginary": "imaginary", "imag": "imaginary",
    "mag": "magnitude",
}  # fmt: skip
END = re.compile(r"ph|real|imaginary|e\d+|Eq|Tilt|Crop|ROI\d+")
SCOUTS = ("localizer", "localiser", "scout", "topogram", "surview", "scanogram", "smartbrain")


@dataclass(frozen=True)
class Converted:
    """The facts known of a converted volume. `quantity` ("magnitude", "phase" …) and `echo` ("e2")
    tell it from others of its series. `patient` is a pseudonym or the subject of BIDS, `study` a
    pseudonym. `no_image`
    says why it is not to be learned from, `clash` where its name and its description contradict
    each other. All are "" where nothing says it. With `derived` it was computed from others."""

    sequence: str = ""
    quantity: str = ""
    echo: str = ""
    patient: str = ""
    study: str = ""
    no_image: str = ""
    derived: bool = False
    clash: str = ""


@dataclass(frozen=True)
class _Name:
    """A name without what a converter added, and what that says."""

    base: str
    ends: tuple[str, ...]

    @property
    def quantity(self) -> str:
        return next((PARTS[end] for end in self.ends if end in PARTS), "")

    @property
    def echo(self) -> str:
        return next((end for end in self.ends if re.fullmatch(r"e\d+", end)), "")


def converted(files: Iterable[NamedFile]) -> dict[Path, Converted]:
    """Return what is known of each volume among the files of a folder; none of what was not
    converted, as far as is known."""
    volumes = [file for file in files if _is_volume(file)]
    beside: dict[tuple[tuple[str, ...], str], set[tuple[str, ...]]] = {}
    for file in volumes:
        name = _name(file.stem)
        beside.setdefault((file.folders, name.base), set()).add(name.ends)

    known = {}
    for file in volumes:
        said = sidecar_of(file)
        about = _by_name(file, beside, has_sidecar=bool(said))
        known[file.path] = _by_sidecar(about, said, file.path.name) if said else about
    return {path: about for path, about in known.items() if about != Converted()}


def sidecar_of(file: NamedFile) -> Mapping[str, Any]:
    """Return what the JSON file of a volume's name says; {} if there is none that describes a
    scan."""
    path = file.path.with_name(f"{file.stem}.json")
    try:
        if not _is_volume(file) or not path.is_file() or path.stat().st_size > LARGEST:
            return {}
        content = json.loads(path.read_text("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    is_one = isinstance(content, dict) and sum(key in content for key in KEYS) >= 2
    return content if is_one else {}


def _is_volume(file: NamedFile) -> bool:
    found = formats.format_named(file.path.name)
    return found is not None and found.content == "volume"


def _name(stem: str) -> _Name:
    """Return a name's parts: `head_e2_ph` is `head` with e2 and ph."""
    words, ends = stem.split("_"), []
    while len(words) > 1:
        numbered = words[-1].isdecimal() and words[-2] in ("Eq", "Tilt", "Crop")
        if not numbered and not END.fullmatch(words[-1]):
            break
        if not numbered:
            ends.append(words[-1])
        words.pop()
    return _Name("_".join(words), tuple(ends))


def _by_name(
    file: NamedFile,
    beside: Mapping[tuple[tuple[str, ...], str], set[tuple[str, ...]]],
    *,
    has_sidecar: bool,
) -> Converted:
    """Return what a volume's name says, given the ends of all names of one base. `_e2` is an echo
    only beside other names of its base, or where a description says that it was converted."""
    name, stem = _name(file.stem), file.stem
    siblings = beside[file.folders, name.base]
    echoes = has_sidecar or any(ends != name.ends for ends in siblings)
    quantity, echo = name.quantity, name.echo if echoes else ""
    if found := re.search(r"_part-(mag|phase|real|imag)(?=_|$)", stem):
        quantity = PARTS[found[1]]
    if found := re.search(r"_echo-0*(\d+)(?=_|$)", stem):
        echo = f"e{found[1]}"

    subject = re.match(r"sub-[0-9A-Za-z]+(?=_)", stem)
    patient = subject[0] if subject else _base_of_letter(file, beside)
    about = Converted(quantity=quantity, echo=echo, patient=patient)
    return replace(about, no_image=_no_image(name, siblings))


def _base_of_letter(file: NamedFile, beside: Mapping[tuple[tuple[str, ...], str], object]) -> str:
    """Return the name beside which a converter wrote this one with a letter more, of the same
    series; also for that name itself. "" without such names."""
    name = _name(file.stem).base
    shorter = re.fullmatch(r"(.*\d)[a-z]", name)
    base = shorter[1] if shorter else name
    lettered = (file.folders, f"{base}a") in beside
    together = lettered and (file.folders, base) in beside and base[-1:].isdecimal()
    return "/".join([*file.folders, base]) if together else ""


def _no_image(name: _Name, siblings: set[tuple[str, ...]]) -> str:
    """Return why a volume of this name is not to be learned from, given the ends of all names of
    the same base; "" if the name does not say it."""
    plain = tuple(end for end in name.ends if end not in ("Eq", "Tilt", "Crop"))
    others = [ends for ends in siblings if ends != name.ends]
    if any(end.startswith("ROI") for end in name.ends) and others:
        return OVERLAYS
    if "Crop" in name.ends and plain in others:
        return CROPPED

    for ends in others:
        added = set(ends) - set(name.ends)
        if added and added <= {"Eq", "Tilt"} and set(name.ends) <= set(ends):
            return RESAMPLED_SOURCES
    words = names.letters(name.base)
    return LOCALIZERS if any(scout in words for scout in SCOUTS) else ""


def _by_sidecar(about: Converted, said: Mapping[str, Any], name: str) -> Converted:
    """Return what is known of a volume from its name together with what its description says."""
    kinds = [str(kind).upper() for kind in _listed(said.get("ImageType"))]
    description = str(said.get("SeriesDescription") or said.get("ProtocolName") or "")
    modality = str(said.get("Modality") or "")
    words = names.words(description)
    sequence = next((word for word in reversed(words) if word in names.SEQUENCES), "")

    part = next((dicom_head.PARTS[kind] for kind in kinds[2:] if kind in dicom_head.PARTS), "")
    number = said.get("EchoNumber")
    echo = f"e{number}" if isinstance(number, int) else ""
    clashes = []
    for what, own, other in (("part", about.quantity, part), ("echo", about.echo, echo)):
        if own and other and own != other:
            clashes.append(f"{name}: the {what} is {own} by its name, {other} by its JSON file")

    patient = str(said.get("PatientID") or "")
    study = str(said.get("StudyInstanceUID") or "")
    scan = patient or study
    return Converted(
        sequence=sequence or modality.casefold(),
        quantity=about.quantity or part,
        echo=about.echo or echo,
        patient=pseudonym("", scan) if scan else about.patient,
        study=pseudonym("", study, prefix=STUDY) if study else "",
        no_image=about.no_image
        or dicom_head.no_image_of(kinds, description).removeprefix("DICOM "),
        derived=dicom_head.is_derived(kinds, modality or "MR"),
        clash="; ".join(clashes),
    )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
