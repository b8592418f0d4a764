"""What tests in the distribution's Chromium need; they import it once Streamlit and Playwright are
known to be there."""

import shutil

import pytest
from playwright.sync_api import expect

from apps.review import routes

expect.set_options(timeout=60_000)  # on a busy machine
CHROMIUM = [
    pytest.mark.skipif(
        shutil.which("chromium") is None, reason="no chromium here: apt-get install chromium"
    ),
    pytest.mark.timeout(300),
]
VIEWER = [
    *CHROMIUM,
    pytest.mark.skipif(
        not (routes.BUNDLE / "viewer.js").is_file(),
        reason="the viewer is not built: python apps/review/viewer/build.py",
    ),
]
