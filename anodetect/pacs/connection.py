"""The connection to an archive, in the protocol of its address."""

from importlib.util import find_spec

from anodetect.errors import ConfigError
from anodetect.pacs.archive import Archive
from anodetect.pacs.nodes import Address, Own, credentials

PACKAGES = ("pynetdicom", "dicomweb_client")


def check_extra() -> None:
    """Raise ConfigError if the extra is not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"pacs needs {' and '.join(missing)}: pip install 'anodetect[pacs]'")


def connect(address: Address, own: Own) -> Archive:
    """Return the archive at an address, which is not contacted yet."""
    check_extra()
    if address.web:
        from anodetect.pacs.dicomweb import WebArchive

        return WebArchive(address, own, credentials())
    from anodetect.pacs.dimse import DimseArchive

    return DimseArchive(address, own)
