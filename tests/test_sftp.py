"""Folders of a server with SSH: read and written as buckets are, through a server of the test's."""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import paramiko
import pytest

import anodetect
from anodetect.data import cards
from anodetect.errors import StoreError
from anodetect.record import directories
from anodetect.remote import stores, tries
from anodetect.remote.paths import place


class Login(paramiko.ServerInterface):
    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED

    def check_auth_publickey(self, username, key):
        is_known = username == "ana" and key == Server.user
        return paramiko.AUTH_SUCCESSFUL if is_known else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username):
        return "publickey"


class Handle(paramiko.SFTPHandle):
    def stat(self):
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


def answer(call, *arguments):
    """What a server says of a call of the system."""
    try:
        call(*arguments)
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno)
    return paramiko.SFTP_OK


class Files(paramiko.SFTPServerInterface):
    """The files below `Server.folder`."""

    def _place(self, path):
        return f"{Server.folder}{self.canonicalize(path)}"

    def list_folder(self, path):
        try:
            children = list(Path(self._place(path)).iterdir())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        return [paramiko.SFTPAttributes.from_stat(each.lstat(), each.name) for each in children]

    def lstat(self, path):
        try:
            return paramiko.SFTPAttributes.from_stat(Path(self._place(path)).lstat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    stat = lstat

    def open(self, path, flags, attributes):
        if Server.broken:
            Server.broken -= 1
            Server.transports[-1].close()  # the connection is cut
        try:
            descriptor = os.open(self._place(path), flags, 0o600)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        handle = Handle(flags)
        mode = "wb" if flags & os.O_WRONLY else "rb+" if flags & os.O_RDWR else "rb"
        handle.readfile = handle.writefile = os.fdopen(descriptor, mode)
        return handle

    def mkdir(self, path, attributes):
        return answer(Path(self._place(path)).mkdir)

    def remove(self, path):
        return answer(Path(self._place(path)).unlink)

    def posix_rename(self, old, new):
        return answer(Path(self._place(old)).replace, self._place(new))


class Server:
    """A server on this machine; `broken` connections are cut when a file is opened."""

    folder = ""
    user = None
    broken = 0
    transports = None

    def __init__(self, folder, home):
        Server.folder, Server.user = str(folder), paramiko.ECDSAKey.generate()
        Server.transports = []
        self.key = paramiko.ECDSAKey.generate()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        (home / ".ssh").mkdir()
        Server.user.write_private_key_file(str(home / ".ssh/id_ecdsa"))
        known = f"[127.0.0.1]:{self.port} {self.key.get_name()} {self.key.get_base64()}\n"
        (home / ".ssh/known_hosts").write_text(known)
        self.url = f"sftp://ana@127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            Server.transports.append(transport)
            transport.add_server_key(self.key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files)
            with suppress(EOFError, paramiko.SSHException):
                transport.start_server(server=Login())

    def close(self):
        self.socket.close()
        for transport in Server.transports:
            transport.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, synthetic_folder):
    folder, home = (tmp_path_factory.mktemp(name) for name in ("served", "home"))
    (folder / "day/a b").mkdir(parents=True)
    for number, path in enumerate(sorted((synthetic_folder / "test").rglob("*.png"))[:6]):
        (folder / f"day/a b/{number}.png").write_bytes(path.read_bytes())
    (folder / "day/link.png").symlink_to(folder / "day/a b/0.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        patch.setattr(tries, "WAITS", (0.01, 0.02, 0.04))
        server = Server(folder, home)
        yield server
        stores.store.cache_clear()
        server.close()


def test_a_folder_of_a_server_is_scored_and_keeps_the_record(server, pca_run, tmp_path):
    dataset = cards.open_data(f"{server.url}/day")
    assert [record.id for record in dataset.records] == [f"a b/{n}.png" for n in range(6)]
    Server.broken = 2
    anodetect.score(pca_run, [f"{server.url}/day"], f"{server.url}/scores/day", workers=1)
    assert not Server.broken
    served = directories.read(Path(Server.folder, "scores/day"))
    anodetect.score(pca_run, [f"{Server.folder}/day"], tmp_path / "s", workers=1)
    here = {row.path: row.score for row in directories.read(tmp_path / "s").rows}
    assert {row.path: row.score for row in served.rows} == {
        name: score for name, score in here.items() if name != "link.png"
    }
    assert anodetect.verify(served.path).intact


def test_parts_of_files_and_missing_ones(server):
    path = place(f"{server.url}/day/a b/0.png")
    with path.open("rb") as file:
        file.seek(10)
        assert file.read(20) == path.read_bytes()[10:30]
    with pytest.raises(FileNotFoundError):
        place(f"{server.url}/day/none.png").read_bytes()
    assert not place(f"{server.url}/nothing").is_dir()


def test_unknown_servers_and_users_are_refused(server, monkeypatch, tmp_path):
    with pytest.raises(StoreError, match="no key"):
        cards.open_data(f"{server.url.replace('ana', 'eve')}/day")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match="known_hosts"):
        cards.open_data(f"{server.url.replace('ana@', 'bob@')}/day")
