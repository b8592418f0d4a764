"""The colours of the verdicts' buttons, as people with one kind of cone less see them."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

VIEWER = Path("apps/review/viewer/src/style.ts")
TEXT = ["31333f", "fafafa"]  # of Streamlit's light and dark themes
# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
SEEN = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                  [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                 [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, seen):
    """CIE L*a*b* of "rrggbb"."""
    values = np.array([int(colour[n : n + 2], 16) / 255 for n in (0, 2, 4)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = TO_XYZ @ np.clip(np.array(seen) @ linear, 0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(light > 0.008856, np.cbrt(light), 7.787 * light + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("text", TEXT)
def test_verdicts_are_told_apart(text, seen):
    style = (Path(__file__).parents[1] / VIEWER).read_text("utf-8")
    names = re.findall(r"\[data-verdict=.*border-color: #?(\w+)", style)
    assert len(names) == 4
    colours = [lab(text if name == "currentColor" else name, SEEN[seen]) for name in names]
    # 2.3 is what is just noticed side by side.
    assert min(np.linalg.norm(one - two) for one, two in combinations(colours, 2)) > 20
