"""Calls that mypy must find wrong.

A comment that ignores nothing, as where a signature is not seen, is an error of `make check`.
"""

import anodetect

anodetect.train("images", "pca", "run", detektor="pca")  # type: ignore[call-arg]
calibration: int = anodetect.Calibration.restore({})  # type: ignore[assignment]
