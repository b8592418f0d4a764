"""Review: start the app, which is no part of the package's imports."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from anodetect.errors import ConfigError


def app_file() -> Path:
    """The app beside the package in a checkout, or inside it when installed from a wheel."""
    package = Path(__file__).parents[1]
    inside = package / "_review"
    return (inside if inside.is_dir() else package.parent / "apps" / "review") / "app.py"


def app_command(folders: Sequence[Path], port: int, roots: Sequence[Path] = ()) -> list[str]:
    """What starts the app for this machine only; a list of arguments, which no shell reads."""
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
    given = [f"--{name}={value}" for name, value in options.items()]
    # -P: what lies in the folder it is started from is not imported.
    streamlit = [
        sys.executable,
        "-P",
        str(app_file().with_name("serve.py")),
        "run",
        str(app_file()),
        *given,
    ]
    workplaces = [f"--root={root.absolute()}" for root in roots]
    return [*streamlit, "--", *workplaces, *(str(folder.absolute()) for folder in folders)]


def serve(folders: Sequence[Path], *, port: int, roots: Sequence[Path] = ()) -> None:
    """Become the review app on score directories; does not return. `roots`: the folders it may
    train and score in. ConfigError without the extra `app`, or where a root is no folder."""
    missing = [
        name for name in ("streamlit", "plotly", "sqlalchemy", "psutil") if find_spec(name) is None
    ]
    if missing:
        raise ConfigError(
            f"the review app needs {', '.join(missing)}: pip install 'anodetect[app]'"
        )
    if not folders and not roots:
        raise ConfigError("name a score directory, or with --root a folder to train and score in")
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"--root {root}: not a folder")
    command = app_command(folders, port, roots)
    # This process becomes the app, so that whatever stops the one stops the other.
    os.execv(command[0], command)
