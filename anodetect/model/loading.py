"""From a record to an image or a volume in memory: read, hashed, decoded and prepared.

What comes of a record is one of four types, so that nobody has to guess: `LoadedImage`,
`LoadedVolume`, `Failed` with the reason, or `OtherShards` if another shard scores it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from anodetect.data import readers
from anodetect.data.content_hash import as_hashed, content_hash
from anodetect.data.readers import DecodedChannel
from anodetect.data.records import Record
from anodetect.data.volumes import Volume
from anodetect.errors import REPORT_IT, AnodetectError, ConfigError, ImageError, one_line
from anodetect.imaging.brain import PreparedBrain
from anodetect.imaging.planes import leading
from anodetect.imaging.preprocess import PreparedVolume, Preprocess, PreprocessConfig, Whole
from anodetect.imaging.regions import Region
from anodetect.model.decoded import Decoded, DecodedFiles
from anodetect.types import Encoded, Floats

# Takes an image, the volume it is a slice of or the region it counts in (or None), and the number
# of that slice.
Prepare = Callable[[Floats, Whole, int], Encoded]


@dataclass(frozen=True)
class LoadedImage:
    """An image [C, H, W] in native units, or slice `record.slice` of the volume `cut_from`.

    `prepared` is what the detector's view of it is made of, if that was asked for. `pixels` is the
    hash of the file's decoded content. `sample_type` is the type its samples are stored in, ""
    where values have units of their own; `scaled` says how they were brought into the one that was
    learned from.
    `region` is where an image counts, None if everywhere. A `mirrored` image has its columns the
    other way round in the file. `channels` are the files of an image that has several. `hashed` is
    the array that `pixels` is the hash of, None if it is not in memory.
    """

    record: Record
    sha256: str
    image: Floats
    prepared: Encoded | None = None
    cut_from: PreparedVolume | None = None
    pixels: str = ""
    sample_type: str = ""
    scaled: str = ""
    region: Region | None = None
    mirrored: bool = False
    channels: tuple[DecodedChannel, ...] = ()
    hashed: Floats | None = None

    @property
    def of(self) -> Whole:
        """The volume that the image is a slice of, or the region in which it counts."""
        return self.region if self.cut_from is None else self.cut_from

    @property
    def planes(self) -> tuple[int, ...]:
        """The number of planes of each channel, () for an image of one file."""
        return tuple(channel.planes for channel in self.channels)

    @property
    def leading(self) -> Floats:
        """The image, or of several channels the first that is there [c, H, W]."""
        return leading(self.image, self.planes)

    @property
    def digest(self) -> bytes | None:
        """The digest of `counted`; None if it is not known."""
        is_same = self.image is self.hashed and self.region is None
        return bytes.fromhex(self.pixels) if is_same else None

    @property
    def counted(self) -> Floats:
        """The image without what does not count, which is 0."""
        return self.image if self.region is None else self.image * self.region.inside


@dataclass(frozen=True)
class LoadedVolume:
    """A volume with its slices, of which some are to be scored. `pixels` is the hash of its voxels.
    `channels` are the files of a volume that has several. With `brain` the volume is a brain that
    was prepared; else it is None."""

    record: Record
    sha256: str
    volume: PreparedVolume
    pixels: str = ""
    channels: tuple[DecodedChannel, ...] = ()
    brain: PreparedBrain | None = None

    @property
    def prepared(self) -> str:
        """The steps by which the brain was prepared, in words; "" if nothing was."""
        return "" if self.brain is None else self.brain.described()

    @property
    def note(self) -> str:
        """The facts to be known of the volume beside its content in words, "" without any."""
        return "; ".join(filter(None, (self.record.note, self.volume.source.note)))

    @property
    def native(self) -> Volume:
        """The volume as it was read."""
        return self.volume.source if self.brain is None else self.brain.native


@dataclass(frozen=True)
class Failed:
    """A record that cannot be used, and why; `sha256` is "" if it could not even be read."""

    record: Record
    sha256: str
    error: str


@dataclass(frozen=True)
class OtherShards:
    """A record that another shard scores; it was not decoded."""

    record: Record


Loaded = LoadedImage | LoadedVolume | Failed | OtherShards


def load(
    record: Record, preprocess: Preprocess | None = None, prepare: Prepare | None = None
) -> Loaded:
    """Read one record; see `Reader`. Without `preprocess` the defaults are taken."""
    return Reader(preprocess or Preprocess(PreprocessConfig()), prepare).read(record)


class Reader:
    """Reads records; safe to use on several threads.

    With `prepare` an image comes with what it returns of it. `is_mine` says of a hash whether
    it belongs to this shard; other files are not decoded. What `scratch` holds is not decoded
    again, and what is decoded is put there. With `accept_different` images of an unsuitable bit
    depth are taken as they are. The volume that was read last stays in memory, because its slices
    are asked for one after another.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        prepare: Prepare | None = None,
        is_mine: Callable[[str], bool] | None = None,
        scratch: DecodedFiles | None = None,
        *,
        accept_different: bool = False,
    ) -> None:
        self.preprocess, self.prepare = preprocess, prepare
        self.is_mine = is_mine or (lambda sha256: True)
        self.scratch, self.accept_different = scratch, accept_different
        self._last_volume: Loaded | None = None
        self._reading = threading.Lock()

    def read(self, record: Record) -> Loaded:
        """Read, decode and prepare a record; errors of configuration are raised, all others make it
        `Failed`."""
        sha256 = ""
        try:
            if record.slice is not None:
                return self._read_slice(record)

            decoded = self.scratch.get(record.id) if self.scratch else None
            if decoded is None:
                source = readers.read_source(record)
                sha256 = source.sha256
                if not self.is_mine(sha256):
                    return OtherShards(record)
                decoded = self._decode(source)
                del source  # the bytes are not needed beside the pixels
                if self.scratch:
                    self.scratch.put(record.id, decoded)
            sha256 = decoded.sha256
            return self._prepare(record, decoded)
        except Exception as error:  # also an unforeseen one: one file must not end a long scoring
            if isinstance(error, AnodetectError) and not isinstance(error, ImageError):
                raise
            # A file that was read belongs to the shard of its content, even if it is damaged; one
            # that could not be read belongs to the shard of its name.
            if not sha256 and not self.is_mine(readers.digest(record.id.encode())):
                return OtherShards(record)
            return Failed(record, sha256, one_line(error, REPORT_IT))

    def _decode(self, source: readers.Source | readers.ChannelSources) -> Decoded:
        found = source.content(self.preprocess.config.reading)
        if isinstance(found.pixels, Volume) and not found.pixels.is_pictures:
            foreground = readers.supplied_foreground(source.record, found.pixels)
        elif isinstance(found.pixels, Volume):
            foreground = readers.supplied_region(source.record, found.pixels.voxels[:, 0])
        else:
            foreground = readers.supplied_region(source.record, found.pixels)
            if found.mirrored and foreground is not None:
                foreground = foreground[:, ::-1]
        pixels = content_hash(found.pixels, found.sample_type)
        decoded = Decoded(
            source.sha256,
            found.pixels,
            foreground,
            pixels,
            found.sample_type,
            mirrored=found.mirrored,
            channels=found.channels,
        )

        return self._with_brain(decoded)

    def _with_brain(self, decoded: Decoded) -> Decoded:
        """Return what was decoded as a brain that is prepared, if that is asked for."""
        if not self.preprocess.config.brain.wanted:
            return decoded
        if not isinstance(decoded.content, Volume):
            raise ImageError("an image, but the model's preparation is one of brains (brain.…)")
        brain = self.preprocess.prepare_brain(decoded.content, decoded.foreground)
        return replace(decoded, content=brain.volume, foreground=brain.inside, brain=brain)

    def _prepare(self, record: Record, decoded: Decoded) -> LoadedImage | LoadedVolume:
        content, channels = decoded.content, self.preprocess.laid_out(decoded.channels)
        if isinstance(content, Volume):
            voxels = self.preprocess.arranged(content.voxels, decoded.channels)
            content = replace(content, voxels=voxels)
        if isinstance(content, Volume) and content.is_pictures:
            pictures = self.preprocess.prepare_pictures(content, decoded.foreground)
            return LoadedVolume(record, decoded.sha256, pictures, decoded.pixels)
        if isinstance(content, Volume):
            if self.preprocess.roi is not None:
                raise ImageError("a volume, but a region of interest (--roi) is one of images")
            prepared = self.preprocess.prepare(content, decoded.foreground)
            return LoadedVolume(
                record, decoded.sha256, prepared, decoded.pixels, channels, decoded.brain
            )

        image = self.preprocess.arranged(content, decoded.channels)
        _, height, width = image.shape
        region = self.preprocess.region((height, width), decoded.foreground)
        image, scaled = self.preprocess.in_learned_type(
            image, decoded.sample_type, region, accept_any=self.accept_different
        )
        return LoadedImage(
            record,
            decoded.sha256,
            image,
            self.prepare(image, region, 0) if self.prepare else None,
            pixels=decoded.pixels,
            sample_type=decoded.sample_type,
            scaled=scaled,
            region=region,
            mirrored=decoded.mirrored,
            channels=channels,
            hashed=as_hashed(content, decoded.sample_type),
        )

    def _read_slice(self, record: Record) -> Loaded:
        """Read the slice of a volume that a record names, and the volume only if it is another one
        than before."""
        whole = replace(record, slice=None)
        with self._reading:
            if self._last_volume is None or self._last_volume.record != whole:
                self._last_volume = None  # two volumes may not fit into memory
                self._last_volume = self.read(whole)
            volume = self._last_volume

        if isinstance(volume, LoadedVolume):
            return slice_image(volume, record, self.prepare)
        return replace(volume, record=record)


def slice_records(loaded: LoadedImage | LoadedVolume, dims: int = 2) -> list[Record]:
    """Return the records to learn from: an image's own, or one for each slice of a volume that is
    to be scored; with three `dims` the volume's own.

    Raises ConfigError for an image, or pictures, with three `dims`.
    """
    is_image = isinstance(loaded, LoadedImage) or loaded.volume.is_pictures
    if dims == 3 and is_image:
        raise ConfigError(f"--dims 3 is for volumes, and {loaded.record.id} is an image")
    if dims == 3 or isinstance(loaded, LoadedImage):
        return [loaded.record]
    return [replace(loaded.record, slice=int(number)) for number in loaded.volume.numbers]


def slice_image(loaded: LoadedVolume, record: Record, prepare: Prepare | None) -> LoadedImage:
    """Return the slice of a volume that `record` names as an image."""
    volume, number = loaded.volume, record.slice or 0
    image = np.ascontiguousarray(volume.slices[:, number])
    if volume.is_pictures:
        prepared = prepare(image, volume.region, number) if prepare else None
        return LoadedImage(
            record, loaded.sha256, image, prepared, pixels=loaded.pixels, region=volume.region
        )
    prepared = prepare(image, volume, number) if prepare else None

    return LoadedImage(
        record,
        loaded.sha256,
        image,
        prepared,
        volume,
        loaded.pixels,
        channels=loaded.channels,
    )
