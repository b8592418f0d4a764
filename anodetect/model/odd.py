"""Looking for odd normals: fit images as features, or as pixels without the extra `features`."""

import math
import time
from base64 import b64encode
from collections.abc import Sequence

import numpy as np

from anodetect.data.records import Record
from anodetect.imaging.odd import (
    GRID,
    PIXEL_BLOCKS,
    odd_scores,
    places_of_features,
    places_of_pixels,
)
from anodetect.imaging.preprocess import Whole
from anodetect.imaging.representations import (
    Representation,
    create_representation,
    features_installed,
)
from anodetect.model.decoded import DecodedFiles
from anodetect.model.loading import LoadedImage, Reader
from anodetect.model.model import Model
from anodetect.model.read_ahead import BATCH, LOOK_AHEAD, in_chunks, read_ahead
from anodetect.output.pictures import thumbnail
from anodetect.record.odd import OddImage, OddNormals
from anodetect.types import Batch, Encoded, Floats

LOOKED_AT = 2000  # images, at most
FEATURE_SIZES = (64, 256)  # pixels of a side that images are brought to for features
TENTH, LEAST, MOST = 0.1, 10, 100  # the share of images that is listed, and how many of them
PICTURES, SIDE = 12, 160  # that are kept, and their longer side in pixels

Places = tuple[Floats, Floats]  # [n, C, GRID, GRID] and their share of foreground [n, GRID, GRID]


class OddSearch:
    """Looks for odd normals among the fit images `records`.

    It takes the batch that a detector is fitted on if that is one of features, else it encodes the
    images itself. `found` is None as long as there is no list, and if there are fewer than two
    groups to compare.
    """

    def __init__(
        self,
        model: Model,
        records: Sequence[Record],
        scratch: DecodedFiles,
        *,
        seed: int,
        device: str,
    ) -> None:
        self.model, self.records, self.scratch = model, records, scratch
        self.seed, self.device = seed, device
        self.found: OddNormals | None = None

    def takes_batch(self, representation: str) -> bool:
        """Return whether the batch that a detector is fitted on will do."""
        return representation == "features" and not any(self.model.tiling.sides)

    def look_at(self, batch: Batch) -> None:
        """Look at features of all records, in their order."""
        some = slice(None, None, math.ceil(len(self.records) / LOOKED_AT))
        if self._comparable(self.records[some]):
            scores = self._scores(self.records[some], places_of_features(batch[some]))
            self._list(self.records[some], scores, "features")

    def read(self, seconds: float | None, listed: int = 0) -> None:
        """Read the images, for at most so many seconds, None for all of them without a limit; list
        at least `listed` of them.

        LOOKED_AT of them at most are compared with each other, so that memory is bounded.
        """
        if not self._comparable(self.records) or self.model.tiling.dims == 3:
            return
        seen_as, representation = self._representation()
        order = self._order(every=seconds is None)
        deadline = time.monotonic() + (math.inf if seconds is None else seconds)

        looked_at: list[Record] = []
        scores: list[float] = []
        size = math.ceil(len(order) / math.ceil(len(order) / LOOKED_AT))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            records, places = self._places(part, seen_as, representation, deadline)
            if self._comparable(records):
                looked_at += records
                scores += self._scores(records, places)
        if scores:
            self._list(looked_at, scores, seen_as, listed)

    def _places(
        self,
        records: Sequence[Record],
        seen_as: str,
        representation: Representation,
        deadline: float,
    ) -> tuple[list[Record], Places]:
        """Return the records that could be read until the deadline, of `time.monotonic()`, and what
        to compare of them."""

        def prepare(image: Floats, of: Whole, number: int) -> Encoded:
            scaled = self.model.preprocess.apply(image, of, number)
            return representation.prepare(*self.model.framed(*scaled))

        to_places = places_of_features if seen_as == "features" else places_of_pixels
        reader = Reader(self.model.preprocess, prepare, scratch=self.scratch)
        looked_at, places, shares = [], [], []
        loaded_images = read_ahead(reader.read, records, LOOK_AHEAD * BATCH)
        for chunk in in_chunks(loaded_images, BATCH):
            prepared = []
            for loaded in chunk:
                if isinstance(loaded, LoadedImage) and loaded.prepared is not None:
                    prepared.append(loaded.prepared)
                    looked_at.append(loaded.record)
            for image, inside in representation.represent(prepared):
                found, share = to_places(Batch(image[None], inside[None]))
                places.append(found[0])
                shares.append(share[0])
            if time.monotonic() > deadline:
                break
        if not places:
            return [], (np.zeros(0, np.float32), np.zeros(0, np.float32))
        return looked_at, (np.stack(places), np.stack(shares))

    def _scores(self, records: Sequence[Record], places: Places) -> list[float]:
        groups = np.array([record.group for record in records])
        scores: list[float] = odd_scores(*places, groups, self.seed).tolist()
        return scores

    def _comparable(self, records: Sequence[Record]) -> bool:
        return len({record.group for record in records}) > 1

    def _order(self, *, every: bool) -> list[Record]:
        """Return the records in the order in which to read them: images in a random one, so that
        the first are a sample; slices volume by volume."""
        if any(record.slice is not None for record in self.records):
            return list(self.records[:: 1 if every else math.ceil(len(self.records) / LOOKED_AT)])
        order = np.random.default_rng(self.seed).permutation(len(self.records))
        return [self.records[row] for row in (order if every else order[:LOOKED_AT])]

    def _representation(self) -> tuple[str, Representation]:
        """Return the representation to compare images in, with its name."""
        seen_as, settings = "pixels", {"size": GRID * PIXEL_BLOCKS}
        if features_installed() and self.model.preprocess.named is None:
            seen_as, settings = "features", {"size": self._side(), "scaled": False}
        representation = create_representation(seen_as, settings)
        representation.learn([])
        representation.run_on(self.device)
        return seen_as, representation

    def _side(self) -> int:
        """Return the side that images are brought to for features, about that of the smallest."""
        low, high = FEATURE_SIZES
        sizes = self.model.seen.sizes if self.model.seen else ()
        side = min((least for least, _ in sizes[:2]), default=high)
        return int(np.clip(side, low, high))

    def _list(
        self, records: Sequence[Record], scores: Sequence[float], seen_as: str, listed: int = 0
    ) -> None:
        count = max(listed, min(max(LEAST, math.ceil(TENTH * len(records))), MOST))

        images = []
        order = np.argsort(-np.array(scores), kind="stable")
        plain = Reader(self.model.preprocess, scratch=self.scratch)
        for rank, row in enumerate(order[:count].tolist(), 1):
            record = records[row]
            picture = _picture(plain, record) if rank <= PICTURES else ""
            image = OddImage(rank, record.id, record.slice, record.group, scores[row], picture)
            images.append(image)
        self.found = OddNormals(seen_as, len(records), len(self.records), tuple(images))


def _picture(reader: Reader, record: Record) -> str:
    """Return a small JPEG of an image in base 64; "" if it cannot be read."""
    loaded = reader.read(record)
    if not isinstance(loaded, LoadedImage):
        return ""
    return b64encode(thumbnail(loaded.leading, SIDE)).decode()
