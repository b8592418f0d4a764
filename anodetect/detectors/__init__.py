"""The detectors by name. Each is one file; its module is imported only when it is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from anodetect.errors import ConfigError, nearest


@dataclass(frozen=True)
class Entry:
    """A detector in the list of detectors.

    `target` is "module:Class", `volume_target` the same for `--dims 3`, "" where there is none.
    `cost` is what training and scoring take on two CPU cores at the defaults, as docs/benchmark.md
    has it, or a count of passes where that has nothing. Of several `representations` each becomes a
    member of an ensemble, unless one is asked for; with `first_only` the first is taken. A report
    of several detectors shows one in detail that is not a `baseline`. One that is `for_few` learns
    something from two images, too. A detector that `has_members` is made of others, which its
    settings name; its class is handed a function that makes them. The scores of one that is
    `signed` may be below 0, and so it cannot be a member. Images have at least `least_channels`;
    grey ones have one. One that `learns_anomalies` takes known ones, too. One that `leaves_out`
    channels compares an image channel by channel, and an absent one adds nothing to its map. One
    that `restores_shapes` makes a normal image of an anomalous one, so that of images that show a
    shape before a flat background it takes pixels; for others planted defects decide.
    `several_passes` says why a detector cannot be one graph; "" for one that has `one_pass`. One
    that is `train_free` learns in seconds, so that models of folds cost little.
    """

    target: str
    summary: str
    citation: str
    cost: str
    representations: tuple[str, ...] = ("pixels",)
    first_only: bool = False
    volume_target: str = ""
    baseline: bool = False
    for_few: bool = False
    has_members: bool = False
    signed: bool = False
    least_channels: int = 1
    learns_anomalies: bool = False
    leaves_out: bool = False
    restores_shapes: bool = False
    several_passes: str = ""
    train_free: bool = False


DETECTORS = {
    "anoddpm": Entry(
        target="anodetect.detectors.anoddpm:AnoDDPM",
        volume_target="anodetect.detectors.anoddpm3d:AnoDDPM3D",
        summary="Partial diffusion: add a little noise, remove it with a U-Net that knows only "
        "normal images, compare.",
        citation="Wyatt et al., AnoDDPM, CVPR Workshops 2022",
        cost="minutes to train, 14 ms an image on pixels and 50 ms on features",
        representations=("pixels", "features"),
        restores_shapes=True,
        leaves_out=True,
    ),
    "ebm": Entry(
        target="anodetect.detectors.ebm:EBM",
        summary="Energy of a denoiser, trained by denoising, then by contrastive divergence; its "
        "local energies are the map.",
        citation="Du & Mordatch, Implicit generation and modeling with energy-based models, "
        "NeurIPS 2019; Yoon et al., Autoencoding under normalization constraints, ICML 2021",
        cost="minutes to train, 13 ms an image on pixels and 47 ms on features",
        representations=("pixels", "features"),
        restores_shapes=True,
        leaves_out=True,
    ),
    "ncsn": Entry(
        target="anodetect.detectors.ncsn:NCSN",
        summary="Score matching: the score of noisy normal images at ten levels of noise, which is "
        "too large or too small elsewhere.",
        citation="Song & Ermon, Generative modeling by estimating gradients of the data "
        "distribution, NeurIPS 2019; Mahmood et al., Multiscale score matching for "
        "out-of-distribution detection, ICLR 2021",
        cost="minutes to train, 147 ms an image on features",
        representations=("pixels", "features"),
        leaves_out=True,
        several_passes="it passes a network once for each of ten levels of noise",
    ),
    "nce": Entry(
        target="anodetect.detectors.nce:NCE",
        summary="Noise-contrastive estimation: a normalised density of normal locations, learned "
        "by telling them from noise.",
        citation="Gutmann & Hyvärinen, Noise-contrastive estimation of unnormalized statistical "
        "models, JMLR 2012; Gao et al., Flow contrastive estimation, CVPR 2020",
        cost="two minutes to train, 59 ms an image on features",
        representations=("pixels", "features"),
    ),
    "jem": Entry(
        target="anodetect.detectors.jem:JEM",
        summary="Joint energy model: a classifier of places whose free energy is low on normal "
        "images and high elsewhere.",
        citation="Grathwohl et al., Your classifier is secretly an energy based model, ICLR 2020",
        cost="minutes to train, 3 to 6 ms an image",
        learns_anomalies=True,
    ),
    "vq": Entry(
        target="anodetect.detectors.vq:VQ",
        summary="Codes of a vector-quantised autoencoder, and how surprising each is to a prior "
        "that predicts it from the others.",
        citation="van den Oord et al., Neural discrete representation learning, NeurIPS 2017; "
        "Marimont & Tarroni, ISBI 2021; Austin et al., D3PM, NeurIPS 2021",
        cost="minutes to train, 57 ms an image on features",
        representations=("pixels", "features"),
        restores_shapes=True,
        several_passes="it predicts codes over random divisions of the image",
    ),
    "rbm": Entry(
        target="anodetect.detectors.rbm:RBM",
        summary="Boltzmann machine of patches or feature vectors: its free energy is low on normal "
        "ones and high elsewhere.",
        citation="Hinton, Training products of experts by minimizing contrastive divergence, "
        "Neural Computation 2002; Salakhutdinov & Hinton, Deep Boltzmann machines, AISTATS 2009",
        cost="two minutes to train, 52 ms an image on features",
        representations=("pixels", "features"),
    ),
    "gan": Entry(
        target="anodetect.detectors.gan:GAN",
        summary="A discriminator with a gradient penalty as energy, and the residual of an encoder "
        "into its generator's latents.",
        citation="Gulrajani et al., Improved training of Wasserstein GANs, NeurIPS 2017; Schlegl "
        "et al., f-AnoGAN, Medical Image Analysis 2019",
        cost="minutes to train, 18 ms an image on features",
        representations=("pixels", "features"),
        restores_shapes=True,
    ),
    "translate": Entry(
        target="anodetect.detectors.translate:Translate",
        summary="One channel translated into another by diffusion, where an image has the same "
        "scene twice: what can be seen in one of the two only.",
        citation="Sasaki et al., UNIT-DDPM: unpaired image translation with denoising diffusion "
        "probabilistic models, 2021; Su et al., Dual diffusion implicit bridges, ICLR 2023",
        cost="minutes to train, 12 passes of a network an image",
        least_channels=2,
        several_passes="it walks from one channel to another in a chain of passes",
    ),
    "ensemble": Entry(
        target="anodetect.detectors.ensemble:Ensemble",
        summary="Product of experts: detectors of pixels and of features, each in deviations of "
        "normal images, as one.",
        citation="Hinton, Training products of experts by minimizing contrastive divergence, "
        "Neural Computation 2002",
        cost="minutes to train, 60 to 80 ms an image",
        has_members=True,
        several_passes="it is several detectors, each with a representation of its own",
    ),
    "classifier": Entry(
        target="anodetect.detectors.classifier:Classifier",
        summary="A classifier of yours, in an ONNX file: its free energy is low on images that it "
        "knows and high on others.",
        citation="Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020; Hendrycks "
        "& Gimpel, ICLR 2017",
        cost="nothing to train, 65 passes of the classifier an image",
        signed=True,
        several_passes="it is many passes of a classifier that lies in an ONNX file already",
    ),
    "dae": Entry(
        target="anodetect.detectors.dae:DAE",
        summary="Denoising autoencoder: take coarse noise away in one pass, compare.",
        citation="Kascenas et al., Denoising autoencoders, MIDL 2022",
        cost="a minute or two to train, 4 to 8 ms an image",
        leaves_out=True,
    ),
    "pca": Entry(
        target="anodetect.detectors.pca:PCA",
        summary="Baseline: distance to the linear subspace of normal images, or of their features.",
        citation="Turk & Pentland, Eigenfaces, J. Cognitive Neuroscience 1991; on features "
        "Lendering et al., SubspaceAD, CVPR 2026",
        cost="seconds to train, 1 to 3 ms an image on pixels",
        representations=("pixels", "features"),
        first_only=True,
        baseline=True,
        train_free=True,
        for_few=True,
        leaves_out=True,
    ),
    "patchcore": Entry(
        target="anodetect.detectors.patchcore:PatchCore",
        summary="Baseline: distance to the nearest of normal locations that cover all of them.",
        citation="Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022",
        cost="half a minute to train, 50 ms an image",
        representations=("features",),
        baseline=True,
        train_free=True,
        for_few=True,
    ),
    "padim": Entry(
        target="anodetect.detectors.padim:PaDiM",
        summary="Baseline: distance to the Gaussian of normal features at each place.",
        citation="Defard et al., PaDiM, ICPR Workshops 2021",
        cost="seconds to train, hardly more an image than its features take",
        representations=("features",),
        baseline=True,
        train_free=True,
    ),
    "intensity": Entry(
        target="anodetect.detectors.intensity:Intensity",
        summary="Baseline: bright is anomalous; nothing is learned.",
        citation="Meissen et al., Challenging Current Semi-Supervised Anomaly Segmentation "
        "Methods, MIDL 2021",
        cost="nothing to train, less than a millisecond an image",
        baseline=True,
        train_free=True,
        leaves_out=True,
    ),
}


@dataclass(frozen=True)
class Renamed:
    """A detector of an older release: the name of the one that took its place, and the settings
    with which that scores a run of the old one as the old one did."""

    name: str
    settings: Mapping[str, Any]


RENAMED = {"knn": Renamed("patchcore", {"reweight": 0})}
FOR_FEW = "patchcore"  # taken for few images, where no detector is named
RECOMMENDED = "anoddpm"  # what docs/detectors.md recommends, taken where no detector is named


def entry_named(name: str) -> Entry:
    """Return the entry of this name, or of what took its place; ConfigError with the nearest name
    if there is none."""
    name = current_name(name)
    if name not in DETECTORS:
        raise ConfigError(f"no detector {name!r}; {nearest(name, DETECTORS)}")
    return DETECTORS[name]


def current_name(name: str) -> str:
    """Return the name that a detector has now; another name as it is."""
    return RENAMED[name].name if name in RENAMED else name


def detector_class(name: str, dims: int = 2) -> Any:
    """Return the class of this name, for `dims` 3 the one that models volumes.

    Raise ConfigError if there is none.
    """
    entry = entry_named(name)
    if dims == 2:
        return resolve_name(entry.target)

    if not entry.volume_target:
        known = ", ".join(each for each in DETECTORS if DETECTORS[each].volume_target)
        raise ConfigError(f"{name} has no form for --dims 3; {known} has")
    return resolve_name(entry.volume_target)
