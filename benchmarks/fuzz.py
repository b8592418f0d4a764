"""Score directories, runs, jobs and the folders of watch from elsewhere: each is mutated in many
ways, its hashes are made to fit, and what reads it must end with an answer or with one line.

    python -m benchmarks.fuzz DIR|RUN|JOB|OUT [--count 1000] [--seed 0]

A mutation changes one value, key, column, array or file: JSON values become others of all types,
columns of tables are dropped, renamed, emptied or of another type, arrays of a model file are cut,
turned or of another type, files are cut, emptied, linked or piped. What lies beside a record is
mutated with it, and still is of it: the plan of a study, vectors of likeness, verdicts with their
marks, and maps that were made again. `verify`, the report and what
the review app opens and shows are then called; of a run `info`, its report and its model, which
scores an image; of a folder of the app's state with a job.json what the app reads of jobs; of the
folder that `watch` writes to, also while a record is open, what it reads when it goes on. Only
AnodetectError may come, and no file elsewhere may be opened but the run, the images and what is
installed.
"""

import argparse
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from anodetect.commands.alarms import Alarms
from anodetect.commands.merge import merge
from anodetect.commands.verify import verify
from anodetect.commands.watch import ALARMS, RECORDS, TAKEN, TAKEN_LINE, read_taken
from anodetect.data.records import Record
from anodetect.errors import REPORT_IT, AnodetectError
from anodetect.files import sha256_of
from anodetect.model.loading import Failed
from anodetect.model.model import Model
from anodetect.model.scoring import score_records
from anodetect.output import report, run_report
from anodetect.output.regions import read_regions
from anodetect.record import alike, checkpoint, directories, made_maps, reviews, runs, study
from anodetect.record.chain import head_of
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.components import read_components
from anodetect.record.journal import is_finished, is_line
from anodetect.record.lines import LineFile, holds
from anodetect.record.odd import read_odd
from anodetect.types import Silent, State

TABLES = ("scores", "groups", "slices", "chain", "outputs", "timings", "alike")
JSONS = ("audit.json", "regions.json", "signature.json", "report.json", "reviews.signed.0a.json",
         "study.json")  # fmt: skip
OF_RUNS = ("odd.json", "components.json", "config.json", "environment.json", "metadata.json")
OF_WATCH = (TAKEN, ALARMS)
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 1e308, "", "x", "../../x", "/etc/passwd", "\x00", "\ud800",
    "é" * 5000, [], {}, [None], {"x": []}, [[1]], "nan", "0" * 64,
)  # fmt: skip
VALUES: tuple[Any, ...] = (  # of verdicts
    None, b"\xff", -1, 2**62, "x", 1e308, "", "1,2,3", "9" * 400 + ",1,1,1", "axial 99: 1,2,3,4",
    "axial " + "9" * 30 + ": 1,1 2,2 3,1", "1,1 " * 9999, "image; image", "axial 3-99999999999",
)  # fmt: skip
OPTIONS = (  # in place of arguments of jobs
    "--json", "--resume", "--out", "--", "--channels=", "--channels=a=*,b=*", "--run", "-1",
    "1e999", "nan", "/", "..", "../../x", "/etc/passwd", "train", "score", "calibrate", "maps",
    "verify", "\0", "\ud800", "x" * 4096, "--engine=ray", "--heatmaps=../../x",
)  # fmt: skip
SLOW = 60.0  # seconds after which a reader hangs
JOB = "job.json"
SHOWN = 3  # cases that are shown
# Files elsewhere that mutations name; a decoy lies where "../../x" leads from a folder in a copy.
FOREIGN, DECOY = ("/etc/passwd", "/etc/hostname"), "x"


@dataclass(frozen=True)
class Finding:
    """A mutation after which something else than an answer or one line came."""

    mutation: str
    reader: str
    trace: str


def fuzz(
    folder: Path, work: Path, count: int, seed: int, readers: Sequence[str] = ()
) -> Iterator[Finding]:
    """Yield what goes wrong with `count` mutations of a score directory, run or job, made in
    `work`, with these readers, by default all."""
    rng = np.random.default_rng(seed)
    mutate_one, known = _ways(folder)
    (work / DECOY).write_text("not of this directory")
    for number in range(count):
        copy = work / "copies" / f"{number}"
        shutil.copytree(folder, copy)
        if made_maps.folder_of(folder).is_dir():
            shutil.copytree(made_maps.folder_of(folder), made_maps.folder_of(copy))
        mutation = mutate_one(copy, rng)
        for name in readers or known:
            trace = _trace_of(known[name], copy)
            if trace:
                yield Finding(mutation, name, trace)
        shutil.rmtree(copy)
        shutil.rmtree(made_maps.folder_of(copy), ignore_errors=True)


Reader = Callable[[Path], object]
Mutate = Callable[[Path, np.random.Generator], str]


def _ways(folder: Path) -> tuple[Mutate, dict[str, Reader]]:
    """Return how a folder is mutated, and what reads it."""
    if (folder / MODEL_FILE).is_file():
        return mutate_run, READERS_OF_RUNS
    if (folder / TAKEN).is_file():
        return mutate_watch, {"watch": _go_on_watching}
    if (folder / JOB).is_file():
        arguments = json.loads((folder / JOB).read_text())["arguments"]
        root = Path(arguments[arguments.index("--out") + 1]).parent
        return mutate_job, {"job": lambda copy: _look_at_job(copy, root)}
    return mutate, READERS


def _trace_of(read: Reader, folder: Path) -> str:
    """Return why reading a directory ends otherwise than with an answer or with one line."""
    began = time.monotonic()
    opened = _watched()
    opened.clear()
    try:
        read(folder)
    except AnodetectError as error:
        if "\n" in str(error):
            return f"more than one line: {error}"
    except Exception:
        return traceback.format_exc()
    outside = [path for path in opened if path.startswith(FOREIGN) or path.endswith(f"/{DECOY}")]
    if outside:
        return f"it reads {outside[0]}"
    return "it hangs" if time.monotonic() - began > SLOW else ""


@cache
def _watched() -> list[str]:
    """Return the list of all paths that Python opens in this process from now on."""
    opened: list[str] = []

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(look)
    return opened


# -- Score directories -----------------------------------------------------------------------------


def _open_as_the_app(folder: Path) -> None:
    """Read what the review app reads when it opens a directory."""
    scored = directories.read_as_written(folder)
    directories.read_slices(folder)
    directories.read_groups(folder)
    list(read_regions(folder))
    list(scored.rows)
    alike.read(folder, scored.audit.head)
    made_maps.read(made_maps.folder_of(folder), scored.audit.head)
    plan = study.read(folder, scored.audit.verdicts_start)
    if plan is not None:
        plan.in_order(plan.cases_in(scored.rows), plan.readers[0])


def _show_as_the_app(folder: Path) -> None:
    """Read what the review app reads when it shows the first cases."""
    from apps.review import loading

    scored = directories.read_as_written(folder)
    for row in scored.rows[:SHOWN]:
        if row.is_volume:
            loading.load_volume(scored, row, "axial")
        else:
            loading.load(scored, row)


def _merged(folder: Path) -> None:
    """Merge a directory alone."""
    out = folder.with_name(f"{folder.name}-merged")
    try:
        merge([folder], out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _verify_a_row(folder: Path) -> None:
    for row in directories.read(folder).rows[:1]:
        verify(folder, row=row.path)


READERS: dict[str, Reader] = {
    "verify": verify,
    "verify --row": _verify_a_row,
    "report": report.write,
    "review": _open_as_the_app,
    "cases": _show_as_the_app,
    "merge": _merged,
}


# -- Runs and jobs ---------------------------------------------------------------------------------


def _load_and_score(folder: Path) -> None:
    """Let the model of a run score an image; ValueError if it loads, but fails to."""
    model = Model.load(runs.read(folder), "cpu")
    image = folder.with_name("image.png")
    if not image.exists():
        Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(image)
    for scored in score_records(model, [Record("image.png", image)], Silent()):
        if isinstance(scored, Failed) and scored.error.startswith(REPORT_IT):
            raise ValueError(f"it loads, but cannot score: {scored.error}")


def _look_at_job(folder: Path, root: Path) -> None:
    """Look at a job as the app does, which starts nothing."""
    from apps.review import jobs

    job = jobs.read(folder / JOB, root)
    jobs.state(job)
    jobs.progress(job)


def _go_on_watching(folder: Path) -> None:
    """Read what `watch` reads when it goes on in a folder."""
    with Alarms(folder / ALARMS, [], "", Silent()):
        pass
    with LineFile(folder / TAKEN, holds(TAKEN_LINE)) as lines:
        read_taken(lines)
    for record in sorted((folder / RECORDS).glob("*")):
        if record.is_dir() and not is_finished(record):
            with LineFile(record / directories.JOURNAL, is_line) as lines:
                list(lines.lines())


READERS_OF_RUNS: dict[str, Reader] = {
    "info": runs.facts,
    "odd": read_odd,
    "components": read_components,
    "manifest": runs.read_manifest,
    "curves": runs.curves,
    "report": lambda folder: run_report.html(runs.read(folder)),
    "model": _load_and_score,
}


# -- Mutations -------------------------------------------------------------------------------------


def mutate(folder: Path, rng: np.random.Generator) -> str:
    """Change one thing in a score directory, make all hashes fit, and return what was changed."""
    kinds = (_mutate_json, _mutate_table, _mutate_file, _mutate_reviews, _mutate_maps)
    kind = kinds[rng.choice(len(kinds), p=(0.45, 0.3, 0.1, 0.1, 0.05))]
    text = kind(folder, rng)
    try:
        make_hashes_fit(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{text}, hashes left as they were"
    return text


def make_hashes_fit(folder: Path) -> None:
    """Let outputs.parquet, audit.json and its head fit what lies in the directory; ValueError where
    one of the two is a pipe or a folder by now."""
    if not all((folder / name).is_file() for name in ("outputs.parquet", "audit.json")):
        raise ValueError("no file")
    outputs = parquet.read_table(folder / "outputs.parquet").to_pylist()
    for row in outputs:
        if (folder / row["name"]).is_file():
            row["sha256"] = sha256_of(folder / row["name"])
    schema = parquet.read_schema(folder / "outputs.parquet")
    parquet.write_table(pa.Table.from_pylist(outputs, schema), folder / "outputs.parquet")

    content = json.loads((folder / "audit.json").read_text())
    for name in content["tables"]:
        if (folder / name).is_file():
            content["tables"][name] = sha256_of(folder / name)
    content["head"] = head_of(content)
    (folder / "audit.json").write_text(json.dumps(content))
    _fit_beside(folder, content["head"])


def _fit_beside(folder: Path, head: str) -> None:
    """Let what lies beside a record be of the one with this head."""
    table, plan = folder / alike.FILE, folder / study.FILE
    if table.is_file():
        with suppress(OSError, pa.ArrowException):
            vectors = parquet.read_table(table).replace_schema_metadata({alike.HEAD: head.encode()})
            parquet.write_table(vectors, table)
    for file in (plan, made_maps.folder_of(folder) / made_maps.FILE):
        if file.is_file() and "head" in (listed := json.loads(file.read_text())):
            file.write_text(json.dumps(listed | {"head": head}))


def mutate_run(run: Path, rng: np.random.Generator) -> str:
    """Change one thing in a run, make all hashes fit, and return what was changed."""
    try:
        arrays, header = checkpoint.read(run / MODEL_FILE)
    except AnodetectError:
        return "nothing: it cannot be read"
    header = dict(header)
    kind = rng.choice(["header", "array", "file", "json"], p=(0.45, 0.2, 0.2, 0.15))
    if kind == "header":
        text = f"header: {_changed(header, rng)}"
    elif kind == "json":
        text = mutate_one_of(run, OF_RUNS, rng)
    elif kind == "array":
        text = _mutate_array(arrays, rng)
    else:
        text = _mutate_file(run, rng)
    if not (run / MODEL_FILE).is_file() or "model" in text:
        return text

    hashes = header.get("hashes")
    if isinstance(hashes, dict):
        for name in hashes:
            if isinstance(name, str) and (run / name).is_file():
                hashes[name] = sha256_of(run / name)
    with suppress(TypeError, ValueError, AnodetectError):
        checkpoint.write(run / MODEL_FILE, arrays, header)
    return text


def _mutate_array(arrays: State, rng: np.random.Generator) -> str:
    name = str(rng.choice(sorted(arrays)))
    array = arrays[name]
    action = rng.choice(["delete", "cut", "empty", "flat", "turn", "type", "rename", "twice"])
    if action in ("delete", "rename"):
        del arrays[name]
        if action == "rename":
            arrays[f"{name}x"] = array
    elif action == "cut":
        arrays[name] = array[..., :-1] if array.ndim else array
    elif action == "empty":
        arrays[name] = np.zeros(0, array.dtype)
    elif action == "flat":
        arrays[name] = array.reshape(1, -1)
    elif action == "turn":
        arrays[name] = array.T
    elif action == "type":
        arrays[name] = array.astype(rng.choice(["f8", "i4", "u1", "?"]))
    else:
        arrays[name] = np.concatenate([array, array]) if array.ndim else array
    return f"array {name}: {action}"


def mutate_job(folder: Path, rng: np.random.Generator) -> str:
    """Change one thing in a job's folder, and return what was changed."""
    if rng.random() < 0.3:
        return _mutate_file(folder, rng)
    content = json.loads((folder / JOB).read_text())
    if rng.random() < 0.5:
        text = _changed_arguments(content["arguments"], rng)
    else:
        text = _changed(content, rng)
    (folder / JOB).write_text(json.dumps(content))
    return f"{JOB}: {text}"


def _changed_arguments(arguments: list[str], rng: np.random.Generator) -> str:
    """Change one argument of a command, and return which."""
    place, other = (int(each) for each in rng.integers(len(arguments), size=2))
    action = str(rng.choice(["drop", "twice", "swap", "replace", "insert"]))
    odd = OPTIONS[rng.integers(len(OPTIONS))]
    was = arguments[place]
    if action == "drop":
        del arguments[place]
    elif action == "twice":
        arguments.insert(place, was)
    elif action == "swap":
        arguments[place], arguments[other] = arguments[other], was
    elif action == "replace":
        arguments[place] = odd
    else:
        arguments.insert(place, odd)
    return f"arguments: {action} {was!r:.40} at {place}, {odd!r:.40} or {other}"


def mutate_watch(folder: Path, rng: np.random.Generator) -> str:
    """Change one line or file in the folder that `watch` writes to, and return what was changed."""
    if rng.random() < 0.3:
        return _mutate_file(folder, rng)
    files = [folder / name for name in OF_WATCH]
    files += (folder / RECORDS).glob(f"*/{directories.JOURNAL}")
    file = files[rng.integers(len(files))]
    lines = file.read_text().splitlines()
    if not lines:
        return _mutate_file(folder, rng)

    place = int(rng.integers(len(lines)))
    content = json.loads(lines[place])
    text = _changed(content, rng)
    lines[place] = json.dumps(content)
    file.write_text("\n".join(lines) + "\n")
    return f"{file.name}, line {place}: {text}"


def _mutate_json(folder: Path, rng: np.random.Generator) -> str:
    names = ("audit.json",) if rng.random() < 0.6 else JSONS
    return mutate_one_of(folder, names, rng)


def _mutate_maps(folder: Path, rng: np.random.Generator) -> str:
    """Change one thing of the maps that were made again, if there are any."""
    maps = made_maps.folder_of(folder)
    if not maps.is_dir():
        return _mutate_json(folder, rng)
    if rng.random() < 0.3:
        return _mutate_file(maps, rng)
    return mutate_one_of(maps, (made_maps.FILE,), rng)


def mutate_one_of(folder: Path, names: Sequence[str], rng: np.random.Generator) -> str:
    """Change one thing in one of the JSON files with these names that are there."""
    present = [name for name in names if (folder / name).is_file()]
    if not present:
        return "nothing: there is no such file"
    name = str(rng.choice(present))
    content = json.loads((folder / name).read_text())
    text = _changed(content, rng)
    (folder / name).write_text(json.dumps(content))
    return f"{name}: {text}"


def _changed(content: Any, rng: np.random.Generator) -> str:
    """Change one value or key in a JSON value, and return which."""
    places = list(_places(content))
    parent, key = places[rng.integers(len(places))]
    value = ODD[rng.integers(len(ODD))]
    action = rng.choice(["replace", "delete", "nest", "add"])

    if action == "delete":
        del parent[key]
    elif action == "nest":
        parent[key] = [parent[key]]
    elif action == "add" and isinstance(parent, dict):
        parent[f"{key}x"] = value
    else:
        parent[key] = value
    return f"{action} {key!r} with {value!r:.40}"


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in a JSON value as its container and its key or index; of a long list the
    first ones."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield content, key
            yield from _places(value)
    elif isinstance(content, list):
        for index, value in enumerate(content[:3]):
            yield content, index
            yield from _places(value)


def _mutate_table(folder: Path, rng: np.random.Generator) -> str:
    present = [name for name in TABLES if (folder / f"{name}.parquet").is_file()]
    return mutate_table(folder, str(rng.choice(present)), rng)


def mutate_table(folder: Path, name: str, rng: np.random.Generator) -> str:
    """Change a column or the rows of a table, and return what was changed."""
    file = folder / f"{name}.parquet"
    table = parquet.read_table(file)
    column = int(rng.integers(table.num_columns))
    label, field = table.column_names[column], table.schema.field(column)
    action = rng.choice(["drop", "rename", "null", "text", "odd", "rows", "twice", "empty"])

    if action == "drop":
        table = table.remove_column(column)
    elif action == "rename":
        names = list(table.column_names)
        names[column] = "x"
        table = table.rename_columns(names)
    elif action == "null":
        table = table.set_column(column, field, pa.nulls(len(table), field.type))
    elif action == "text":
        table = table.set_column(column, label, pa.array(["x"] * len(table)))
    elif action == "odd":
        table = table.set_column(column, field, _odd_values(table, column, rng))
    elif action == "rows":
        table = pa.concat_tables([table, table])
    elif action == "twice":
        table = table.append_column(label, table[column])
    else:
        table = table.slice(0, 0)
    parquet.write_table(table, file)
    return f"{file.name}: {action} {label}"


def _odd_values(table: pa.Table, column: int, rng: np.random.Generator) -> pa.Array:
    """Return values of the column's type that no scoring writes."""
    kind = table.schema.field(column).type
    if pa.types.is_string(kind):
        values: list[Any] = ["", "../../x", "/etc/passwd", "[[", "\x00", "a/../../b"]
    elif pa.types.is_floating(kind):
        values = [float("nan"), float("inf"), -1e300, -0.0]
    elif pa.types.is_integer(kind):
        values = [-1, 0, 127]
    else:
        values = [True, False]
    return pa.array([values[rng.integers(len(values))] for _ in range(len(table))], kind)


def _mutate_file(folder: Path, rng: np.random.Generator) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = files[rng.integers(len(files))]
    action = rng.choice(["cut", "empty", "flip", "link", "pipe", "folder", "noise"])
    content = file.read_bytes()
    if action == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif action == "empty":
        file.write_bytes(b"")
    elif action == "flip":
        place = int(rng.integers(max(len(content), 1)))
        file.write_bytes(content[:place] + bytes([rng.integers(256)]) + content[place + 1 :])
    elif action == "noise":
        file.write_bytes(rng.bytes(200))
    else:
        file.unlink()
        if action == "link":
            file.symlink_to("/etc/hostname")
        elif action == "pipe":
            os.mkfifo(file)
        else:
            file.mkdir()
    return f"{file.relative_to(folder).as_posix()}: {action}"


def _mutate_reviews(folder: Path, rng: np.random.Generator) -> str:
    file = folder / "reviews.sqlite"
    if not file.is_file():
        return _mutate_json(folder, rng)
    with closing(sqlite3.connect(file)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(reviews)")]
        column = str(rng.choice(columns))
        value = VALUES[rng.integers(len(VALUES))]
        made = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in connection.execute(made).fetchall():  # they refuse every change
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(f'UPDATE reviews SET "{column}" = ? WHERE number = 1', (value,))
    _fit_chain(file)
    return f"reviews.sqlite: {column} = {value!r:.60}"


def _fit_chain(file: Path) -> None:
    """Let the hashes of reviews fit what they say now, if they can be read."""
    try:
        given = reviews.read(file)
    except AnodetectError:
        return
    previous = given[0].previous if given else ""
    with closing(sqlite3.connect(file)) as connection, connection:
        for each in given:
            own = reviews.hash_of(replace(each, previous=previous))
            connection.execute(
                "UPDATE reviews SET previous = ?, hash = ? WHERE number = ?",
                (previous, own, each.number),
            )
            previous = own


def print_findings(
    about: str | None,
    fuzzed: str,
    findings: Callable[[Path, Path, int, int], Iterator[Finding]],
    mutations: str,
) -> None:
    """Print the findings; the command's argument has the name `fuzzed`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(fuzzed, type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    found = 0
    with tempfile.TemporaryDirectory() as work:
        path = getattr(options, fuzzed)
        for finding in findings(path, Path(work), options.count, options.seed):
            found += 1
            print(f"{finding.mutation}\n{finding.reader}: {finding.trace}", flush=True)
    print(f"{found} findings in {options.count} {mutations}")


def main() -> None:
    """Print the findings."""
    print_findings(__doc__, "directory", fuzz, "mutations")


if __name__ == "__main__":
    main()
