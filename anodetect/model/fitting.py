"""Training a model: the representation learns, images are encoded, the detector is fitted."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from anodetect.config import without_nan
from anodetect.data.records import Record, named_kinds
from anodetect.data.split import Roles
from anodetect.imaging.intensities import Traits, traits_of
from anodetect.imaging.preprocess import Whole
from anodetect.model.absences import learn_absences
from anodetect.model.colour_scale import some_for_scale
from anodetect.model.decoded import DecodedFiles
from anodetect.model.encoding import encode_all
from anodetect.model.loading import Loaded, LoadedImage, Reader
from anodetect.model.model import Model
from anodetect.model.planting import MAX_PLANTED, Planting, spread
from anodetect.model.read_ahead import LOOK_AHEAD, read_ahead
from anodetect.types import (
    Batch,
    Detector,
    Encoded,
    Floats,
    PlantedCopies,
    Reporter,
    TrainContext,
)

OBSERVED = 2000  # images, about, to learn what slices of volumes may be like
LEARNED_FROM = 64  # images, about, for a representation that has something to learn
ABSENCES_SHARE = 0.1  # of the budget, to learn what scores are without some channels


@dataclass(frozen=True)
class Training:
    """Where and how a detector is trained. `budget` is in seconds, None for no limit; with `resume`
    an interrupted training in `workdir` goes on. `few` says that images are few, and all fitted on.
    """

    workdir: Path
    seed: int
    budget: float | None
    device: str
    resume: bool
    few: bool = False


def fit_model(
    model: Model,
    roles: Roles,
    training: Training,
    scratch: DecodedFiles,
    reporter: Reporter,
    look_at: Callable[[Batch], object] = lambda fit: None,
) -> None:
    """Let the representation learn, encode all fit and tune images, and fit the detector.

    The preprocessing must have learned already, and nothing but the detector learns from known
    anomalies. What `scratch` holds is not decoded again. `look_at` is handed the encoded fit images
    beforehand. The budget is for all of it.
    """
    started = time.monotonic()
    model.representation.run_on(training.device)
    some = roles.fit[:: max(1, len(roles.fit) // LEARNED_FROM)]
    looked_at = roles.tune or roles.fit
    needed_again = [*some, *some_for_scale(looked_at)]
    for number in spread(len(looked_at), MAX_PLANTED).tolist():
        needed_again.append(looked_at[number])
    scratch.keep_only(record.id for record in needed_again)
    _learn_representation(model, some, scratch)

    with tempfile.TemporaryDirectory(dir=training.workdir) as folder:
        observer = TraitsObserver(model, roles, scratch)
        kinds = named_kinds(roles.fit)
        encode = partial(encode_all, model, observer.read, seed=training.seed, kinds=kinds)
        dropout = model.learns_missing
        fit, starts = encode(roles.fit, Path(folder, "fit"), dropout=dropout)
        tune = fit
        if roles.tune:
            tune, starts = encode(roles.tune, Path(folder, "tune"))
        observer.finish()
        anomalies = None
        if roles.anomalies:
            anomalies, _ = encode(roles.anomalies, Path(folder, "anomalies"))
        look_at(fit)

        planting = Planting(
            model,
            roles.tune or roles.fit,
            starts,
            Path(folder),
            seed=training.seed,
            budget=training.budget,
            scratch=scratch,
        )
        budget = training.budget
        apart = 0.0 if budget is None or not model.may_lack else ABSENCES_SHARE * budget
        own = replace(training, budget=None if budget is None else budget - apart)
        _fit(model.detector, fit, tune, anomalies, own, planting.copies, started, reporter)
        if model.may_lack:
            began = time.monotonic()
            planes, value = model.preprocess.planes, model.preprocess.absent_value
            seconds = None if budget is None else apart
            model.absences = learn_absences(model.detector, tune, planes, value, seconds)
            _log_seconds(training.workdir, time.monotonic() - began)


def _log_seconds(workdir: Path, seconds: float) -> None:
    """Add seconds to those that the training took."""
    with (workdir / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"fit_seconds": seconds}) + "\n")


def _learn_representation(model: Model, records: Sequence[Record], scratch: DecodedFiles) -> None:
    """Let the representation learn from some fit images what it has to learn."""
    reader = Reader(model.preprocess, scratch=scratch)
    model.representation.learn(
        model.framed(*model.preprocess.apply(loaded.image, loaded.of, loaded.record.slice or 0))
        for loaded in read_ahead(reader.read, records, LOOK_AHEAD * model.batch_size)
        if isinstance(loaded, LoadedImage)
    )


class TraitsObserver:
    """Reads images as they are prepared for the detector, and notes their traits meanwhile.

    A model that learned from images judges by it later which slices of volumes it can score. One
    that learned from volumes does not need it.
    """

    def __init__(self, model: Model, roles: Roles, scratch: DecodedFiles) -> None:
        self.model = model
        self.traits: list[Traits] = []
        self._plain = Reader(model.preprocess, model.prepare, scratch=scratch)
        self._observing = Reader(model.preprocess, self._prepare, scratch=scratch)

        observed: list[Record] = []
        if model.preprocess.config.refuse_unseen and not model.preprocess.of_volumes:
            observed = [*roles.fit, *roles.tune]
            observed = observed[:: max(1, len(observed) // OBSERVED)]
        self._observed = {record.id for record in observed}

    def read(self, record: Record) -> Loaded:
        """Read a record, on any thread."""
        reader = self._observing if record.id in self._observed else self._plain
        return reader.read(record)

    def finish(self) -> None:
        """Let the preprocessing learn from the traits of all images that were read."""
        if self.traits:
            self.model.preprocess.learn_trait_limits(self.traits)

    def _prepare(self, image: Floats, of: Whole, number: int) -> Encoded:
        scaled, inside = self.model.preprocess.apply(image, of, number)
        self.traits.append(traits_of(scaled, inside))
        return self.model.prepare_scaled(scaled, inside)


def _fit(
    detector: Detector,
    fit: Batch,
    tune: Batch,
    anomalies: Batch | None,
    training: Training,
    planted: Callable[[], PlantedCopies | None],
    started: float,
    reporter: Reporter,
) -> None:
    """Fit the detector, and log what it says to train.jsonl, and how long it took since `started`,
    of which the budget counts."""

    def progress(done: int, total: int, loss: float) -> None:
        reporter.progress("train", done, total, f"loss {loss:.4f}")

    with (training.workdir / "train.jsonl").open("a", encoding="utf-8") as file:

        def log(entry: Mapping[str, Any]) -> None:
            file.write(json.dumps(without_nan(entry)) + "\n")
            file.flush()
            if "note" in entry:
                reporter.warn(str(entry["note"]))

        budget = training.budget
        if budget is not None:
            budget = max(0.0, budget - (time.monotonic() - started))
        context = TrainContext(
            seed=training.seed,
            device=training.device,
            workdir=training.workdir,
            budget=budget,
            resume=training.resume,
            log=log,
            progress=progress,
            planted=planted,
            anomalies=anomalies,
            few=training.few,
        )
        try:
            detector.fit(fit, tune, context=context)
        finally:
            log({"fit_seconds": time.monotonic() - started})
