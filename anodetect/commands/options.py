"""Options and arguments of the command line: their types and help texts, grouped by command."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from anodetect.output import formats

# -- Shared ----------------------------------------------------------------------------------------

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Directory to write; it must not exist yet.")]
ScoreOut = Annotated[
    Path, typer.Option("--out", help="Directory or URL to write; it must not exist yet.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")]
Roi = Annotated[
    Path | None,
    typer.Option(
        "--roi",
        help="A mask of the images' size: only where it is white is anything learned or scored. "
        "A run remembers its own.",
    ),
]
Far = Annotated[
    float, typer.Option(help="False-alarm rate: the share of normal images that may be flagged.")
]
FollowLinks = Annotated[
    bool, typer.Option("--follow-symlinks", help="Also read links that lead out of the folder.")
]
Budget = Annotated[float, typer.Option(help="Minutes of training at most.")]
Run = Annotated[Path, typer.Argument(help="A run directory.")]
ScoreDirectory = Annotated[Path, typer.Argument(help="A score directory.")]

# -- demo ------------------------------------------------------------------------------------------

DemoOut = Annotated[Path, typer.Option("--out", help="Directory to write.")]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="Synthetic images and a tiny budget: a check of the installation."
    ),
]

# -- train -----------------------------------------------------------------------------------------

TrainingData = Annotated[
    str,
    typer.Argument(
        help="A folder of normal images, a folder in the MVTec layout or with manifest.csv, "
        "its URL, or a card's name."
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        "-d",
        help="What learns; `anodetect detectors` lists them. By default the recommended one.",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option(help="A TOML file of settings.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="One setting, key=value; may be repeated. `anodetect detectors NAME` lists them.",
    ),
]
Representation = Annotated[
    str,
    typer.Option(
        help="What the detector sees: pixels, features, or auto for what suits detector and images."
    ),
]
KindNormal = Annotated[
    list[str] | None,
    typer.Option(
        help="A folder, kind, modality or MR sequence that holds normals, whatever its name means; "
        "may be repeated. Nothing else is learned from."
    ),
]
DryTraining = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only say what would be learned from, as `data inspect`, what would calibrate, and "
        "which promise follows.",
    ),
]
Each = Annotated[
    bool,
    typer.Option(
        "--each", help="DATA holds several data sets: train one run for each, OUT/<its name>."
    ),
]
InspectedData = Annotated[str, typer.Argument(help="A folder, a file, or a card's name.")]
CardName = Annotated[str, typer.Argument(help="A name that `anodetect data list` gives.")]
Html = Annotated[
    Path | None, typer.Option(help="Also write a page with pictures from every folder.")
]
Tile = Annotated[
    int | None,
    typer.Option(help="Model tiles of this many native pixels instead of the whole image, shrunk."),
]
Overlap = Annotated[
    float | None, typer.Option(help="Share of a tile that neighbours have in common.")
]
Axis = Annotated[
    str | None,
    typer.Option(
        help="Slices of volumes: axial, coronal, sagittal, or auto for the finest pixels."
    ),
]
Frames = Annotated[
    bool,
    typer.Option(
        "--frames",
        help="Each frame of a DICOM file of ultrasound, angiography, OCT or another modality than "
        "CT, MR and PET is an image. A run remembers it.",
    ),
]
FlipRight = Annotated[
    bool,
    typer.Option(
        "--flip-right",
        help="Mirror images of right breasts, as the DICOM header or a manifest's column "
        "'laterality' says; maps are mirrored back. A run remembers it.",
    ),
]
Select = Annotated[
    str | None,
    typer.Option(
        help="The volume to take of files that hold several, by its number from 0, or its name in "
        "a DICOM series ('echo 20 ms'). A run remembers it."
    ),
]
Dims = Annotated[
    int | None,
    typer.Option(help="Volumes: 2 slice by slice (the default), 3 as patches of voxels."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides everything that is random.")]
DropOdd = Annotated[
    float | None,
    typer.Option(
        help="Learn nothing from this many images, or this share of them (5, 0.02): those that are "
        "hardest to explain from the others."
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Calibrate with all normals: each group is scored by a model of one of so many folds "
        "that has not seen it, and the models share the budget. 0: with a fifth of them. By "
        "default 5 for detectors that learn in seconds, else 0.",
    ),
]
KnownAnomalies = Annotated[
    bool,
    typer.Option(
        "--known-anomalies",
        help="Learn from a few known anomalies, too: the rows of manifest.csv with split train and "
        "label 1. They are never fitted, tuned or calibrated on as normals.",
    ),
]
Channels = Annotated[
    str | None,
    typer.Option(
        help="Several files are the channels of one image: their names with the patterns of file "
        "or series names, as t1=*T1w*,flair=*FLAIR*. A run remembers them.",
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing", help="With --channels: also images that lack some of their channels."
    ),
]
EmbedBackbone = Annotated[
    bool,
    typer.Option(
        "--embed-backbone",
        help="Copy the weights of the backbone into the run, which then scores where they are not "
        "installed; their licence applies to who passes the run on.",
    ),
]
AllowFew = Annotated[
    bool,
    typer.Option(
        "--allow-few",
        help="Fewer than 20 normal images will do, for a detector that needs no training: without "
        "p-values, flags and thresholds.",
    ),
]
ResumeTraining = Annotated[
    bool, typer.Option("--resume", help="Continue an interrupted training of the same --out.")
]

# -- score -----------------------------------------------------------------------------------------

Paths = Annotated[
    list[str], typer.Argument(help="Files, folders, URLs, or a card's name (its test part).")
]
ScoreFar = Annotated[
    float | None,
    typer.Option(
        help="False-alarm rate: the share of normal images that may be flagged; "
        "0.05 without --fdr.",
        show_default=False,
    ),
]
Fdr = Annotated[
    float | None,
    typer.Option(help="Instead of --far: the false-discovery rate among flagged images."),
]
Heatmaps = Annotated[str, typer.Option(help=f"Comma-separated: {formats.listed()}, or none.")]
DEFAULT_HEATMAPS = ",".join(formats.DEFAULT)
ResumeScoring = Annotated[
    bool,
    typer.Option("--resume", help="Go on where an interrupted scoring of the same --out stopped."),
]
Shard = Annotated[
    str, typer.Option(help="i/n: score the i-th of n parts; `anodetect merge` joins them.")
]
Sign = Annotated[
    Path | None, typer.Option(help="Sign what is written with this Ed25519 private key (PEM).")
]
Engine = Annotated[
    str, typer.Option(help="local, or ray: on the cluster of RAY_ADDRESS, else this machine.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="How many processes score, each with a model of its own (1: this one alone). By "
        "default as many as are faster on this machine; with ray one for each GPU, or else each "
        "node."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only check the run and all options, as scoring does before its first image, and list "
        "what would be scored. Nothing is written.",
    ),
]
AcceptDifferent = Annotated[
    bool,
    typer.Option(
        "--accept-different",
        help="Also score what differs so much from what the model has seen that it is refused.",
    ),
]
ExactGrid = Annotated[
    bool,
    typer.Option(
        "--exact-grid",
        help="Keep the sheared grid of a tilted gantry in NIfTI maps, which ITK, Slicer and ANTs "
        "do not open; else they are resampled onto a straight one.",
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        help="Which images keep maps, pictures, masks and outlines: all; flagged, with those that "
        "are borderline (p up to twice the false-alarm rate); or sample=N, with one in N of the "
        "others, too. `anodetect maps` makes the rest again.",
    ),
]
KeepIdentifiers = Annotated[
    bool,
    typer.Option(
        "--keep-identifiers", help="Name DICOM patients as their files do, not by a pseudonym."
    ),
]

# -- merge, verify, review, report -----------------------------------------------------------------

Parts = Annotated[list[Path], typer.Argument(help="The score directories of all shards.")]
Head = Annotated[str | None, typer.Option(help="The chain's head as it was kept elsewhere.")]
PublicKey = Annotated[
    Path | None, typer.Option(help="The Ed25519 public key (PEM) that must have signed it.")
]
ForgottenGroup = Annotated[
    str, typer.Option("--group", help="The patient or lot, as groups.csv names it.")
]
SignVerdicts = Annotated[
    Path | None,
    typer.Option("--sign", help="Sign this session's verdicts with this Ed25519 key (PEM)."),
]
OneRow = Annotated[
    str | None,
    typer.Option("--row", help="Check the row of this path alone, as scores.csv names it."),
]
SomeRows = Annotated[
    str | None,
    typer.Option("--rows", help="Check the rows with numbers from A to B alone (A:B, from 1)."),
]
KeptReviews = Annotated[
    str | None,
    typer.Option("--reviews", help="The end of the chain of verdicts as it was kept elsewhere."),
]
Rescore = Annotated[int, typer.Option(min=0, help="Score this many random files again.")]
MovedRun = Annotated[Path | None, typer.Option(help="Where the run is now, if it was moved.")]
MovedData = Annotated[
    Path | None, typer.Option(help="Where the images are now, if they were moved.")
]
ImagesAndMasks = Annotated[
    Path | None,
    typer.Option(
        help="Where the images are now, if they were moved, and the true masks, by which metrics "
        "of pixels are measured again."
    ),
]
MapPaths = Annotated[
    list[str],
    typer.Argument(help="Files whose maps to make: paths of rows, or where the files lie."),
]
MapsOut = Annotated[
    Path | None,
    typer.Option("--out", help="The folder to write into; by default DIR-maps, beside DIR."),
]
ScoreDirectories = Annotated[list[Path] | None, typer.Argument(help="Score directories.")]
Roots = Annotated[
    list[Path] | None,
    typer.Option(help="A folder the app may train and score in; may be repeated."),
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")]
VerdictKeys = Annotated[
    str,
    typer.Option(
        "--keys",
        help="The keys of the verdicts normal, anomalous, unsure and bad image, such as ARUB.",
    ),
]
OpensBrowser = Annotated[
    bool, typer.Option(help="Open the page in the browser, from a terminal with a display.")
]
ReviewsForm = Annotated[
    Literal["manifest", "coco", "masks", "study"],
    typer.Option(
        "--as",
        help="manifest: images, masks and a manifest.csv; coco: the regions alone, in COCO's "
        "format; masks: the regions alone, as masks; study: all readings of a study and their "
        "results.",
    ),
]
Readers = Annotated[list[str], typer.Option("--reader", help="Who reads; may be repeated.")]
Adjudicators = Annotated[
    list[str] | None,
    typer.Option("--adjudicator", help="Who decides where readers differ; may be repeated."),
]
Viewers = Annotated[
    list[str] | None,
    typer.Option("--viewer", help="Who may look, and not judge; may be repeated."),
]
ReadersEach = Annotated[int, typer.Option("--each", min=1, help="Readers of each case.")]
StudySample = Annotated[
    int | None, typer.Option("--sample", min=1, help="Only so many cases, drawn at random.")
]
StudySeed = Annotated[
    int, typer.Option("--seed", min=0, help="Decides who reads what, and in which order.")
]
StudyName = Annotated[str, typer.Option("--name", help="The study's name, for people.")]
ByLogin = Annotated[
    bool, typer.Option("--login", help="Names count only if they come from a login.")
]
JoinNormals = Annotated[
    bool,
    typer.Option(help="Cases judged normal are for training in the manifest, not for testing."),
]
ReportDirectory = Annotated[
    Path, typer.Argument(help="A score directory, a folder of them, or a run.")
]

# -- export ----------------------------------------------------------------------------------------

OnnxFile = Annotated[Path, typer.Option("--onnx", help="The file to write.")]
ComparedData = Annotated[
    str,
    typer.Option(
        "--data",
        help="A folder or a card's name: the file is compared with the run on 64 of its images, "
        "by default on made ones.",
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(help="The largest difference of a score, as a share of it, with which to write."),
]

# -- watch, serve ----------------------------------------------------------------------------------

WatchedFolder = Annotated[Path, typer.Argument(help="The folder in which images appear.")]
WatchOut = Annotated[
    Path, typer.Option("--out", help="Folder for the records; the same one goes on with them.")
]
WatchHeatmaps = Annotated[
    str, typer.Option(help="Comma-separated output formats of every image, as of `score`, or none.")
]
CloseHours = Annotated[float, typer.Option("--hours", help="Hours after which a record is closed.")]
CloseCount = Annotated[
    int, typer.Option("--count", help="Number of files with which a record is closed.")
]
AlarmCommand = Annotated[
    str,
    typer.Option(
        "--alarm",
        help="A command that hears of every flagged file, as JSON on its standard input. It is "
        "split at spaces as in a shell, and run without one.",
    ),
]
Webhook = Annotated[
    str,
    typer.Option(
        envvar="ANODETECT_WEBHOOK",
        help="An address that gets every flagged file by POST. One that is itself a secret belongs "
        "in the environment: the command line stands in the record.",
    ),
]
ServeHost = Annotated[str, typer.Option(help="The address to answer on.")]
ServePort = Annotated[int, typer.Option(min=0, max=65535, help="The port to answer on.")]

# -- sample ----------------------------------------------------------------------------------------

SampleCount = Annotated[int, typer.Option("--count", min=1, max=256, help="Images to make.")]
Start = Annotated[
    Path | None, typer.Option("--from", help="An image to begin at; without it, at noise.")
]

# -- calibrate, evaluate, benchmark, detectors -----------------------------------------------------

NewNormals = Annotated[
    str, typer.Argument(help="New normal images: a folder, its URL, or a card's name.")
]
LabelledData = Annotated[
    str,
    typer.Argument(
        help="Labelled images: a folder, its URL, or a card's name; a train part is ignored."
    ),
]
By = Annotated[
    str,
    typer.Option(
        help="Also measure each value of these manifest columns (comma-separated) by itself."
    ),
]
BenchmarkData = Annotated[
    list[str], typer.Argument(help="Labelled data sets, each with a train part.")
]
DetectorNames = Annotated[
    str, typer.Option(help="Comma-separated names; see `anodetect detectors`.")
]
BenchmarkOut = Annotated[
    Path, typer.Option("--out", help="Directory; what is finished in it is not repeated.")
]
Seeds = Annotated[int, typer.Option(min=1, help="Runs per detector and data set.")]
BudgetEach = Annotated[float, typer.Option(help="Minutes of training at most, each.")]
DetectorName = Annotated[
    str | None, typer.Argument(help="Show the settings of this detector.", show_default=False)
]

# -- backbone --------------------------------------------------------------------------------------

BackboneName = Annotated[
    str, typer.Argument(help="A name on the hub, such as facebook/dinov2-small.")
]
Revision = Annotated[str, typer.Option(help="A branch, tag or commit; its commit is noted.")]
Yes = Annotated[bool, typer.Option("--yes", help="Fetch it without asking.")]

# -- pacs ------------------------------------------------------------------------------------------

Archive = Annotated[
    str,
    typer.Argument(
        help="The archive: https://host:port/dicom-web, dicom://TITLE@host:port, or dicoms:// with "
        "TLS. A user and a password come from ANODETECT_PACS_USER and ANODETECT_PACS_PASSWORD."
    ),
]
PulledFolder = Annotated[
    Path,
    typer.Option("--out", help="A folder; what it has of the series already is not fetched again."),
]
Modality = Annotated[str, typer.Option(help="Only series of this modality: CT, MR …")]
Description = Annotated[
    str,
    typer.Option(help="Only series with this description, in any case; * and ? stand for others."),
]
Since = Annotated[str, typer.Option(help="Only studies of this day, such as 2026-01-31, or later.")]
Until = Annotated[str, typer.Option(help="Only studies of this day or earlier.")]
Patients = Annotated[
    Path | None, typer.Option(help="A file of patient IDs, one a line: only theirs.")
]
Retrieve = Annotated[
    str,
    typer.Option(
        help="How series come by DIMSE: get (on the same connection), or move (the archive must "
        "know --aet, --host and --port)."
    ),
]
OwnTitle = Annotated[str, typer.Option("--aet", help="Our AE title.")]
OwnHost = Annotated[str, typer.Option("--host", help="The address on which objects are received.")]
OwnPort = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="The port on which objects are received.")
]
NodeFolder = Annotated[
    Path,
    typer.Option(
        "--out", help="The folder of the node: what arrives and its scores; used again later."
    ),
]
PushTo = Annotated[str, typer.Option("--to", help="The archive that results are pushed to.")]
Watch = Annotated[
    Path | None,
    typer.Option(help="Take DICOM files that appear in this folder; nothing is listened to then."),
]
Quiet = Annotated[
    float,
    typer.Option(min=0.1, help="Seconds without a new image after which a series is whole."),
]
CountOf = Annotated[
    bool,
    typer.Option(
        "--count",
        help="Ask the archive of --to how many objects a series has: it is whole when all came.",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(help="An AE title that may send; may be repeated. On loopback all may otherwise."),
]
TlsCert = Annotated[
    Path | None, typer.Option(help="Our certificate (PEM), shown to the other side.")
]
TlsKey = Annotated[Path | None, typer.Option(help="The private key (PEM) of --tls-cert.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(help="The authorities (PEM) that vouch for the other side; else the system's."),
]
