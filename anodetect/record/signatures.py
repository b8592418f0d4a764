"""Ed25519 signatures of heads: of a record, of its verdicts, and of its report.

    signature.json            of a record: its head
    reviews.signed.*.json     of verdicts: the end of their chain, one for each session of the app
    report.json               of report.html: its hash, see record.reports

What is signed is ASCII text: the 64 digits of a record's head, or a word for what it is, a blank
and the digits ("verdicts 3f…", "report 9a…"), so that no signature passes for one of another kind.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import TypeAdapter

from anodetect.errors import ConfigError
from anodetect.files import write_atomic
from anodetect.record.objects import object_of

SIGNATURE = "signature.json"
ALGORITHM = "Ed25519"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A public key and a signature of it, in hexadecimal digits; both "" if nothing is signed."""

    public_key: str = ""
    signature: str = ""

    def signs(self, text: str, trusted: Ed25519PublicKey | None) -> bool:
        """Return whether this is the signature of `text` by the trusted key, or, where there is
        none, by the key that it names."""
        try:
            key = trusted or Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), text.encode())
        except (ValueError, InvalidSignature):
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class SignedHead(Signature):
    """The content of signature.json: the head of a record and its signature."""

    algorithm: str = ALGORITHM
    head: str


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key from a PEM file without a password (`openssl genpkey -algorithm
    ed25519 -out key.pem`); ConfigError if it is none."""
    key = _key(path, lambda content: load_pem_private_key(content, None), "private")
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path}: not an Ed25519 key; make one with openssl genpkey -algorithm ed25519"
        )
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Read an Ed25519 public key from a PEM file; ConfigError if it is none."""
    key = _key(path, load_pem_public_key, "public")
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: not an Ed25519 public key")
    return key


def _key(path: Path, load: Callable[[bytes], object], which: str) -> object:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: no usable {which} key ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: no usable {which} key; a PEM file is expected") from None


def signature_of(text: str, key: Ed25519PrivateKey) -> Signature:
    """Return the signature of a text."""
    return Signature(
        public_key=key.public_key().public_bytes_raw().hex(),
        signature=key.sign(text.encode()).hex(),
    )


def sign(path: Path, head: str, key: Ed25519PrivateKey) -> None:
    """Write signature.json, which holds the head of a record and its signature."""
    signed = SignedHead(head=head, **asdict(signature_of(head, key)))
    write_atomic(path / SIGNATURE, json.dumps(asdict(signed), indent=2) + "\n")


def read(path: Path) -> SignedHead | None:
    """Return what signature.json in a score directory says; None if there is none. RunError if it
    cannot be read."""
    file = path / SIGNATURE
    return object_of(file, _ADAPTER) if file.exists() else None


_ADAPTER = TypeAdapter(SignedHead)
