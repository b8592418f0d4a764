"""Train: a folder of normal images in, a run directory out.

scan → split → model → calibration → run directory
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anodetect.commands import few
from anodetect.commands import odd as odd_normals
from anodetect.commands.anomalies import check_can_learn, groups_of_anomalies, with_anomalies
from anodetect.commands.brains import brain_warnings, check_brain
from anodetect.commands.calibrate import Calibrated, calibrate_model
from anodetect.commands.channels import check_settings, check_window, wanted_channels
from anodetect.commands.fold_plan import check_folds, folds_of
from anodetect.commands.folds import MakeModel, calibrate_folds
from anodetect.commands.inspect import summary
from anodetect.commands.limit import plant_and_score
from anodetect.commands.manifest import manifest_rows
from anodetect.commands.normals import LeftOut, Normals, Samples, usable_normals
from anodetect.commands.results import TrainResult
from anodetect.config import build, canonical
from anodetect.data import cards, readers, split
from anodetect.data.channels import Channels
from anodetect.data.records import Dataset, Record, named_kinds
from anodetect.detectors import current_name, entry_named
from anodetect.errors import ConfigError, DataError
from anodetect.imaging.backbones.embedding import embed
from anodetect.imaging.backbones.table import BackboneFacts
from anodetect.imaging.intensities import ImageSample
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.regions import RegionOfInterest, read_roi
from anodetect.imaging.sample_types import learn_sample_types
from anodetect.imaging.tiling import refuse_large_tile
from anodetect.model.colour_scale import colour_scale, some_for_scale
from anodetect.model.decoded import SCRATCH, SCRATCH_OF_BRAINS, DecodedFiles
from anodetect.model.devices import check_device
from anodetect.model.fitting import Training, fit_model
from anodetect.model.forms import Form, form_of
from anodetect.model.model import Model
from anodetect.model.sampling import images_lost
from anodetect.model.scoring import score_records
from anodetect.model.settings import with_planes
from anodetect.model.tune_maps import TuneMaps
from anodetect.record import environment, runs
from anodetect.record.components import Components, named_components, read_components
from anodetect.record.model_card import model_card
from anodetect.record.odd import OddNormals, read_odd
from anodetect.record.runs import RunHeader, TrainingFacts
from anodetect.remote.paths import local, place
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.limit import PlantedTrials, detection_limit
from anodetect.stats.mask_choice import ChosenMeasure, MeasureChoice
from anodetect.types import Clusterer, Reporter, Silent
from anodetect.words import amount

LONG = 2.0  # times as long as wide, from which on squeezing is worth a warning
PLANTED = "planted_auroc "  # begins the names of what planted defects compared


@dataclass(frozen=True)
class Request:
    """The arguments of `train`; `budget` is in minutes.

    `allow_few` says that fewer normals will do than a promise needs, `helping` that this process
    trains along with another one, which writes the run. `drop_odd` is the number or share of odd
    normals to leave out, `known_anomalies` says that the manifest's known anomalies are learned
    from, and `embed_backbone` that the run gets copies of its backbones. `channels` are those of
    images that have several files, None if a manifest may say it. `folds` is None where the
    detector decides into how many normals are cut, 0 for none.
    """

    detector: str
    out: Path
    values: Mapping[str, Any]
    representation: str
    budget: float | None
    seed: int
    follow_symlinks: bool
    device: str
    resume: bool
    kind_normal: Collection[str]
    roi: RegionOfInterest | None
    allow_few: bool
    drop_odd: float | None
    known_anomalies: bool
    embed_backbone: bool
    channels: Channels | None
    helping: bool
    folds: int | None


@dataclass(frozen=True)
class Plan:
    """Everything that is known before a detector is fitted: its form, the model that is to learn,
    and which image is used for what.

    `odd` lists odd normals, if some were left out; it is None before the model is fitted otherwise.
    `model_of` makes the model of a fold.
    """

    form: Form
    model: Model
    normals: Normals
    roles: split.Roles
    odd: OddNormals | None = None
    model_of: MakeModel | None = None


@dataclass(frozen=True)
class LearnedFromTune:
    """The colour scale, the scores of planted defects, and how the regions of maps are measured,
    None where nothing could be learned of them."""

    scale: tuple[float, float]
    planted: PlantedTrials
    measure: ChosenMeasure | None


def train(
    data: str,
    detector: str,
    out: Path | str,
    *,
    values: Mapping[str, Any] | None = None,
    representation: str = "auto",
    budget: float | None = None,
    seed: int = 0,
    follow_symlinks: bool = False,
    device: str = "auto",
    resume: bool = False,
    kind_normal: Collection[str] = (),
    roi: Path | str | None = None,
    allow_few: bool = False,
    drop_odd: float | None = None,
    known_anomalies: bool = False,
    embed_backbone: bool = False,
    channels: str | None = None,
    allow_missing: bool = False,
    folds: int | None = None,
    reporter: Reporter | None = None,
) -> TrainResult | None:
    """Train on the normals of `data` and write the run `out`; return its facts and the files that
    failed.

    With `representation` "auto", a detector that works on both gets pixels where images show a
    shape before a flat background, else both, as an ensemble in which planted defects decide what
    either counts (`model.forms`). `budget` is in minutes and covers
    encoding and the detector's whole `fit`. `kind_normal` names the folders or kinds of `data` that
    hold normals. `roi` is a mask of where all images count. With `allow_few` a detector that needs
    no training learns from two images and more, without calibration below 20 of them.
    `drop_odd` is a number of images, or a share, that are left out of fit: those that are hardest
    to explain from the others. With `known_anomalies` the rows of a manifest with split train and
    label 1 are learned from as anomalies. With `embed_backbone` the weights of the backbones are
    copied into the run, which then scores where they are not installed. `channels` are several
    files of each image with the patterns of their names, such as "t1=*T1w*,flair=*FLAIR*"; with
    `allow_missing` an image may lack some of them. With `folds` each normal is calibrated with, by
    a model that has not seen its group, and all models share the budget; None is 0, but 5 for
    a detector that learns in seconds. Under `torchrun` only the first process returns something.
    """
    out, helping = local(out, "runs stay"), os.environ.get("RANK", "0") != "0"
    reporter = reporter if reporter and not helping else Silent()
    if current_name(detector) != detector:
        reporter.say(f"{detector} is now called {current_name(detector)}")
        detector = current_name(detector)
    if allow_few:
        representation = few.representation_of_few(detector, representation)
    request = Request(
        detector=detector,
        out=out,
        values=values or {},
        representation=representation,
        budget=budget,
        seed=seed,
        follow_symlinks=follow_symlinks,
        device=device,
        resume=resume,
        kind_normal=kind_normal,
        roi=None if roi is None else read_roi(Path(roi)),
        allow_few=allow_few,
        drop_odd=drop_odd,
        known_anomalies=known_anomalies,
        embed_backbone=embed_backbone,
        channels=wanted_channels(channels, allow_missing=allow_missing),
        helping=helping,
        folds=folds,
    )
    form = form_of(detector, representation, request.values, request.channels)
    untrained = _untrained(request, form)

    if helping:
        _train(request, form, untrained, data, runs.begin_helping(out, resume=resume), reporter)
        return None
    with runs.begin(out, resume=resume) as workdir:
        left_out = _train(request, form, untrained, data, workdir, reporter)
    failures = tuple(f"{each.path}: {each.reason}" for each in left_out)
    peak_memory = environment.peak_memory_mb()
    return TrainResult(runs.facts(out), failures, peak_memory, read_odd(out), read_components(out))


def _untrained(request: Request, form: Form) -> Model:
    """Return a model of this form that has learned nothing yet; ConfigError if it cannot learn as
    it is asked to, before any file is read."""
    if request.budget is not None and not 0 < request.budget < math.inf:
        raise ConfigError(f"--budget {request.budget}: minutes above 0 are expected")
    check_device(request.device)
    check_folds(request.folds, drops_odd=request.drop_odd is not None)
    if request.known_anomalies:
        check_can_learn(form.detector, form.config["tiling"])

    model = Model.create(form.detector, form.representation, form.config)
    model.check()
    model.check_anomalies(known=request.known_anomalies)
    check_brain(form.config, has_roi=request.roi is not None)
    if request.channels is not None:  # a manifest may name them, too, which is looked at later
        check_settings(form.config, request.channels, few=request.allow_few)
    model.preprocess.find_tools()
    return model


def _train(
    request: Request,
    form: Form,
    untrained: Model,
    data: str,
    workdir: Path,
    reporter: Reporter,
) -> list[LeftOut]:
    """Write the files of the run, unless this process only helps; return what was left out. The
    `untrained` model of this form says what it can learn from."""
    dataset, form, found = _open(request, form, untrained, data, reporter)

    # Helpers decode anew each time: they may be many, and their temporary folder small.
    room = SCRATCH_OF_BRAINS if untrained.preprocess.config.brain.wanted else SCRATCH
    with DecodedFiles(request.out.parent, limit=0 if request.helping else room) as scratch:
        plan = _plan(request, form, dataset, scratch, reporter)
        roles, model = plan.roles, plan.model
        if not request.helping:
            runs.identify(workdir, _fingerprint(request, plan), resume=request.resume)
        folds = f" in {len(roles.folds)} folds" if roles.folds else ""
        reporter.say(
            f"{dataset.name}: fit {len(roles.fit)}, tune {len(roles.tune)}, calibrate "
            f"{len(roles.calibrate)} {'volumes' if model.tiling.dims == 3 else 'images'}{folds}"
        )

        seconds = None if request.budget is None else 60 * request.budget / (1 + len(roles.folds))
        few_images = roles.dropped == split.FEW
        training = Training(
            workdir, request.seed, seconds, request.device, request.resume, few=few_images
        )
        scale = None
        if few_images:
            scale = few.scale_of_few(model, roles, training, scratch)
        if request.helping or plan.odd is not None:
            fit_model(model, roles, training, scratch, reporter)
        else:
            seen_as = plan.form.representation
            odd = odd_normals.fit_and_look(model, roles, training, scratch, seen_as, reporter)
            plan = replace(plan, odd=odd)
        if request.helping:
            return []

        learned = _learn_from_tune(request, roles, model, scale, scratch, reporter)
        calibrated = _calibrate(plan, training, learned, scratch, reporter)

    components = _components(plan)
    for found_in_fit in (plan.odd, components):
        if found_in_fit is not None:
            reporter.say(found_in_fit.sentence())
    left_out = plan.normals.left_out + calibrated.left_out
    log = runs.read_log(workdir)
    facts = _facts(request, plan, log, len(left_out), found, learned.planted, reporter)
    reporter.say(detection_limit(learned.planted, calibrated.calibration, DEFAULT_FAR).statement())
    backbones = _backbones(request, plan.model, workdir, reporter)
    _write(workdir, plan, dataset.name, learned.scale, calibrated, facts, backbones, components)
    return left_out


def _calibrate(
    plan: Plan,
    training: Training,
    learned: LearnedFromTune,
    scratch: DecodedFiles,
    reporter: Reporter,
) -> Calibrated:
    """Return the calibration, by the fitted model or by those of folds."""
    if plan.roles.folds and plan.model_of is not None:
        return calibrate_folds(
            plan.roles.folds,
            plan.model_of,
            training,
            learned.measure,
            scratch,
            reporter,
            keep=not entry_named(plan.form.detector).train_free,
        )
    measure = None if learned.measure is None else learned.measure.measure
    return calibrate_model(plan.model, plan.roles.calibrate, reporter, scratch, measure)


def _learn_from_tune(
    request: Request,
    roles: split.Roles,
    model: Model,
    scale: tuple[float, float] | None,
    scratch: DecodedFiles,
    reporter: Reporter,
) -> LearnedFromTune:
    """Return what a fitted model's maps of tune images and of defects planted in them say. With
    `scale`, which few images need otherwise, regions are not measured."""
    choice = None
    if scale is None:
        reference = some_for_scale(roles.tune or roles.fit)
        kept = TuneMaps(len(reference))
        scored = score_records(model, reference, reporter, "scale", scratch=scratch)
        scale = colour_scale(kept.watch(scored))
        choice = MeasureChoice(kept.maps)

    looked_at = roles.tune or roles.fit
    planted = plant_and_score(
        model,
        looked_at if roles.calibrate else [],
        reporter,
        seed=request.seed,
        budget=None if request.budget is None else 60 * request.budget,
        scratch=scratch,
        look_at=None if choice is None else choice.add,
    )
    if choice is None:
        return LearnedFromTune(scale, planted, None)

    chosen = choice.best()
    reporter.say(chosen.sentence())
    return LearnedFromTune(scale, planted, chosen)


def _open(
    request: Request, form: Form, untrained: Model, data: str, reporter: Reporter
) -> tuple[Dataset, Form, Sequence[str]]:
    """Return what there is to learn from, in which form, and in words what was found.

    DataError if the model cannot learn from normals of so few kinds.
    """
    dataset = cards.open_data(
        data,
        follow_symlinks=request.follow_symlinks,
        kind_normal=request.kind_normal,
        known_anomalies=request.known_anomalies,
        channels=request.channels,
    )
    to_fit = {record.group for record in dataset.anomalies()}
    found = summary(dataset, _folds(request, form.detector, dataset.training(), to_fit))
    for line in found:
        reporter.say(line)

    untrained.check_kinds(len(named_kinds(dataset.training())))
    if dataset.channels is not None:  # a manifest may have named them
        values = request.values
        form = form_of(request.detector, request.representation, values, dataset.channels)
        check_settings(form.config, dataset.channels, few=request.allow_few)
    else:
        check_window(form.config["preprocess"]["window"], 0)
    return dataset, form, found


def train_each(
    data: str, detector: str, out: Path, *, reporter: Reporter | None = None, **options: Any
) -> dict[str, TrainResult | None]:
    """Train one run for each of the data sets in the folder `data`, in the folder `out`; return
    `train`'s results by their names. `options` are those of `train`. DataError if `data` is not a
    folder of several data sets."""
    follow_symlinks = bool(options.get("follow_symlinks"))
    categories = cards.open_data(data, follow_symlinks=follow_symlinks).categories
    if not categories:
        raise DataError(f"{data}: not a folder of several data sets; train without --each")

    results = {}
    for name in categories:
        category = place(data) / name
        results[name] = train(str(category), detector, out / name, reporter=reporter, **options)
    return results


def _plan(
    request: Request,
    form: Form,
    dataset: Dataset,
    scratch: DecodedFiles,
    reporter: Reporter,
) -> Plan:
    """Read all normals, decide which image is used for what, and create the model. Nothing is
    learned from odd normals that are left out."""
    samples, dims = Samples(), form.config["tiling"]["dims"]
    config = build(PreprocessConfig, form.config["preprocess"], "preprocess")
    preprocess = Preprocess(config, dims)
    preprocess.roi, preprocess.named = request.roi, dataset.channels
    preprocess.find_tools()
    for line in brain_warnings(preprocess):
        reporter.warn(line)
    normals = usable_normals(dataset, preprocess, dims, reporter, scratch, samples)
    sizes = samples.seen(normals.records).sizes
    if len(sizes) == 2:  # slices of volumes may be resampled
        refuse_large_tile(form.config["tiling"]["tile"], [most for _, most in sizes])
    to_fit: set[str] = set()
    if request.known_anomalies:
        normals = with_anomalies(normals, dataset, preprocess, scratch, reporter)
        to_fit = groups_of_anomalies(normals, dataset)
    roles = _assign(request, form.detector, normals, dims, to_fit, reporter)
    if request.drop_odd is None:
        untouched = copy(preprocess)
        plan = _planned(form, preprocess, samples, normals, roles, reporter)

        def model_of(fold: split.Roles) -> Model:
            own = replace(plan.form, for_shapes=None)
            return _planned(own, copy(untouched), samples, normals, fold, Silent()).model

        return replace(plan, model_of=model_of if roles.folds else None)

    whole = _planned(form, copy(preprocess), samples, normals, roles, Silent())
    roles, odd = odd_normals.leave_out_odd(
        whole.model,
        roles,
        scratch,
        request.drop_odd,
        seed=request.seed,
        device=request.device,
        few=request.allow_few,
    )
    plan = _planned(form, preprocess, samples, normals, roles, reporter)
    return replace(plan, odd=odd)


def _planned(
    form: Form,
    preprocess: Preprocess,
    samples: Samples,
    normals: Normals,
    roles: split.Roles,
    reporter: Reporter,
) -> Plan:
    """Let `preprocess` learn from the fit and tune images, and create the model."""
    _learn_sample_types(preprocess, samples.named([*roles.fit, *roles.tune]), reporter)
    preprocess.learn(samples.of(roles.fit))
    least = entry_named(form.detector).least_channels
    if preprocess.channels < least:
        raise ConfigError(
            f"{form.detector} needs images with {least} channels or more, and these are grey; "
            "name the files of two with --channels"
        )
    if preprocess.flat_background and form.for_shapes is not None:
        form = form.for_shapes
    form = _with_channels(form, preprocess)
    for line in form.notes:
        reporter.say(line)
    for line in form.warnings:
        reporter.warn(line)

    if roles.anomalies:
        form = replace(form, config=form.config | {"known_anomalies": len(roles.anomalies)})

    model = Model.create(form.detector, form.representation, form.config)
    model.check_kinds(len(named_kinds(roles.fit)))
    model.preprocess, model.seen = preprocess, samples.seen(roles.fit)
    _warn_of_kinds(model, reporter)
    return Plan(form, model, normals, roles)


def _with_channels(form: Form, preprocess: Preprocess) -> Form:
    """Return the form with members that know the planes of their channels; ConfigError if there are
    no such channels."""
    names = preprocess.named.names if preprocess.named else ()
    return replace(form, config=with_planes(form.config, names, preprocess.planes))


def _learn_sample_types(
    preprocess: Preprocess, samples: Mapping[str, ImageSample], reporter: Reporter
) -> None:
    """Learn how values of types of different ranges are brought together, and say so."""
    preprocess.sample_types = learned = learn_sample_types(samples)
    for sample_type, factor in learned.factors.items():
        if factor != 1:
            reporter.warn(
                f"{sample_type} and {learned.reference} images show the same as shares of their "
                f"ranges: {sample_type} values are multiplied by {factor:.6g}, also when scoring; "
                "convert all images to one bit depth if that is wrong"
            )


def _assign(
    request: Request,
    detector: str,
    normals: Normals,
    dims: int,
    to_fit: Collection[str],
    reporter: Reporter,
) -> split.Roles:
    """Return the images by use, those of the groups `to_fit` in fit; DataError if there are too
    few."""
    records = normals.records
    if dims == 3 and len(records) < split.MINIMUM:
        volumes = amount(len(records), "normal volume is", "normal volumes are")
        raise DataError(
            f"{volumes} too few for --dims 3: at least {split.MINIMUM} are needed, since each "
            "counts as one; slice by slice (--dims 2) every slice counts"
        )
    count = _folds(request, detector, records, to_fit)
    if count:
        roles = split.assign_folds(records, count, to_fit=to_fit)
    else:
        roles = split.assign(records, few=request.allow_few, to_fit=to_fit)
    if roles.dropped:
        reporter.warn(roles.dropped)

    folds = tuple(replace(fold, anomalies=normals.anomalies) for fold in roles.folds)
    return replace(roles, anomalies=normals.anomalies, folds=folds)


def _folds(
    request: Request, detector: str, records: Sequence[Record], to_fit: Collection[str]
) -> int:
    """Return into how many folds normals are cut, 0 for none."""
    drops_odd = request.drop_odd is not None
    return folds_of(request.folds, detector, records, to_fit, drops_odd=drops_odd)


def _warn_of_kinds(model: Model, reporter: Reporter) -> None:
    """Say so if grey and coloured images are mixed, and if long images are squeezed into a square,
    in which small defects vanish."""
    if model.seen is None:
        return
    if len(model.seen.channels) > 1:
        reporter.warn(
            "grey and coloured images are mixed; a model of one kind of images finds more in them"
        )

    if not model.seen.aspects or any(model.tiling.sides):
        return
    ((low, high),) = model.seen.aspects
    ratio = max(high, 1 / low)
    if ratio >= LONG and not model.preprocess.config.letterbox:
        side = round(min(least for least, _ in model.seen.sizes[:2]))
        reporter.warn(
            f"images are up to {ratio:.3g} times as long as wide, and squeezed into a square; "
            f"--tile {side} keeps small defects, --set preprocess.letterbox=true the shape"
        )


def _fingerprint(request: Request, plan: Plan) -> dict[str, Any]:
    """Return what must be the same for an interrupted training to be continued."""
    fit_hashes = [plan.normals.hashes[record.id] for record in plan.roles.fit]
    made_from = {"config": plan.form.config, "seed": request.seed, "fit": fit_hashes}
    if plan.roles.anomalies:
        hashes = [plan.normals.hashes[record.id] for record in plan.roles.anomalies]
        made_from["anomalies"] = hashes
    if plan.roles.folds:
        made_from["folds"] = len(plan.roles.folds)
    return made_from if request.roi is None else made_from | {"roi": request.roi.sha256}


def _facts(
    request: Request,
    plan: Plan,
    log: Sequence[Mapping[str, Any]],
    failed: int,
    found: Sequence[str],
    planted: PlantedTrials,
    reporter: Reporter,
) -> TrainingFacts:
    """Return how the training went, and say what planted defects decided, what more minutes might
    bring, whether images can be made, and whether the loss diverged."""
    for line in outcome_lines(log):
        reporter.say(line)
    lost = images_lost(plan.model)
    if lost is not None:
        reporter.say(lost)
    stopped_by, steps = _last(log, "stopped_by"), _last(log, "step")
    if stopped_by == "divergence":
        reporter.warn(
            f"the loss diverged; the weights are those of step {steps}, the last good ones"
        )

    return TrainingFacts(
        train_seconds=round(sum(entry.get("fit_seconds", 0.0) for entry in log), 3),
        stopped_by=stopped_by,
        steps=steps,
        fit_images=len(plan.roles.fit),
        tune_images=len(plan.roles.tune),
        dropped=plan.roles.dropped,
        trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
        failed=failed,
        seed=request.seed,
        budget_minutes=request.budget,
        config_sha256=readers.digest(canonical(plan.form.config)),
        found=tuple(found),
        odd_left_out=None if request.drop_odd is None or plan.odd is None else plan.odd.left_out,
        known_anomalies=len(plan.roles.anomalies) or None,
        planted=planted,
    )


def _components(plan: Plan) -> Components | None:
    """Return the clusters that the detector found among the fit images, None if it looked for
    none."""
    detector = plan.model.detector
    numbers = detector.clusters() if isinstance(detector, Clusterer) else None
    if numbers is None:
        return None

    names = []
    for record in plan.roles.fit:
        names.append(record.id if record.slice is None else f"{record.id} slice {record.slice}")
    return named_components(numbers, names)


def _backbones(
    request: Request, model: Model, workdir: Path, reporter: Reporter
) -> list[BackboneFacts]:
    """Return what is known of the backbones of a model, which are copied into the run on
    request."""
    backbones = model.backbones()
    if not request.embed_backbone:
        return backbones
    if not backbones:
        reporter.warn("--embed-backbone: this model looks at pixels, and has no backbone")
    return [embed(each, workdir) for each in backbones]


def _write(
    workdir: Path,
    plan: Plan,
    data: str,
    scale: tuple[float, float],
    calibrated: Calibrated,
    facts: TrainingFacts,
    backbones: Sequence[BackboneFacts],
    components: Components | None,
) -> None:
    """Write the run into its working directory."""
    header = RunHeader(
        detector=plan.form.detector,
        representation=plan.form.representation,
        config=plan.form.config,
        data=data,
        preprocess=plan.model.preprocess.state(),
        representation_state=plan.model.representation.state(),
        scale=scale,
        seen=None if plan.model.seen is None else plan.model.seen.model_dump(mode="json"),
        backbones=tuple(backbones),
        facts=facts,
        absences=None if plan.model.absences is None else plan.model.absences.state(),
    )

    left_out = plan.normals.left_out + calibrated.left_out
    runs.write(
        workdir,
        header=header,
        state=plan.model.detector.state(),
        calibration=calibrated.calibration,
        manifest=manifest_rows(plan.roles, plan.normals, left_out, plan.odd),
        odd=plan.odd,
        components=components,
        card=model_card(header, calibrated.calibration),
    )


def outcome_lines(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in words what planted defects decided between members, and where the budget ended
    training before its last step or its first, from the entries of train.jsonl."""
    lines = []
    for entry in log:
        if "of_steps" in entry:
            member = f"{entry['member']}: " if "member" in entry else ""
            lines.append(
                f"{member}the budget ended training after {entry['step']} of {entry['of_steps']} "
                "steps; more minutes may find more"
            )
        if entry.get("maps") == "line":
            lines.append(
                "what counts: the line that training began with, as the networks translate no "
                "better; more steps may find more"
            )
        if "left_out" in entry:
            lines.append(
                f"{entry['member']}: left out, as the budget ended before its first step of "
                "training; give more minutes"
            )
        if "weights" in entry:
            compared = []
            for name, value in entry.items():
                if name.startswith(PLANTED):
                    compared.append(f"{name.removeprefix(PLANTED)} {value:.3f}")
            lines.append(
                f"what counts: {entry['weights']} (AUROC of defects planted in "
                f"{amount(entry['planted'], 'image')}: {', '.join(compared)})"
            )

    return lines


def _last(log: Sequence[Mapping[str, Any]], key: str) -> Any:
    """Return the value of a key in the last entry of the log that has it, None if none has."""
    for entry in reversed(log):
        if key in entry:
            return entry[key]
    return None
