"""A node that takes images by C-STORE and answers C-ECHO, and nothing else."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from anodetect.errors import ConfigError
from anodetect.pacs.nodes import LOOPBACK, Own
from anodetect.pacs.storage import COMPRESSED, IMAGES, PLAIN, keeper

MESSAGE_BYTES = 2**17  # of one message on the network that we ask for
LONGEST_MESSAGE = 2**21  # and the longest that is read
SENDERS = 8  # connections at a time
SECONDS = 60.0  # without a message, after which a connection ends


@contextmanager
def receiving(
    add: Callable[[bytes], None],
    own: Own,
    allowed: Sequence[str],
    limit: int,
) -> Iterator[int]:
    """Hand objects to `add` while the context lasts; yield the port.

    Only senders whose AE titles are `allowed` are heard, all on loopback if there are none. Objects
    of more than `limit` bytes end their connection. With a certificate the node speaks TLS alone.
    """
    if own.host not in LOOPBACK and not allowed:
        raise ConfigError(
            f"--host {own.host} can be reached from other machines: name with --allow the AE title "
            "of each that may send"
        )
    node = AE(own.title)
    node.require_called_aet = True
    node.require_calling_aet = list(allowed)
    node.maximum_associations = SENDERS
    node.maximum_pdu_size = MESSAGE_BYTES
    node.network_timeout = node.dimse_timeout = node.acse_timeout = SECONDS
    node.add_supported_context(Verification)
    for storage in IMAGES:
        node.add_supported_context(storage, [*PLAIN, *COMPRESSED])

    context = own.tls.server() if own.tls.cert else None
    handlers = [
        (evt.EVT_C_STORE, keeper(add)),
        (evt.EVT_CONN_OPEN, _bound, [limit]),
        (evt.EVT_PDU_RECV, _count),
    ]
    try:
        server = node.start_server(
            (own.host, own.port), block=False, ssl_context=context, evt_handlers=handlers
        )
    except OSError:
        raise ConfigError(
            f"{own.host}:{own.port} cannot be listened on; --port names another"
        ) from None
    try:
        yield int(server.server_address[1])
    finally:
        node.shutdown()


class BoundedSocket:
    """A connection's socket that ends the connection where a message or an object is larger than it
    may be: else a sender could fill the memory."""

    def __init__(self, inner: Any, limit: int) -> None:
        self.inner, self.limit, self.received = inner, limit, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def recv(self, count: int) -> bytearray:
        if count > LONGEST_MESSAGE or self.received > self.limit:
            raise OSError("larger than it may be")
        received: bytearray = self.inner.recv(count)
        return received


def _bound(event: Any, limit: int) -> None:
    """Bound what a new connection may send."""
    event.assoc.dul.socket = BoundedSocket(event.assoc.dul.socket, limit)


def _count(event: Any) -> None:
    """Count the bytes of the object that is being received."""
    socket = event.assoc.dul.socket
    for item in getattr(event.pdu, "presentation_data_value_items", ()):
        value = item.presentation_data_value
        is_command, is_last = value[0] & 1, value[0] & 2
        if not is_command:
            socket.received = 0 if is_last else socket.received + len(value)
