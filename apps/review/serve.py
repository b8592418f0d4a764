"""What `anodetect review` becomes: Streamlit with app.py, everything imported before the first
visitor comes."""

from pathlib import Path
from runpy import run_path

from streamlit.web import cli

run_path(str(Path(__file__).with_name("app.py")))
cli.main()
