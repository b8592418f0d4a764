import os
import signal
import sys
import time
from functools import cache
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"
LONG = ("detector_contract", "cluster", "recovery", "review_browser", "pacs", "three_dimensions")
LONG += ("energy_detectors", "volumes", "audit", "cli", "processes", "environment", "review_app")


def pytest_configure():
    """Let the libraries compute with one thread, before one of them is imported.

    Two workers then have a core each. Also scores and weights, whose last bits depend on the number
    of threads, are the same for a single test as for all. Numba has a setting of its own: when it
    starts, it gives torch as many threads as it has itself.
    """
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ["ANODETECT_CACHE"] = "off"  # the user's own is neither read nor filled


def pytest_collection_modifyitems(items):
    """Begin with the files that take long, or one worker would have the last of them alone."""
    places = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory):
    """Keep what the review app remembers for its user away from the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_detection_limit():
    """Let trainings end without a detection limit, which takes seconds; its own tests measure
    it."""
    from anodetect.commands import limit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limit, "SERIES", {})
        yield


@pytest.fixture(scope="session", autouse=True)
def no_usual_folds():
    """Let detectors that learn in seconds train one model, as all others do; the tests of folds ask
    for them."""
    from anodetect.data import split

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "FOLDS", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def backbones_kept():
    """Keep a backbone of the extra `features` once it is read: every training looks for odd normals
    with one. Nothing changes it. Where no test module has imported features, nothing is kept."""
    features = sys.modules.get("anodetect.imaging.features")
    if features is None:
        yield
        return
    from anodetect.imaging.backbones.table import BACKBONES

    load = features.load_backbone
    kept = cache(lambda name, layers, _: load(name, layers))

    def keep(name, layers):
        known = BACKBONES.get(name)  # that of a test is another one
        return load(name, layers) if known is None else kept(name, tuple(layers), known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "load_backbone", keep)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_key_for_pseudonyms(tmp_path_factory):
    """Let the tests' configuration folder have the same key for pseudonyms in every session. The
    key decides which patients of DICOM series calibrate, and so where thresholds lie."""
    from anodetect.data import pseudonyms

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
        key = pseudonyms.key_file()
    key.parent.mkdir(parents=True)
    key.write_text("01" * 32)
    key.chmod(0o600)


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory):
    """The synthetic set in the MVTec layout: 60 normals to train on, 20 normals and 20 defects to
    test on."""
    from anodetect.data import synthetic

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


@pytest.fixture(scope="session")
def anoddpm_run(synthetic_folder, tmp_path_factory):
    """A finished run of a network that has seen little: what it scores is hardly rounded away."""
    import anodetect

    out = tmp_path_factory.mktemp("runs") / "anoddpm"
    small = {"size": 32, "widths": [16, 32], "components": 10, "training": {"steps": 3}}
    values = small | {"intensity": "image"}
    anodetect.train(str(synthetic_folder), "anoddpm", out, values=values, representation="pixels")
    return out


@pytest.fixture
def shared_data():
    if not SHARED.is_dir():
        pytest.skip("the shared data sets are not on this machine (../shared/data)")
    return SHARED


@pytest.fixture
def save_png(tmp_path):
    """Write an array as PNG below tmp_path and return its path."""
    import numpy as np
    from PIL import Image

    def save(name, array):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array)).save(path)
        return path

    return save


@pytest.fixture
def interruptible():
    """Let child processes react to SIGINT where the shell that started the tests ignores it.

    A child inherits an ignored signal. A signal with a handler has its default action in the child.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def time_of_this_process(monkeypatch):
    """Let time pass as this process computes, so that a short budget can be judged to a tenth of it
    however busy the machine is."""
    monkeypatch.setattr(time, "monotonic", time.process_time)


@pytest.fixture
def two_threads():
    """Compute with two threads, for what is promised for any fixed number of them."""
    from anodetect.record import threads

    before = threads.in_use()
    threads.limit(2)
    yield
    threads.limit(before)
