"""The addresses of archives, and what is needed to talk to one.

    https://host:8042/dicom-web   DICOMweb (QIDO, WADO, STOW)
    dicom://TITLE@host:4242       DIMSE (C-FIND, C-GET or C-MOVE, C-STORE) to the AE title TITLE
    dicoms://TITLE@host:2762      the same by TLS

A user's name and password, or a token, for DICOMweb come from the environment, so that they stand
in no list of processes, history or record.
"""

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from anodetect.errors import ConfigError

USER, PASSWORD, TOKEN = "ANODETECT_PACS_USER", "ANODETECT_PACS_PASSWORD", "ANODETECT_PACS_TOKEN"
EXPECTED = "https://host:port/dicom-web or dicom://TITLE@host:port is expected"
OWN_TITLE = "ANODETECT"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TITLE = re.compile(r"[A-Za-z0-9_.+ -]{1,16}", re.ASCII)

Retrieve = Literal["get", "move"]


@dataclass(frozen=True)
class Address:
    """Where an archive is. `title` and `port` are those of DIMSE, "" and 0 for DICOMweb; `url` is
    the address as it was given."""

    url: str
    web: bool
    secure: bool
    host: str
    port: int = 0
    title: str = ""


@dataclass(frozen=True)
class Tls:
    """Files in PEM format: a certificate to show with its key, which may lie in the same file, and
    the authorities to believe, by default those of the system."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def check(self) -> None:
        """Raise ConfigError if a file is missing."""
        for file in (self.cert, self.key, self.ca):
            if file is not None and not file.is_file():
                raise ConfigError(f"{file}: no such file")
        if self.key is not None and self.cert is None:
            raise ConfigError("--tls-key belongs to a certificate; name it with --tls-cert")

    def client(self) -> ssl.SSLContext:
        """Return how to talk to a server, whose certificate and name are checked."""
        return self._context(ssl.Purpose.SERVER_AUTH)

    def server(self) -> ssl.SSLContext:
        """Return how to be a server, which needs a certificate; with a file of authorities it talks
        to those only who show a certificate of one of them."""
        context = self._context(ssl.Purpose.CLIENT_AUTH)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(purpose, cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError, ValueError):
            raise ConfigError(
                "--tls-cert, --tls-key, --tls-ca: not PEM files that fit together"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(frozen=True)
class Own:
    """This side of a connection: its AE title, where C-MOVE is to send, how series are retrieved
    by DIMSE, and the files of TLS."""

    title: str = OWN_TITLE
    host: str = LOOPBACK[0]
    port: int = 11112
    retrieve: Retrieve = "get"
    tls: Tls = Tls()


def address_of(url: str) -> Address:
    """Return an archive's address; ConfigError if it is none, or holds a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(f"not an address of an archive; {EXPECTED}") from None
    if parts.password is not None or (parts.username and parts.scheme.startswith("http")):
        raise ConfigError(
            f"an address holds no user and password, which lists of processes would show; set "
            f"{USER} and {PASSWORD}, or {TOKEN}"
        )
    host = parts.hostname or ""
    if parts.scheme in ("http", "https") and host:
        return Address(url.rstrip("/"), web=True, secure=parts.scheme == "https", host=host)

    if parts.scheme in ("dicom", "dicoms") and host and port and not parts.path.strip("/"):
        title = check_title(parts.username or "")
        secure = parts.scheme == "dicoms"
        return Address(url, web=False, secure=secure, host=host, port=port, title=title)
    raise ConfigError(f"{url}: not an address of an archive; {EXPECTED}")


def check_title(title: str) -> str:
    """Return an AE title; ConfigError if it cannot be one."""
    if not TITLE.fullmatch(title) or not title.strip():
        raise ConfigError(
            f"{title!r} is no AE title: 1 to 16 letters, digits and . _ + - are expected"
        )
    return title


@dataclass(frozen=True, repr=False)
class Credentials:
    """A user with a password, or a token; "" for none. They are not shown."""

    user: str = ""
    password: str = ""
    token: str = ""


def credentials() -> Credentials:
    """Return what the environment holds."""
    return Credentials(*(os.environ.get(name, "") for name in (USER, PASSWORD, TOKEN)))
