"""Review: start the app, which the package does not import."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from anodetect.errors import ConfigError
from anodetect.files import ON_WINDOWS
from anodetect.record import directories
from anodetect.types import Reporter, Silent

PACKAGES = ("streamlit", "plotly", "sqlalchemy", "psutil")  # of the extra `app`


def app_file() -> Path:
    """Return the app's file: beside the package in a checkout, inside it if installed from a
    wheel."""
    package = Path(__file__).parents[1]
    inside = package / "_review"
    return (inside if inside.is_dir() else package.parent / "apps" / "review") / "app.py"


def app_command(folders: Sequence[Path], port: int, roots: Sequence[Path] = ()) -> list[str]:
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
    command = [sys.executable, "-P", str(app.with_name("serve.py")), "run", str(app)]
    command += [f"--{name}={value}" for name, value in options.items()]

    command.append("--")
    command += [f"--root={root.absolute()}" for root in roots]
    command += [str(folder.absolute()) for folder in folders]
    return command


def serve(
    folders: Sequence[Path],
    *,
    port: int,
    roots: Sequence[Path] = (),
    reporter: Reporter | None = None,
) -> None:
    """Become the review app on score directories; this function does not return.

    `roots` are the folders that it may train and score in. ConfigError without the extra `app`,
    without any folder, if a root is no folder, or if the port is in use; RunError for a folder that
    is no finished score directory.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the review app needs {', '.join(missing)}: pip install 'anodetect[app]'"
        )
    if not folders and not roots:
        raise ConfigError("name a score directory, or with --root a folder to train and score in")
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"--root {root}: not a folder")
    for folder in folders:
        directories.audit_content(folder)
    _check_port(port)

    (reporter or Silent()).say(f"http://127.0.0.1:{port} (Ctrl-C stops it)")
    command = app_command(folders, port, roots)
    if ON_WINDOWS:  # where execv would give the terminal back at once
        sys.exit(subprocess.call(command))
    # This process becomes the app, so that whatever stops the one stops the other.
    os.execv(command[0], command)


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
