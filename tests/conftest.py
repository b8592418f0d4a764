import os
from pathlib import Path

import numpy as np
import pytest

from anodetect.data import synthetic

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory):
    """The synthetic set in the MVTec layout: 60 normals to train on, 20 normals and 20 defects to
    test on."""
    folder = tmp_path_factory.mktemp("synthetic") / "tiles"
    synthetic.write(folder, train=60, test=20, size=64)
    return folder


@pytest.fixture(scope="session")
def pca_run(synthetic_folder, tmp_path_factory):
    """A finished run, quick to make."""
    import anodetect

    out = tmp_path_factory.mktemp("runs") / "pca"
    anodetect.train(str(synthetic_folder), "pca", out)
    return out


@pytest.fixture
def shared_data():
    if not SHARED.is_dir():
        pytest.skip("the shared data sets are not on this machine (../shared/data)")
    return SHARED


@pytest.fixture
def save_png(tmp_path):
    """Write an array as PNG below tmp_path and return its path."""
    from PIL import Image

    def save(name, array):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array)).save(path)
        return path

    return save


@pytest.fixture(autouse=True)
def two_threads():
    """Bit-equality is promised for a fixed number of threads."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
