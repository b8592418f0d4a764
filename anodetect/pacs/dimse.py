"""An archive that speaks DIMSE: C-FIND to search, C-GET or C-MOVE to retrieve, C-STORE to store.

With C-GET objects come back on the same connection. With C-MOVE the archive opens one to us, so it
must know our AE title, host and port.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Move

from anodetect.pacs.archive import Answer, ArchiveError, FoundSeries, Keep, StudyQuery
from anodetect.pacs.instances import is_uid
from anodetect.pacs.nodes import Address, Own
from anodetect.pacs.storage import COMPRESSED, IMAGES, PLAIN, SUCCESS, keeper

SECONDS = 30.0  # to connect, and to wait for the next message
PENDING = (0xFF00, 0xFF01)
SOME_MISSING = 0xB000
WARNINGS = range(0xB000, 0xC000)  # stored, but not as it was
UNKNOWN_DESTINATION = 0xA801
AT_ONCE = 100  # UIDs in one request


class DimseArchive:
    """An archive behind a DICOM node."""

    def __init__(self, address: Address, own: Own) -> None:
        self.name, self.address, self.own = address.url, address, own
        self.finding: Association | None = None

    # -- Search ------------------------------------------------------------------------------------

    def studies(self, query: StudyQuery) -> Iterator[str]:
        keys = {
            "PatientID": query.patient,
            "StudyDate": query.days(),
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": "",
        }
        for found in self._find("STUDY", keys):
            study = str(found.get("StudyInstanceUID", ""))
            patient, day = str(found.get("PatientID") or ""), str(found.get("StudyDate") or "")
            if is_uid(study) and query.takes(patient, day):
                yield study

    def series(self, study: str) -> Iterator[FoundSeries]:
        keys = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": "",
            "Modality": "",
            "SeriesDescription": "",
        }
        for found in self._find("SERIES", keys):
            if is_uid(series := str(found.get("SeriesInstanceUID", ""))):
                modality = str(found.get("Modality") or "")
                yield FoundSeries(
                    study, series, modality, str(found.get("SeriesDescription") or "")
                )

    def instances(self, study: str, series: str) -> list[str]:
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
        found = (str(each.get("SOPInstanceUID", "")) for each in self._find("IMAGE", keys))
        return list(dict.fromkeys(filter(is_uid, found)))

    def _find(self, level: str, keys: Mapping[str, str]) -> list[Dataset]:
        """Return the answers to a search."""
        if self.finding is None or not self.finding.is_established:
            self.finding = self._associate([build_context(Find)])
        found: list[Dataset] = []
        for status, answer in self.finding.send_c_find(_identifier(level, keys), Find):
            code = _code(status)
            if code in PENDING and answer is not None:
                found.append(answer)
            elif code not in (SUCCESS, *PENDING):
                raise ArchiveError(f"{self.name} answers a search with {_said(code)}")
        return found

    # -- Retrieve ----------------------------------------------------------------------------------

    def fetch(self, study: str, series: str, instances: Sequence[str] | None, keep: Keep) -> None:
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        if instances is None:
            self._retrieve(_identifier("SERIES", keys), keep)
            return
        for start in range(0, len(instances), AT_ONCE):
            wanted = "\\".join(instances[start : start + AT_ONCE])
            self._retrieve(_identifier("IMAGE", keys | {"SOPInstanceUID": wanted}), keep)

    def _retrieve(self, identifier: Dataset, keep: Keep) -> None:
        if self.own.retrieve == "get":
            self._get(identifier, keep)
        else:
            self._move(identifier, keep)

    def _get(self, identifier: Dataset, keep: Keep) -> None:
        contexts, roles = [build_context(Get)], []
        for storage in IMAGES:
            contexts += [build_context(storage, PLAIN), build_context(storage, COMPRESSED)]
            roles.append(build_role(storage, scp_role=True))
        handlers = [(evt.EVT_C_STORE, keeper(keep))]
        with self._associated(contexts, roles, handlers) as association:
            self._follow(association.send_c_get(identifier, Get))

    def _move(self, identifier: Dataset, keep: Keep) -> None:
        own = AE(self.own.title)
        for storage in IMAGES:
            own.add_supported_context(storage, [*PLAIN, *COMPRESSED])
        handlers = [(evt.EVT_C_STORE, keeper(keep))]
        try:
            server = own.start_server(
                (self.own.host, self.own.port), block=False, evt_handlers=handlers
            )
        except OSError:
            raise ArchiveError(
                f"{self.own.host}:{self.own.port} is not free; --port names another"
            ) from None
        try:
            with self._associated([build_context(Move)]) as association:
                self._follow(association.send_c_move(identifier, self.own.title, Move))
        finally:
            if server is not None:
                server.shutdown()

    def _follow(self, answers: Iterator[tuple[Dataset, Dataset | None]]) -> None:
        """Wait until objects have come; ArchiveError if none can come. Of single ones that did not
        the caller finds out."""
        for status, _ in answers:
            code = _code(status)
            if code == UNKNOWN_DESTINATION:
                raise ArchiveError(
                    f"{self.name} does not know where {self.own.title} is: register it there with "
                    "host and port, or use --retrieve get"
                )
            if code not in (SUCCESS, SOME_MISSING, *PENDING):
                raise ArchiveError(f"{self.name} answers a retrieval with {_said(code)}")

    # -- Store -------------------------------------------------------------------------------------

    def store(self, files: Sequence[Path]) -> Iterator[Answer]:
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        kinds = {(str(h.SOPClassUID), str(h.file_meta.TransferSyntaxUID)) for h in headers}
        contexts = [build_context(storage, syntax) for storage, syntax in sorted(kinds)]
        with self._associated(contexts) as association:
            for file, header in zip(files, headers, strict=True):
                yield Answer(str(header.SOPInstanceUID), _store_one(association, file))

    def close(self) -> None:
        if self.finding is not None and self.finding.is_established:
            self.finding.release()

    # -- Connection --------------------------------------------------------------------------------

    @contextmanager
    def _associated(
        self, contexts: Sequence[Any], roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
    ) -> Iterator[Association]:
        association = self._associate(contexts, roles, handlers)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def _associate(
        self, contexts: Sequence[Any], roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
    ) -> Association:
        """Return a connection; ArchiveError if the archive does not take part."""
        own = AE(self.own.title)
        own.acse_timeout = own.connection_timeout = SECONDS
        own.dimse_timeout = own.network_timeout = 10 * SECONDS
        tls = (self.own.tls.client(), self.address.host) if self.address.secure else None
        association = own.associate(
            self.address.host,
            self.address.port,
            list(contexts),
            ae_title=self.address.title,
            ext_neg=list(roles),
            evt_handlers=list(handlers),
            tls_args=tls,
        )
        if association.is_established:
            return association
        if association.is_rejected:
            raise ArchiveError(
                f"{self.name} turns {self.own.title} away: register this AE title there, and see "
                "that the archive's own is right"
            )
        raise ArchiveError(f"{self.name}: cannot be reached, or offers none of what is asked for")


def _store_one(association: Association, file: Path) -> str:
    """Send one object; return why it was not stored, "" if it was."""
    if not association.is_established:
        return "the connection ended before"
    try:
        code = _code(association.send_c_store(file))
    except ValueError:
        return "its kind of object is not supported"
    except RuntimeError:
        return "the connection ended before"
    if code == SUCCESS or code in WARNINGS:
        return ""
    return f"refused with {_said(code)}"


def _identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for key, value in keys.items():
        setattr(identifier, key, value)
        if not value.isascii():
            identifier.SpecificCharacterSet = "ISO_IR 192"
    return identifier


def _code(status: Dataset) -> int | None:
    """Return the status of an answer; None if none came in time."""
    return int(status.Status) if "Status" in status else None


def _said(code: int | None) -> str:
    return "nothing" if code is None else f"status 0x{code:04X}"
