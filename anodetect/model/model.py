"""A model: its configuration, and the path of an image from native units to a score.

preprocess → representation → detector.score → heatmap in the image's own grid

A volume is a series of slices, each of which is an image. With three dimensions (`tiling.dims` 3) a
volume is one array that the detector sees in patches.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from anodetect.config import build
from anodetect.data.geometry import Geometry
from anodetect.errors import ConfigError, ImageError, RunError, one_line
from anodetect.imaging import tiling
from anodetect.imaging.backbones.table import BackboneFacts, UsesNetwork, embedded_name
from anodetect.imaging.heatmaps import pool
from anodetect.imaging.planes import absent
from anodetect.imaging.preprocess import PreparedVolume, Preprocess, PreprocessConfig, Whole
from anodetect.imaging.regions import Region
from anodetect.imaging.representations import (
    Expert,
    Panels,
    Representation,
    check_state,
    create_representation,
    encode_each,
)
from anodetect.imaging.resize import resize, resize_depth
from anodetect.imaging.tiling import TilingConfig
from anodetect.model.absences import Absences, absences_of
from anodetect.model.loading import LoadedImage
from anodetect.model.read_ahead import BATCH
from anodetect.model.seen import Seen
from anodetect.model.settings import create_detector, with_backbones
from anodetect.nn.batching import images_together
from anodetect.record import runs
from anodetect.stats.calibration import Doubles
from anodetect.types import (
    AnomalyChecker,
    Batch,
    Bools,
    Detector,
    Encoded,
    Floats,
    KindChecker,
    Scores,
    Seeds,
    ShapeChecker,
    image_seeds,
)


@dataclass
class Model:
    """Everything between an image in native units and its score.

    `seen` says what it learned from, None if that is not known.
    """

    preprocess: Preprocess
    tiling: TilingConfig
    representation: Representation
    detector: Detector
    seen: Seen | None = None
    absences: Absences | None = None

    @classmethod
    def create(cls, detector: str, representation: str, config: Mapping[str, Any]) -> "Model":
        """Return a model that has learned nothing yet, from the sections of a full configuration.

        Raises ConfigError if a name or a setting is wrong.
        """
        tiling_config = build(TilingConfig, config["tiling"], "tiling")
        return cls(
            Preprocess(
                build(PreprocessConfig, config["preprocess"], "preprocess"), tiling_config.dims
            ),
            tiling_config,
            create_representation(representation, config["representation"]),
            create_detector(detector, config["detector"], tiling_config.dims),
        )

    @classmethod
    def load(cls, run: runs.Run, device: str) -> "Model":
        """Return the model of a run; RunError if the run holds none, although its hashes fit."""
        header = run.header
        try:
            config = with_backbones(header.config, _embedded(run))
            model = cls.create(header.detector, header.representation, config)
            model.preprocess.load_state(header.preprocess)
            model.representation.run_on(device)
            model.representation.load_state(header.representation_state)
            model.detector.load_state(run.state, device=device)
            check_state(model.detector, model.shape_seen)
            if header.seen:
                model.seen = build(Seen, header.seen, "seen")
            if header.absences:
                model.absences = absences_of(header.absences)
            _check_backbones(run, model.backbones())
            model.preprocess.find_same_tools()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise RunError(f"{run.path}: not a usable model ({one_line(error)})") from error

        return model

    def check(self) -> None:
        """Raise ConfigError if the detector, or a member of an ensemble, cannot learn from images
        of the shape that its representation gives them."""
        if self.tiling.dims == 3:
            _check_shape(self.detector, (1, *self.tiling.patch))
            return
        _check_shape(self.detector, self.representation.shape)
        members = getattr(self.detector.config, "members", ())
        for name, expert in zip(members, self._experts, strict=True):
            try:
                _check_shape(expert.detector, expert.representation.shape)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None

    @property
    def shape_seen(self) -> tuple[int, ...]:
        """The shape of what the detector sees, [c, h, w], or of patches of volumes [c, d, h, w]."""
        if self.tiling.dims == 3:
            return (self.preprocess.channels, *self.tiling.patch)
        return self.representation.shape_of(self.preprocess.channels)

    def check_kinds(self, count: int) -> None:
        """Raise DataError if the detector, or a member of an ensemble, cannot learn from normal
        images of so many named kinds."""
        for detector in (self.detector, *[expert.detector for expert in self._experts]):
            if isinstance(detector, KindChecker):
                detector.check_kinds(count)

    def check_anomalies(self, *, known: bool) -> None:
        """Raise ConfigError if a setting of the detector, or of a member of an ensemble, has no
        effect where anomalies are `known`, or are not."""
        for detector in (self.detector, *[expert.detector for expert in self._experts]):
            if isinstance(detector, AnomalyChecker):
                detector.check_anomalies(known=known)

    def backbones(self) -> list[BackboneFacts]:
        """Return what is known of each network that was trained elsewhere: those whose features are
        modelled, of an ensemble's members, too, and the classifier of a user."""
        users: list[UsesNetwork] = [*self._representations()]
        if isinstance(self.detector, UsesNetwork):
            users.append(self.detector)
        found = []
        for user in users:
            source = user.source()
            if source is not None and source not in found:
                found.append(source)
        return found

    def without_cache(self) -> None:
        """Compute all features from now on, though they may have been kept: what is kept proves
        nothing."""
        for representation in self._representations():
            representation.without_cache()

    @property
    def _experts(self) -> Sequence[Expert]:
        """The members of an ensemble; none of another detector."""
        experts: Sequence[Expert] = getattr(self.detector, "experts", ())
        return experts

    def _representations(self) -> list[Representation]:
        """Return the representation, and those of an ensemble's members."""
        return [self.representation, *[expert.representation for expert in self._experts]]

    @property
    def encode_features(self) -> Callable[[Iterable[Encoded]], Iterator[Encoded]] | None:
        """The function from scaled images [C, H, W] with foregrounds [H, W] to features: that of
        the representation, or of the first member of an ensemble that has some; None for pixels."""
        if self.representation.source() is not None:
            return partial(encode_each, self.representation)
        for expert in self._experts:
            if expert.representation.source() is not None:
                return expert.encode_each
        return None

    @property
    def may_lack(self) -> bool:
        """True if images may lack some of their channels."""
        return self.preprocess.named is not None and self.preprocess.named.allow_missing

    @property
    def learns_missing(self) -> bool:
        """True if a detector that sees all channels together has to learn what images are like
        that lack some of them."""
        together = any(expert.planes is None for expert in self._experts) or not self._experts
        return self.may_lack and together

    @property
    def sees_channels_alone(self) -> bool:
        """True if a member of an ensemble sees one of several channels only."""
        return any(expert.planes is not None for expert in self._experts)

    @property
    def batch_size(self) -> int:
        """The number of images to score together; with tiles whole images are scored one by one."""
        if self.tiling.tile:
            return 1
        experts = [expert.detector for expert in self._experts]
        return images_together(BATCH, self.detector, *experts)

    # -- images --------------------------------------------------------------------------------

    def prepare(self, image: Floats, of: Whole = None, number: int = 0) -> Encoded:
        """Return an image [C, H, W], or slice `number` `of` a volume, as `represent` takes it. An
        image may count only in the region that it is `of`. Safe on several threads.

        With tiling that is the whole scaled image, from which tiles are cut. ImageError if the
        model works on volumes in three dimensions.
        """
        if self.tiling.dims == 3:
            raise ImageError(
                "an image, but the model was trained on volumes in three dimensions (--dims 3)"
            )
        prepared = self.prepare_scaled(*self.preprocess.apply(image, of, number))
        if isinstance(of, Region) and not prepared[1].any():
            raise ImageError("its region of interest is smaller than a pixel of the model's grid")
        return prepared

    def prepare_scaled(self, scaled: Floats, foreground: Bools) -> Encoded:
        """Return an image that is preprocessed already as `represent` takes it."""
        if self.tiling.tile:
            return scaled, foreground
        return self.representation.prepare(*self.framed(scaled, foreground))

    def represent(self, prepared: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield what the detector sees of prepared images, or of tiles or patches of them."""
        return self.representation.represent(prepared)

    def framed(self, scaled: Floats, foreground: Bools) -> Encoded:
        """Return a scaled image padded to a square if that is asked for, else as it is. The padding
        has the values of the edges, and is no foreground."""
        if not self.preprocess.config.letterbox:
            return scaled, foreground
        rows, columns = _padding(foreground.shape)
        return np.pad(scaled, ((0, 0), rows, columns), "edge"), np.pad(foreground, (rows, columns))

    def prepared(self, loaded: LoadedImage) -> Encoded:
        """Return an image as `represent` takes it, which it may be already."""
        if loaded.prepared is not None:
            return loaded.prepared
        return self.prepare(loaded.image, loaded.of, loaded.record.slice or 0)

    def score(
        self,
        images: Sequence[Floats],
        prepared: Sequence[Encoded],
        numbers: Iterable[int | None] = itertools.repeat(None),
        digests: Iterable[bytes | None] = itertools.repeat(None),
    ) -> Scores:
        """Score images in native units, given each as it was prepared; with tiling only one.

        `numbers` are those of slices, None for images; random draws depend on them. `digests` are
        those of `content_digest`, where they are known.
        """
        seeds = image_seeds(images, numbers, digests)
        lacking = self._lacking(images)
        if self.tiling.tile:
            ((image, inside),) = prepared
            return tiling.score(
                image,
                inside,
                self.tiling,
                seed=int(seeds[0]),
                encode=partial(encode_each, self.representation),
                detect=partial(self._detect, lacking=lacking),
                decode=self.representation.decode,
            )

        encoded = list(self.represent(prepared))
        batch = Batch(
            np.stack([image for image, _ in encoded]), np.stack([inside for _, inside in encoded])
        )
        return self._detect(batch, seeds, lacking)

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """Return a heatmap in the image's own grid [H, W]."""
        if any(self.tiling.sides):  # it has the image's size already, unless that was resampled
            decoded: Floats = resize(heatmap[None], *shape)[0]
            return decoded
        if not self.preprocess.config.letterbox:
            return self.representation.decode(heatmap, shape)

        height, width = shape
        (top, _), (left, _) = _padding(shape)
        square = self.representation.decode(heatmap, (max(shape), max(shape)))
        return square[top : top + height, left : left + width]

    def decode_slice(self, heatmap: Floats, geometry: Geometry) -> Floats:
        """Return the heatmap of a volume's slice in the volume's own grid [H, W]."""
        _, height, width = geometry.even_sides
        decoded = self.decode(heatmap, (height, width))
        return geometry.unevened(geometry.unevened(decoded, 1), 2)

    def panels(self, loaded: LoadedImage, heatmap: Floats, reconstruction: Floats | None) -> Panels:
        """Return what a person is shown of a scored image."""
        image, _ = self.prepared(loaded)
        if self.tiling.tile:
            return Panels(image, heatmap, reconstruction, loaded.planes)
        panels = self.representation.panels(loaded.image, image, heatmap, reconstruction)
        return replace(panels, planes=loaded.planes)

    def crops(self, prepared: Encoded, count: int, rng: np.random.Generator) -> list[Encoded]:
        """Return the parts of a prepared image or volume to learn from: itself, or with tiling up
        to `count` tiles or patches at random places, which `prepare_crop` prepares."""
        if not any(self.tiling.sides):
            return [prepared]
        return tiling.random_crops(*prepared, self.tiling, count, rng)

    def prepare_crop(self, image: Floats, foreground: Bools) -> Encoded:
        """Return one of `crops` as `represent` takes it."""
        if self.tiling.tile and self.tiling.dims == 2:
            return self.representation.prepare(image, foreground)
        return image, foreground

    def _lacking(self, images: Sequence[Floats]) -> Bools | None:
        """Return which planes images or volumes [C, ...] in native units lack, [N, C]; None if they
        lack none."""
        if self.preprocess.named is None:
            return None
        lacking = np.stack([absent(image) for image in images])
        return lacking if lacking.any() else None

    def _detect(self, batch: Batch, seeds: Seeds, lacking: Bools | None = None) -> Scores:
        """Score a batch; `lacking` [N, C], or [1, C] for parts of one image, says which channels
        are absent."""
        if lacking is None:
            return self.detector.score(batch, seeds=seeds)
        rows = np.broadcast_to(lacking, (len(batch), lacking.shape[1]))
        scores = self.detector.score(replace(batch, absent=rows), seeds=seeds)
        return scores if self.absences is None else self.absences.comparable(scores, rows)

    # -- volumes in three dimensions -----------------------------------------------------------

    def encode_volume(self, volume: PreparedVolume) -> Encoded:
        """Return the scaled volume [C, D, H, W] from which patches are cut, and the foreground
        [D, H, W] of its slices that have enough of it.

        Its slices are at even distances. If a spacing is asked for, there are as many slices, rows
        and columns as it gives.
        """
        planes, foregrounds = [], []
        for number in range(len(volume.scored)):
            scaled, foreground = self.preprocess.apply(volume.slices[:, number], volume, number)
            planes.append(scaled)
            foregrounds.append(foreground)

        inside = np.stack(foregrounds) & volume.scored[:, None, None]
        depth, geometry = self.preprocess.depth(volume.geometry), volume.geometry
        scaled = geometry.evened(np.stack(planes, axis=1), 0)
        inside = geometry.evened(inside, 0)
        return resize_depth(scaled, depth), _with_depth(inside, depth)

    def score_volume(self, volume: PreparedVolume) -> tuple[Doubles, Floats]:
        """Return the scores [n] of the slices to score, and the heatmap [D, H, W].

        The heatmap is on the grid of the volume's slices, NaN in slices that are not scored. A
        slice's score is pooled from its map as an image's is.
        """
        numbers, geometry = volume.numbers, volume.geometry
        seed = int(image_seeds([volume.slices])[0])
        scaled, inside = self.encode_volume(volume)
        detect = partial(self._detect, lacking=self._lacking([volume.slices]))
        found = tiling.volume_heatmap(scaled, inside, self.tiling, seed=seed, detect=detect)

        depth = geometry.even_sides[0]
        found, inside = resize_depth(found[None], depth)[0], _with_depth(inside, depth)
        found, inside = geometry.unevened(found, 0), geometry.unevened(inside, 0)
        pooled = pool(found[numbers], inside[numbers], self.detector.config.pooling)
        heatmap = np.full(geometry.sides, np.nan, np.float32)
        for number in numbers:
            heatmap[number] = self.decode_slice(found[number], geometry)
        return pooled.astype(np.float64), heatmap


def _check_shape(detector: Detector, shape: Sequence[int]) -> None:
    if isinstance(detector, ShapeChecker):
        detector.check(shape)


def _embedded(run: runs.Run) -> dict[str, str]:
    """Return where the copies of backbones lie that a run has, by the backbones' names."""
    places = {}
    for facts in run.header.backbones or ():
        place = embedded_name(run.path, facts)
        if place:
            places[facts.name] = place
    return places


def _check_backbones(run: runs.Run, found: Sequence[BackboneFacts]) -> None:
    """Raise RunError if the networks are not those that a run was trained with."""
    for expected, has in zip(run.header.backbones or (), found, strict=False):
        weights = (expected.sha256, expected.embedded)
        if has.sha256 not in weights or has.layers != expected.layers:
            raise RunError(
                f"{run.path} was trained on features of {expected.name}, layers "
                f"{list(expected.layers)}, weights {expected.sha256[:12]}…; {has.name} here has "
                f"layers {list(has.layers)}, weights {has.sha256[:12]}…: restore the former"
            )


def _padding(shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return how many rows (above, below) and columns (left, right) make [H, W] a square."""
    height, width = shape
    rows, columns = max(0, width - height), max(0, height - width)
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


def _with_depth(foreground: Bools, depth: int) -> Bools:
    """Return a foreground [D, H, W] with `depth` slices."""
    if len(foreground) == depth:
        return foreground
    resized: Bools = resize_depth(foreground[None].astype(np.float32), depth)[0] >= 0.5
    return resized
