"""The program of `anodetect review`: it imports everything, so that the first visitor need not
wait, and starts Streamlit with app.py.

It leaves the folder it was started in, whose `.streamlit` Streamlit would read: other origins,
headers that name the user, a login of somebody else's. The user's own in the home folder is read.
"""

import os
import sys
from pathlib import Path
from runpy import run_path

from anodetect.commands.review import ends

os.chdir(Path(__file__).resolve().parent)  # before Streamlit is imported; arguments are absolute
own = sys.argv[sys.argv.index("--") + 1 :]  # Streamlit changes sys.argv

from streamlit.web import cli  # noqa: E402

run_path(str(Path(__file__).with_name("app.py")))
try:
    cli.main()
finally:  # the end of the verdicts is to be kept
    for text in ends([Path(each) for each in own if not each.startswith("--")]):
        print(text, file=sys.stderr)
