"""The program of `anodetect review`: it imports everything, so that the first visitor need not
wait, and starts Streamlit with app.py.

It leaves the folder it was started in, whose `.streamlit` Streamlit would read: other origins,
headers that name the user, a login of somebody else's. The user's own in the home folder is read.
"""

import os
import sys
import time
import webbrowser
from pathlib import Path
from runpy import run_path
from threading import Thread
from urllib.request import urlopen

from anodetect.commands.review import OPENED, ends

os.chdir(Path(__file__).resolve().parent)  # before Streamlit is imported; arguments are absolute
own = sys.argv[sys.argv.index("--") + 1 :]  # Streamlit changes sys.argv

from streamlit.web import cli  # noqa: E402


def open_when_ready(address: str, patience: int = 60) -> None:
    """Open an address in the user's browser once the app answers, for which it waits so many
    seconds."""
    for _ in range(10 * patience):
        try:
            urlopen(f"{address}/_stcore/health", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            webbrowser.open(address)
            return


run_path(str(Path(__file__).with_name("app.py")))
if address := os.environ.pop(OPENED, ""):
    Thread(target=open_when_ready, args=(address,), daemon=True).start()
try:
    cli.main()
finally:  # the end of the verdicts is to be kept
    for text in ends([Path(each) for each in own if not each.startswith("--")]):
        print(text, file=sys.stderr)
