"""Review: start the app, which the package does not import."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from anodetect.errors import ConfigError
from anodetect.files import ON_WINDOWS
from anodetect.record import directories, moved, reviews
from anodetect.record.reviews import DATABASE, JUDGEMENTS, SIGNING_KEY, Judgement
from anodetect.record.signatures import private_key
from anodetect.types import Reporter, Silent
from anodetect.words import amount

OPENED = "ANODETECT_OPENED"  # the address that the app opens in the user's browser
KEYS = "1234"  # of the verdicts, in the order of JUDGEMENTS
TAKEN = "NPZOJ"  # keys of other buttons
PACKAGES = ("streamlit", "plotly", "sqlalchemy", "psutil")  # of the extra `app`


def app_file() -> Path:
    """Return the app's file: beside the package in a checkout, inside it if installed from a
    wheel."""
    package = Path(__file__).parents[1]
    inside = package / "_review"
    return (inside if inside.is_dir() else package.parent / "apps" / "review") / "app.py"


def app_command(
    folders: Sequence[Path],
    port: int,
    roots: Sequence[Path] = (),
    keys: str = KEYS,
    data: Path | None = None,
) -> list[str]:
    """Return the arguments of the process that serves the app to this machine alone."""
    options = {
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "server.headless": "true",
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
    }
    app = app_file()
    # With -P nothing is imported from the folder in which it is started.
    serve, serving = app.with_name("serve.py"), app.with_name("serving.py")
    command = [sys.executable, "-P", str(serve), "run", str(serving)]
    command += [f"--{name}={value}" for name, value in options.items()]

    command.append("--")
    command += [f"--root={root.absolute()}" for root in roots]
    if keys != KEYS:
        command.append(f"--keys={keys}")
    if data is not None:
        command.append(f"--data={data.absolute()}")
    command += [str(folder.absolute()) for folder in folders]
    return command


def verdict_keys(keys: str) -> dict[Judgement, str]:
    """Return the key of each verdict from four letters or digits, in the order of JUDGEMENTS.

    Raises ConfigError where these are not four different keys, or where another button has one.
    """
    letters = keys.upper()
    usable = letters.isascii() and letters.isalnum() and not set(letters) & set(TAKEN)
    if not usable or len(letters) != len(JUDGEMENTS) or len(set(letters)) != len(letters):
        raise ConfigError(
            f"--keys {keys}: four different letters or digits are expected, for "
            f"{', '.join(JUDGEMENTS)}, and none of {', '.join(TAKEN)}"
        )
    return dict(zip(JUDGEMENTS, letters, strict=True))


def serve(
    folders: Sequence[Path],
    *,
    port: int,
    roots: Sequence[Path] = (),
    sign: Path | None = None,
    keys: str = KEYS,
    data: Path | None = None,
    opens: bool = False,
    reporter: Reporter | None = None,
) -> None:
    """Become the review app on score directories; this function does not return.

    `roots` are the folders that it may train and score in. With `sign`, a file with an Ed25519
    private key, the verdicts of this session are signed. `keys` are those of the verdicts; see
    `verdict_keys`. `data` is where the images are now, if they were moved. With `opens` the app's
    page is opened in the user's browser. ConfigError for keys that cannot be, without the extra
    `app`, without any folder, if a root is no folder, if `data` has none of the images, if the port
    is in use, or if the verdicts cannot be signed;
    RunError for a folder that is no finished score directory.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the review app needs {', '.join(missing)}: pip install 'anodetect[app]'"
        )
    if not folders and not roots:
        raise ConfigError("name a score directory, or with --root a folder to train and score in")
    verdict_keys(keys)
    _check_database(os.environ.get(DATABASE, ""))
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"--root {root}: not a folder")
    for folder in folders:
        directories.audit_content(folder)
    if data is not None:
        moved.check(list(folders), data)
    if sign is not None:
        private_key(sign)
        if os.environ.get(DATABASE):
            raise ConfigError(f"--sign: verdicts in the database of {DATABASE} cannot be signed")
        os.environ[SIGNING_KEY] = str(sign.absolute())
    _check_port(port)

    reporter = reporter or Silent()
    for text in ends(folders):
        reporter.say(text)
    reporter.say(f"http://127.0.0.1:{port} (Ctrl-C stops it)")
    command = app_command(folders, port, roots, keys, data)
    if opens and has_display():
        os.environ[OPENED] = f"http://127.0.0.1:{port}"
    if ON_WINDOWS:  # where execv would give the terminal back at once
        sys.exit(subprocess.call(command))
    # This process becomes the app, so that whatever stops the one stops the other.
    os.execv(command[0], command)


def has_display() -> bool:
    """Return whether a browser with windows can be opened here."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def ends(folders: Sequence[Path]) -> list[str]:
    """Return how the verdicts on each of these score directories end now, to be kept elsewhere. Of
    those in a database, which the app's Summary shows, nothing is said."""
    found = []
    for folder in folders:
        if os.environ.get(DATABASE) or not (folder / reviews.FILE).is_file():
            continue
        head = directories.read(folder).audit.verdicts_start
        own = [review for review in reviews.read(folder / reviews.FILE) if review.head == head]
        if own:
            found.append(
                f"{folder}: {amount(len(own), 'review')}; to check them later: "
                f"anodetect verify {shlex.quote(str(folder))} --reviews {own[-1].hash}"
            )

    return found


def _check_database(url: str) -> None:
    """Raise ConfigError for an SQLite file with a relative path: the app works in a folder of its
    own."""
    scheme, found, path = url.partition(":///")
    if found and scheme.startswith("sqlite") and not Path(path).is_absolute():
        raise ConfigError(f"{DATABASE}={url}: name the file with its absolute path")


def _check_port(port: int) -> None:
    """Raise ConfigError if nothing can listen on this port of 127.0.0.1."""
    with socket.socket() as listener:
        if not ON_WINDOWS:  # a port whose last connections were closed just now is free
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"--port {port}: cannot be used ({error.strerror}); choose another --port"
            ) from None
