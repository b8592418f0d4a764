"""The detectors by name. Each is one file; its module is imported only when it is asked for."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from anodetect.errors import ConfigError, nearest


@dataclass(frozen=True)
class Entry:
    """`target` is "module:Class"; `cost` is what training takes on two CPU cores at the defaults.

    Of several `representations` the first is for shapes before a flat background, the last for
    images that fill their frame, unless one is asked for. `of_volumes` is the target for `--dims
    3`, "" where there is none. A `baseline` is there to be beaten: a report of several detectors
    shows another one in detail.
    """

    target: str
    summary: str
    citation: str
    cost: str
    representations: tuple[str, ...] = ("pixels",)
    of_volumes: str = ""
    baseline: bool = False


DETECTORS = {
    "anoddpm": Entry(
        "anodetect.detectors.anoddpm:AnoDDPM",
        "Partial diffusion: add a little noise, remove it with a U-Net that knows only normal "
        "images, compare.",
        "Wyatt et al., AnoDDPM, CVPR Workshops 2022",
        "minutes to train, tens of milliseconds an image",
        ("pixels", "features"),
        "anodetect.detectors.anoddpm3d:AnoDDPM3D",
    ),
    "ebm": Entry(
        "anodetect.detectors.ebm:EBM",
        "Energy of a denoiser, trained by denoising, then by contrastive divergence; its local "
        "energies are the map.",
        "Du & Mordatch, Implicit generation and modeling with energy-based models, NeurIPS 2019; "
        "Yoon et al., Autoencoding under normalization constraints, ICML 2021",
        "minutes to train, tens of milliseconds an image",
        ("pixels", "features"),
    ),
    "jem": Entry(
        "anodetect.detectors.jem:JEM",
        "Joint energy model: a classifier of places whose free energy is low on normal images and "
        "high elsewhere.",
        "Grathwohl et al., Your classifier is secretly an energy based model, ICLR 2020",
        "minutes to train, milliseconds an image",
    ),
    "ensemble": Entry(
        "anodetect.detectors.ensemble:Ensemble",
        "Product of experts: detectors of pixels and of features, each in deviations of normal "
        "images, as one.",
        "Hinton, Training products of experts by minimizing contrastive divergence, Neural "
        "Computation 2002",
        "minutes to train, tens of milliseconds an image",
    ),
    "dae": Entry(
        "anodetect.detectors.dae:DAE",
        "Denoising autoencoder: take coarse noise away in one pass, compare.",
        "Kascenas et al., Denoising autoencoders, MIDL 2022",
        "minutes to train, milliseconds an image",
    ),
    "pca": Entry(
        "anodetect.detectors.pca:PCA",
        "Baseline: distance to the linear subspace of normal images.",
        "Turk & Pentland, Eigenfaces, J. Cognitive Neuroscience 1991",
        "seconds to train, a millisecond an image",
        baseline=True,
    ),
    "knn": Entry(
        "anodetect.detectors.knn:KNN",
        "Baseline: distance to the nearest of many normal locations.",
        "Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022",
        "seconds to train, tens of milliseconds an image",
        ("features",),
        baseline=True,
    ),
    "intensity": Entry(
        "anodetect.detectors.intensity:Intensity",
        "Baseline: bright is anomalous; nothing is learned.",
        "Meissen et al., Challenging Current Semi-Supervised Anomaly Segmentation Methods, MIDL "
        "2021",
        "nothing to train, a millisecond an image",
        baseline=True,
    ),
}


RECOMMENDED = "anoddpm"  # what docs/detectors.md recommends, taken where no detector is named


def entry_named(name: str) -> Entry:
    """Return the entry of this name; ConfigError with the nearest name if there is none."""
    if name not in DETECTORS:
        raise ConfigError(f"no detector {name!r}; {nearest(name, DETECTORS)}")
    return DETECTORS[name]


def detector_class(name: str, dims: int = 2) -> Any:
    """Return the class behind a name, for images or for volumes in three `dims`; ConfigError if
    there is none."""
    entry = entry_named(name)
    if dims == 2:
        return resolve_name(entry.target)

    if not entry.of_volumes:
        known = ", ".join(each for each, entry in DETECTORS.items() if entry.of_volumes)
        raise ConfigError(f"{name} has no form for --dims 3; {known} has")
    return resolve_name(entry.of_volumes)
