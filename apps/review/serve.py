"""The program of `anodetect review`: it imports everything, so that the first visitor need not
wait, and starts Streamlit with app.py."""

import sys
from pathlib import Path
from runpy import run_path

from streamlit.web import cli

from anodetect.commands.review import ends

own = sys.argv[sys.argv.index("--") + 1 :]  # Streamlit changes sys.argv
run_path(str(Path(__file__).with_name("app.py")))
try:
    cli.main()
finally:  # the end of the verdicts is to be kept
    for text in ends([Path(each) for each in own if not each.startswith("--")]):
        print(text, file=sys.stderr)
