"""The app as `anodetect review` serves it: Streamlit runs app.py, and the viewer's addresses stand
beside it."""

from importlib import import_module
from pathlib import Path
from runpy import run_path

import streamlit as st

SCRIPT = Path(__file__).with_name("app.py")
routes = import_module(f"{run_path(str(SCRIPT))['NAME']}.routes")
app = st.App(SCRIPT, routes=routes.served_routes())
