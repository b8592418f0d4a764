"""An archive that speaks DICOMweb: QIDO to search, WADO to retrieve, STOW to store."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from anodetect.pacs.archive import Answer, ArchiveError, FoundSeries, Keep, StudyQuery
from anodetect.pacs.instances import is_uid
from anodetect.pacs.nodes import Address, Credentials, Own

PAGE = 500  # entries that a search asks for at once
SECONDS = (10.0, 300.0)  # to connect, and to wait for an answer
AS_STORED = (("application/dicom", "*"),)  # in the transfer syntax in which an archive has them
STATUS = {401: "wants a user and a password, or others", 403: "does not allow it"}
REASONS = {0x0110: "processing failed", 0x0122: "its kind of object is not supported"}

# They log addresses, which hold what was searched for, and what an archive says of a patient.
for name in ("dicomweb_client", "retrying", "urllib3"):
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)


class WebArchive:
    """An archive behind a DICOMweb service."""

    def __init__(self, address: Address, own: Own, credentials: Credentials) -> None:
        self.name = address.url
        self.session = _session(own, credentials)
        self.client = DICOMwebClient(address.url, session=self.session, timeout=SECONDS)
        self.client.set_http_retry_params(max_attempts=3, wait_exponential_multiplier=250)

    def studies(self, query: StudyQuery) -> Iterator[str]:
        wanted = {
            "PatientID": query.patient,
            "StudyDate": query.days(),
            "ModalitiesInStudy": query.modality,
        }
        filters = {key: value for key, value in wanted.items() if value}
        for found in self._pages(self.client.search_for_studies, filters):
            study = _text(found, "StudyInstanceUID")
            patient, day = _text(found, "PatientID"), _text(found, "StudyDate")
            if is_uid(study) and query.takes(patient, day):
                yield study

    def series(self, study: str) -> Iterator[FoundSeries]:
        def search(**page: Any) -> list[Any]:
            more = {"fields": ["SeriesDescription", "Modality"]}
            return list(self.client.search_for_series(study, **more, **page))

        for found in self._pages(search, {}):
            series = _text(found, "SeriesInstanceUID")
            if is_uid(series):
                modality, description = _text(found, "Modality"), _text(found, "SeriesDescription")
                yield FoundSeries(study, series, modality, description)

    def instances(self, study: str, series: str) -> list[str]:
        def search(**page: Any) -> list[Any]:
            return list(self.client.search_for_instances(study, series, **page))

        found = (_text(each, "SOPInstanceUID") for each in self._pages(search, {}))
        return list(dict.fromkeys(filter(is_uid, found)))

    def fetch(self, study: str, series: str, instances: Sequence[str] | None, keep: Keep) -> None:
        with self._errors():
            if instances is None:
                for dataset in self.client.iter_series(study, series, media_types=AS_STORED):
                    keep(_written(dataset))
                return
            for instance in instances:
                keep(_written(self.client.retrieve_instance(study, series, instance, AS_STORED)))

    def store(self, files: Sequence[Path]) -> Iterator[Answer]:
        for file in files:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            instance = str(header.SOPInstanceUID)
            try:
                with self._errors():
                    answer = self._post(file.read_bytes())
            except ArchiveError as error:
                yield Answer(instance, str(error))
                continue
            yield Answer(instance, _refusal(answer, instance))

    def _post(self, content: bytes) -> Dataset:
        """Send one object as it is; return what the archive says of it."""
        boundary = token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        response = self.session.post(
            f"{self.name}/studies",
            data=head + content + f"\r\n--{boundary}--\r\n".encode(),
            headers={"Content-Type": kind, "Accept": "application/dicom+json"},
            timeout=SECONDS,
        )
        if response.status_code != requests.codes.conflict:  # then it says what it did not take
            response.raise_for_status()
        return Dataset.from_json(response.json())

    def close(self) -> None:
        self.session.close()

    def _pages(self, search: Any, filters: Mapping[str, str]) -> Iterator[Dataset]:
        """Yield what a search finds, page by page; archives may answer with less than all."""
        seen: set[str] = set()
        start = 0
        while True:
            with self._errors():
                found = search(search_filters=filters, limit=PAGE, offset=start)
                datasets = list(map(Dataset.from_json, found))
            before = len(seen)
            for dataset in datasets:
                if (key := _key(dataset)) not in seen:
                    seen.add(key)
                    yield dataset
            if len(seen) == before:  # no more, or an archive that knows no pages and begins again
                return
            start += len(found)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what goes wrong on the way into one line that quotes nothing."""
        try:
            yield
        except requests.HTTPError as error:
            code = 0 if error.response is None else error.response.status_code
            raise ArchiveError(f"{self.name} {STATUS.get(code, f'answers {code}')}") from None
        except requests.exceptions.InvalidJSONError:
            raise ArchiveError(f"{self.name}: what it answers is no DICOMweb") from None
        except requests.exceptions.SSLError:
            raise ArchiveError(
                f"{self.name}: its certificate is not trusted; --tls-ca names who vouches for it"
            ) from None
        except requests.RequestException:
            raise ArchiveError(f"{self.name}: cannot be reached") from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise ArchiveError(f"{self.name}: what it answers is no DICOMweb") from None


class OwnSession(requests.Session):  # type: ignore[misc]
    """A session whose own authorities go before those of REQUESTS_CA_BUNDLE."""

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        verify = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)


def _session(own: Own, credentials: Credentials) -> requests.Session:
    session = OwnSession()
    if own.tls.ca is not None:
        session.verify = str(own.tls.ca)
    if own.tls.cert is not None:
        session.cert = str(own.tls.cert)
        if own.tls.key is not None:
            session.cert = (str(own.tls.cert), str(own.tls.key))

    if credentials.token:
        session.headers["Authorization"] = f"Bearer {credentials.token}"
    elif credentials.user:
        session.auth = (credentials.user, credentials.password)
    return session


def _text(found: Dataset, tag: str) -> str:
    return str(found.get(tag) or "")


def _key(found: Dataset) -> str:
    """Return what tells an entry of a search from the others."""
    tags = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    return "/".join(_text(found, tag) for tag in tags)


def _written(dataset: Dataset) -> bytes:
    """Return an object as a file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _refusal(answer: Dataset, instance: str) -> str:
    """Return why an object was not stored, "" if the archive says that it was."""
    for item in answer.get("FailedSOPSequence") or []:
        if str(item.get("ReferencedSOPInstanceUID", "")) == instance:
            code = int(item.get("FailureReason", 0) or 0)
            return REASONS.get(code, f"refused with status 0x{code:04X}")
    for item in answer.get("ReferencedSOPSequence") or []:
        if str(item.get("ReferencedSOPInstanceUID", "")) == instance:
            return ""
    return "the archive does not say that it stored it"
