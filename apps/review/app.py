"""The script that Streamlit runs for `anodetect review`. Its arguments are score directories, and
--root for each folder to work in, --keys of the verdicts, and --data where images were moved to.

Streamlit runs a file and not a module, so the script imports the package it stands in by name:
anodetect._review when installed, apps.review in a checkout.
"""

import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
if FOLDER.name == "_review":
    NAME = "anodetect._review"
else:
    NAME = "apps.review"
    if str(FOLDER.parents[1]) not in sys.path:
        sys.path.append(str(FOLDER.parents[1]))

page = import_module(f"{NAME}.page")

if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--root", type=Path, action="append", default=[])
    parser.add_argument("--keys", default=page.KEYS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    arguments = parser.parse_args()
    page.main(arguments.folders, arguments.root, arguments.keys, arguments.data)
