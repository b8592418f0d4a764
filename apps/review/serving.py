"""The app as `anodetect review` serves it: Streamlit runs app.py, the viewer's addresses stand
beside it, and every answer has the headers of headers.py."""

from importlib import import_module
from pathlib import Path
from runpy import run_path

import streamlit as st
from starlette.middleware import Middleware

SCRIPT = Path(__file__).with_name("app.py")
package = run_path(str(SCRIPT))["NAME"]
routes, headers = import_module(f"{package}.routes"), import_module(f"{package}.headers")
app = st.App(SCRIPT, routes=routes.served_routes(), middleware=[Middleware(headers.Policies)])
