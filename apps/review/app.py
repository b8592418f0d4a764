"""What `anodetect review` has Streamlit run; arguments: score directories, and --root for each
folder to work in.

Streamlit runs a file, not a module, so this finds the package it stands in: anodetect._review when
installed, apps.review in a checkout.
"""

import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
if HERE.name == "_review":
    NAME = "anodetect._review"
else:
    NAME = "apps.review"
    if str(HERE.parents[1]) not in sys.path:
        sys.path.append(str(HERE.parents[1]))

page = import_module(f"{NAME}.page")

if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--root", type=Path, action="append", default=[])
    parser.add_argument("folders", type=Path, nargs="*")
    arguments = parser.parse_args()
    page.main(arguments.folders, arguments.root)
