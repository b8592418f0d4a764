"""The program of `anodetect review`: it imports everything, so that the first visitor need not
wait, and starts Streamlit with app.py."""

from pathlib import Path
from runpy import run_path

from streamlit.web import cli

run_path(str(Path(__file__).with_name("app.py")))
cli.main()
