"""The step of the build that makes the review app's viewer and puts the app into the package.

Where the viewer cannot be built (no registry, no Node.js), the installation goes on: the app then
draws its pictures without it, and says how to build it.
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LEFT_OUT = {"node_modules", "__pycache__"}


class ViewerHook(BuildHookInterface[Any]):
    """Hatchling finds this class by itself, since it is the only hook in the file."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the viewer and add the app's files, the bundle among them."""
        app = Path(self.root, "apps", "review")
        module = run_path(str(app / "viewer" / "build.py"))
        try:
            module["build"]()
        except module["BuildError"] as error:
            self.app.display_warning(f"the review app's viewer was not built: {error}")

        if self.target_name == "sdist":
            build_data["artifacts"].append("/apps/review/viewer/bundle")
        elif version != "editable":
            build_data["force_include"].update(_files(app))


def _files(app: Path) -> dict[str, str]:
    """Return the app's files with their places in the package."""
    places = {}
    for file in sorted(app.rglob("*")):
        parts = file.relative_to(app).parts
        if file.is_file() and not LEFT_OUT & set(parts):
            places[str(file)] = "/".join(("anodetect", "_review", *parts))
    return places
