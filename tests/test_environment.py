"""The same results wherever the program runs: notebooks, terminals without UTF-8, and systems
without POSIX."""

import errno
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout

import anodetect
from anodetect import cli, files
from anodetect.commands import benchmark, review
from anodetect.commands.inputs import collect
from anodetect.config import without_nan
from anodetect.data import pseudonyms, readers
from anodetect.engines import local
from anodetect.errors import ConfigError, DataError, DiskFullError, Interrupted, RunError
from anodetect.files import leads_out
from anodetect.record import checkpoint, environment, lines, partial, runs, verification
from anodetect.record.rows import ScoreRow, to_table
from anodetect.record.tables import write_table
from anodetect.types import Silent

PROJECT = Path(__file__).parents[1]
ODD = "缺陷–é\N{GRINNING FACE}.png"  # no encoding but Unicode's has all of it

# What Windows does not have. What numpy, platformdirs, asyncio and subprocess need where they
# believe to be on Linux stays.
AS_ON_WINDOWS = """
import os, signal, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "sync", "O_DIRECTORY", "killpg", "setsid", "mkfifo"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGUSR1", "pthread_sigmask", "SIG_BLOCK"):
    delattr(signal, name)
"""


def run_code(code, *arguments, text=True, **variables):
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=text,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **variables},
    )


def run_command(*arguments, **variables):
    code = "from anodetect.cli import main; main()"
    return run_code(code, *arguments, text=False, **variables)


@pytest.fixture
def odd_folder(synthetic_folder, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    source = next((synthetic_folder / "test/good").iterdir())
    shutil.copy(source, folder / ODD)
    return folder


# -- Notebooks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "qtagg", "none"])
def test_the_backend_that_a_notebook_names_does_not_matter(backend):
    """Figures are drawn, and the variable is there afterwards for the programs that it is for."""
    code = """
import os
from anodetect.output import figures, pictures
assert figures.colour_bar(0, 1).startswith("<svg")
assert pictures.palette("magma").shape == (256, 3)
print(os.environ["MPLBACKEND"])
"""
    done = run_code(code, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == backend


def test_what_a_user_has_set_for_own_figures_does_not_change_those_of_a_report():
    code = """
import matplotlib
from anodetect.output import figures
plain = figures.colour_bar(0, 1)
matplotlib.rcParams.update({"text.usetex": True, "text.color": "white", "axes.facecolor": "black"})
assert figures.colour_bar(0, 1) == plain
assert matplotlib.rcParams["text.usetex"]
"""
    done = run_code(code)
    assert done.returncode == 0, done.stderr


# -- Terminals without UTF-8 -----------------------------------------------------------------------


@pytest.fixture
def print_in(monkeypatch):
    """Run a command with a stdout of another encoding; return the bytes that it printed."""

    def printed(encoding, *arguments):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "argv", ["anodetect", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        stream.flush()
        assert not leave.value.code
        return stream.buffer.getvalue()

    return printed


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
@pytest.mark.parametrize(
    "arguments", [["--help"], ["detectors", "pca"], ["data", "show", "elpv"], ["train", "--help"]]
)
def test_texts_are_printed_where_stdout_is_not_utf8(print_in, arguments, encoding):
    assert print_in(encoding, *arguments).decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_are_printed_with_replacements_and_json_keeps_them(print_in, odd_folder, encoding):
    arguments = ["score", "run", odd_folder, "--out", odd_folder.parent / "s", "--dry-run"]
    text = print_in(encoding, *arguments).decode(encoding)
    assert text.strip() == ODD.encode(encoding, "replace").decode(encoding)
    content = print_in(encoding, *arguments, "--json").decode("utf-8")
    assert json.loads(content)["paths"] == [ODD]


def test_the_program_prints_where_the_environment_says_ascii():
    done = run_command("--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout and done.stdout.decode("ascii")


def test_json_is_valid_where_a_name_is_not_even_unicode(print_in, pca_run, odd_folder):
    """The name of --out is a byte that is no UTF-8."""
    out = os.fsdecode(os.fsencode(odd_folder.parent) + b"/\xff")
    content = print_in(
        "utf-8", "score", pca_run, odd_folder, "--out", out, "--heatmaps", "none", "--json"
    )
    assert json.loads(content.decode("utf-8"))["out"] == out


# -- Windows ---------------------------------------------------------------------------------------


def test_every_module_and_the_command_line_work_without_posix(synthetic_folder, tmp_path):
    """All modules are imported; training, scoring in processes that do not fork, the report and the
    verification work."""
    run, out = tmp_path / "run", tmp_path / "scores"
    commands = [
        ["train", synthetic_folder, "-d", "pca", "--set", "components=5", "--out", run],
        ["score", run, synthetic_folder, "--out", out, "--workers", "2"],
        ["verify", out, "--rescore", "1"],
    ]
    program = tmp_path / "program.py"
    program.write_text(f"""{AS_ON_WINDOWS}
if __name__ == "__main__":
    import importlib, pkgutil, anodetect
    for module in pkgutil.walk_packages(anodetect.__path__, "anodetect."):
        importlib.import_module(module.name)

    from anodetect import cli
    for arguments in {[list(map(str, each)) for each in commands]!r}:
        sys.argv[1:] = arguments
        try:
            cli.main()
        except SystemExit as leave:
            assert not leave.code, arguments
""")
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "MPLBACKEND": "none"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "<svg" in (out / "report.html").read_text("utf-8")


def test_where_the_system_does_not_say_its_memory_one_process_scores(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert local.share(8, local.memory()) == (1, 8)


def test_memory_that_the_system_does_not_say_is_null_and_not_counted(monkeypatch):
    monkeypatch.setattr(environment, "resource", None)
    monkeypatch.setattr(environment.sys, "platform", "win32")
    peak = without_nan({"peak_memory_mb": environment.peak_memory_mb()})
    assert peak == {"peak_memory_mb": None}
    assert math.isnan(benchmark._peak(peak))
    assert benchmark._peak({"peak_memory_mb": 5}) == 5.0


def test_the_memory_of_the_program_that_started_this_one_is_not_counted():
    """It is in what getrusage says. The child imports little; here is all of PyTorch, and 400 MB
    more."""
    held = np.ones(50_000_000)
    child = "from anodetect.record import environment; print(environment.peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < held.nbytes / 1e6 < environment.peak_memory_mb()


def test_the_key_of_pseudonyms_is_made_once_where_there_are_no_hard_links(monkeypatch, tmp_path):
    """On Windows a draft is renamed, which fails there if another process was quicker."""
    monkeypatch.setattr(pseudonyms, "ON_WINDOWS", True)
    monkeypatch.delattr(pseudonyms.os, "link")
    path = tmp_path / "folder" / "pseudonym.key"
    pseudonyms._make_key(path)
    assert len(bytes.fromhex(path.read_text("ascii"))) == pseudonyms.KEY_BYTES

    def refuse(draft, target):
        raise FileExistsError

    before = path.read_text("ascii")
    monkeypatch.setattr(type(path), "rename", refuse)
    pseudonyms._make_key(path)
    assert path.read_text("ascii") == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_inputs_on_several_drives_are_refused(monkeypatch, synthetic_folder, tmp_path):
    def different(roots):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", different)
    folders = [str(synthetic_folder / "test/good"), str(synthetic_folder / "train/good")]
    with pytest.raises(DataError, match="not on one drive or in one bucket; score them apart"):
        collect(folders, tmp_path, follow_symlinks=False)


def test_the_end_of_a_process_has_words_for_signals_that_are_not_known(monkeypatch):
    assert local._ending(-signal.SIGKILL).startswith("was ended by SIGKILL, as when memory")
    assert local._ending(-200) == "was ended by signal 200"
    monkeypatch.delattr(signal, "SIGKILL")
    assert local._ending(-signal.SIGTERM) == "was ended by SIGTERM"


@pytest.mark.parametrize(
    ("name", "out"), [("a/b.png", False), ("/a", True), ("../a", True), ("a/../../b", True)]
)
def test_a_path_that_leads_out_of_its_folder_is_noticed(name, out):
    assert leads_out(name) is out


# -- Review ----------------------------------------------------------------------------------------

needs_app = pytest.mark.skipif(
    not all(map(find_spec, review.PACKAGES)), reason="the extra `app` is not installed"
)


@needs_app
@pytest.mark.parametrize("name", ["nope", "file", "empty"])
def test_review_refuses_at_once_what_is_no_score_directory(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=f"{name}: not a finished score directory"):
        review.serve([tmp_path / name], port=8501)


@needs_app
def test_review_refuses_a_port_that_is_in_use(tmp_path):
    (tmp_path / "audit.json").write_text('{"format": 3}')
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: cannot be used.*in use"):
            review.serve([tmp_path], port=port)


@needs_app
def test_review_fails_in_the_terminal_with_one_line():
    done = run_command("review", "nope")
    assert done.returncode == 2
    expected = "anodetect: nope: not a finished score directory (no such folder)"
    assert done.stderr.decode().strip() == expected


# -- A full disk -----------------------------------------------------------------------------------

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_for(monkeypatch):
    """Let the disk be full for the files with these ends of names, until undone."""

    def fill(*ends):
        replace, new_file = Path.replace, files._new_file

        def checked(path, target):
            if str(target).endswith(ends):
                raise NO_SPACE
            return replace(path, target)

        def opened(path):  # of outputs, which are not renamed
            if str(path).endswith(ends):
                raise NO_SPACE
            return new_file(path)

        monkeypatch.setattr(Path, "replace", checked)
        monkeypatch.setattr(files, "_new_file", opened)

    return fill


@pytest.mark.parametrize("end", ["heatmap.tiff", "scores.csv", "report.html"])
def test_a_scoring_goes_on_after_the_disk_was_full(
    pca_run, synthetic_folder, tmp_path, monkeypatch, full_for, end
):
    """One line names the file and the command that goes on. Then everything is there."""
    out, images = tmp_path / "s", [str(synthetic_folder / "test/good")]
    command = ["anodetect", "score", "a run", "--out", str(out)]
    options = {"heatmaps": ("tiff",), "command": command}
    full_for(end)
    with pytest.raises(DiskFullError, match=rf"{end}: cannot be written \(No space left") as error:
        anodetect.score(pca_run, images, out, **options)
    monkeypatch.undo()
    assert str(error.value).endswith(f"go on with anodetect score 'a run' --out {out} --resume")
    assert "\n" not in str(error.value)

    command.append("--resume")
    answer = anodetect.score(pca_run, images, out, resume=True, **options)
    assert (answer.scored, answer.failed) == (20, 0)
    assert "<svg" in (out / "report.html").read_text("utf-8")
    assert verification.verify(out).intact


def test_a_scoring_goes_on_after_its_journal_could_not_be_written(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    out, images = tmp_path / "s", [str(synthetic_folder / "test/good")]

    def full(descriptor):
        raise NO_SPACE

    with monkeypatch.context() as patch:
        patch.setattr(lines.os, "fsync", full)
        with pytest.raises(
            DiskFullError, match=r"journal.jsonl: cannot be written.*score … --resume"
        ):
            anodetect.score(pca_run, images, out, heatmaps=())
    assert anodetect.score(pca_run, images, out, heatmaps=(), resume=True).scored == 20


def test_a_table_that_no_longer_fits_is_one_error_and_leaves_nothing(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, content):
            raise NO_SPACE

    monkeypatch.setattr(files, "_new_file", lambda path: Full(path, "xb"))
    table = to_table([ScoreRow(path="a", group="a", status="ok", model_sha256="")], ScoreRow)
    with pytest.raises(DiskFullError, match=r"scores.parquet: cannot be written \(No space left"):
        write_table(tmp_path / "scores", table)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_for_another_reason_is_a_row_with_the_reason(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    """A name that is too long, for example, does not end a long scoring."""
    new_file = files._new_file

    def opened(path):
        if path.name == "0003.png_heatmap.tiff":
            raise OSError(errno.EACCES, "Permission denied")
        return new_file(path)

    monkeypatch.setattr(files, "_new_file", opened)
    answer = anodetect.score(
        pca_run, [str(synthetic_folder / "test/good")], tmp_path / "s", heatmaps=("tiff",)
    )
    assert answer.failed == 1
    assert "Permission denied" in next(iter(answer.reasons))


# -- What is checked before an image is read -------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        *(
            (
                ["train", "{none}", "-d", "pca", "--out", "{out}", "--device", device],
                f"--device {device}: not available here",
            )
            for device in ("gpu", "cuda:77", "mps", "meta", "nonsense")
        ),
        (["score", "{run}", "{none}", "--out", "{out}", "--device", "gpu"], "--device gpu"),
        (["calibrate", "{run}", "{none}", "--out", "{out}", "--device", "gpu"], "--device gpu"),
        (["evaluate", "{run}", "{none}", "--device", "gpu"], "--device gpu"),
        (["verify", "{none}", "--device", "gpu"], "--device gpu"),
        (["score", "{run}", "{none}", "--out", "{out}", "--far", "0.05", "--fdr", "0.1"], "--fdr"),
        (["score", "{run}", "{none}", "--out", "{out}", "--sign", "{none}"], "no usable private"),
        (["score", "{run}", "{none}", "--out", "{out}", "--shard", "3/2"], "--shard 3/2"),
        (["score", "{run}", "{none}", "--out", "{run}"], "not an empty folder"),
        (["score", "{run}", "{none}", "--out", "{file}/s"], "cannot be made, as"),
        (["sample", "{run}", "--out", "{file}/s"], "cannot be made, as"),
        (["train", "{none}", "-d", "pca", "--out", "{run}"], "already exists"),
        (["train", "{none}", "-d", "pca", "--out", "{file}/run"], "cannot be made (Not a dir"),
        (["benchmark", "{none}", "--detectors", "pca", "--out", "{file}"], "cannot be made (File"),
        (["calibrate", "{run}", "{none}", "--out", "{run}"], "already exists"),
        (["calibrate", "{run}", "{none}", "--out", "{file}/run"], "cannot be made (Not a dir"),
    ],
)
def test_options_are_checked_before_the_data_is_looked_for(
    capfd, monkeypatch, pca_run, tmp_path, arguments, reason
):
    (tmp_path / "file").touch()
    places = {
        "run": pca_run,
        "none": tmp_path / "none",
        "out": tmp_path / "out",
        "file": tmp_path / "file",
    }
    given = [argument.format(**places) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["anodetect", *given])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    (line,) = capfd.readouterr().err.splitlines()
    assert leave.value.code == 2
    assert reason in line
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_is_noticed_before_an_image_is_read(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    """Root may write everywhere, so the system's answer is simulated."""

    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def read(*arguments):
        pytest.fail("an image was read")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(readers, "read_bytes", read)
    data, out = str(synthetic_folder), tmp_path / "out"
    for write in (
        lambda: anodetect.train(data, "pca", out),
        lambda: anodetect.calibrate(pca_run, data, out),
        lambda: anodetect.score(pca_run, [data], out),
    ):
        with pytest.raises(RunError, match=r"out.*cannot be made \(Permission denied\)"):
            write()


def test_no_folder_is_taken_that_may_not_be_written(tmp_path, monkeypatch):
    """Root may write everywhere, so the system's answer is simulated."""
    files.refuse_unwritable(tmp_path / "a/b")
    files.refuse_unwritable(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for folder in (tmp_path, tmp_path / "a/b"):
        with pytest.raises(RunError, match=f"no file may be made in {tmp_path}"):
            files.refuse_unwritable(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_working_folder_that_is_gone_is_said_to_be(tmp_path, monkeypatch, capfd):
    def fail(*arguments, **options):
        Path.cwd()

    monkeypatch.setattr("anodetect.commands.detectors.listing", fail)
    monkeypatch.setattr(sys, "argv", ["anodetect", "detectors"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as leave:
        cli.main()
    (line,) = capfd.readouterr().err.splitlines()
    assert leave.value.code == 2
    assert line.startswith("anodetect: the working folder is gone, change to another one")


def test_the_cpu_needs_no_torch_to_be_a_device():
    code = "from anodetect.model.devices import check_device as c; c('auto'); c('cpu'); import sys"
    assert run_code(f"{code}; sys.exit('torch' in sys.modules)").returncode == 0


# -- Links -----------------------------------------------------------------------------------------


@pytest.fixture
def linked_folder(synthetic_folder, tmp_path):
    """The set with every image as a link to a store outside the folder, as DVC and git-annex have
    it."""
    folder = tmp_path / "linked"
    for file in synthetic_folder.rglob("*.png"):
        link = folder / file.relative_to(synthetic_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return folder


def test_every_command_that_advises_follow_symlinks_has_it(
    linked_folder, tmp_path, capfd, monkeypatch
):
    run, out = tmp_path / "run", tmp_path / "s"
    links = "--follow-symlinks"
    commands = {
        "train": ["train", linked_folder, "-d", "pca", "--set", "components=5", "--out", run],
        "score": ["score", run, linked_folder, "--heatmaps", "none", "--out", out],
        "evaluate": ["evaluate", run, linked_folder],
        "calibrate": ["calibrate", run, linked_folder / "test/good", "--out", tmp_path / "run2"],
    }
    for name, arguments in commands.items():
        monkeypatch.setattr(sys, "argv", ["anodetect", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        assert leave.value.code == 2, name
        assert links in capfd.readouterr().err, name

        sys.argv += [links, "--json"]
        with pytest.raises(SystemExit) as leave:
            cli.main()
        answer = json.loads(capfd.readouterr().out)
        assert not leave.value.code and not answer.get("failed"), name


def test_benchmark_hands_follow_symlinks_on(tmp_path, monkeypatch):
    calls = []

    def call(*arguments):
        calls.append(arguments)
        raise Interrupted("stopped")

    monkeypatch.setattr(benchmark, "_call", call)
    with pytest.raises(Interrupted):
        benchmark.run(
            ["tiles"],
            ["pca"],
            tmp_path,
            seeds=1,
            budget=1.0,
            follow_symlinks=True,
            reporter=Silent(),
        )
    assert "--follow-symlinks" in calls[0]


# -- Two writers -----------------------------------------------------------------------------------


def test_a_second_process_that_writes_the_same_run_is_refused(tmp_path, synthetic_folder):
    data, out = str(synthetic_folder), tmp_path / "run"
    with pytest.raises(DataError), runs.begin(out, resume=False) as workdir:
        (workdir / "train.jsonl").write_text("first")
        with pytest.raises(RunError, match=r"run.partial: another process is writing this run"):
            anodetect.train(data, "pca", out)
        done = run_command("train", data, "-d", "pca", "--out", out)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and b"another process" in done.stderr
        assert (workdir / "train.jsonl").read_text() == "first"
        raise DataError("the first one fails, and leaves nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="no signal kills a process there")
def test_the_lock_of_a_killed_process_does_not_block(tmp_path, synthetic_folder):
    code = """
import os, signal, sys
from pathlib import Path
from anodetect.record import runs
with runs.begin(Path(sys.argv[1]), resume=False) as workdir:
    (workdir / "left.tmp").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    out = tmp_path / "run"
    assert run_code(code, out).returncode == -signal.SIGKILL
    assert sorted(file.name for file in runs.partial(out).iterdir()) == [".lock", "left.tmp"]
    anodetect.train(str(synthetic_folder), "pca", out, values={"components": 5})
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert sorted(file.name for file in out.iterdir()) == sorted([*runs.FILES, "odd.json"])


@pytest.mark.parametrize("on_windows", [False, True])
def test_a_run_gets_its_name_and_its_lock_goes(monkeypatch, tmp_path, on_windows):
    """Windows renames no folder with an open file in it."""
    monkeypatch.setattr(partial, "ON_WINDOWS", on_windows)
    replace, held = Path.replace, []

    def checked(path, target):
        if path.suffix == ".partial":
            held.append(FileLock(path / runs.LOCK, timeout=0))
            with pytest.raises(Timeout) if not on_windows else nullcontext():
                held[0].acquire()
            held[0].release()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", checked)
    with runs.begin(tmp_path / "run", resume=False) as workdir:
        runs.identify(workdir, {}, resume=False)
        (workdir / "config.json").touch()
    assert held
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_run_that_was_finished_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    """Both processes saw that there was no run; the first finishes before the second has the
    lock."""
    out = tmp_path / "run"
    locked = runs.locked

    def finish_first(*arguments):
        out.mkdir()
        return locked(*arguments)

    monkeypatch.setattr(runs, "locked", finish_first)
    with pytest.raises(RunError, match="already exists"), runs.begin(out, resume=False):
        pytest.fail("the second process went on")


def test_a_full_disk_without_anything_to_go_on_from_leaves_nothing(tmp_path):
    with (
        pytest.raises(DiskFullError, match=r"run.partial: .*then give the same command again"),
        runs.begin(tmp_path / "run", resume=False),
    ):
        raise NO_SPACE
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_how_a_training_goes_on(tmp_path):
    with (
        pytest.raises(DiskFullError, match=r"train.jsonl.*the same command with --resume goes on"),
        runs.begin(tmp_path / "run", resume=False) as workdir,
    ):
        runs.identify(workdir, {"seed": 0}, resume=False)
        (workdir / checkpoint.CHECKPOINT_FILE).touch()
        raise files.write_error(workdir / "train.jsonl", NO_SPACE)
    with runs.begin(tmp_path / "run", resume=True) as workdir:
        runs.identify(workdir, {"seed": 0}, resume=True)
        with pytest.raises(RunError, match="started with other settings"):
            runs.identify(workdir, {"seed": 1}, resume=True)


# -- Versions of Python ----------------------------------------------------------------------------


def test_the_versions_of_python_that_are_named_are_those_that_are_required():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    start = "Programming Language :: Python :: 3."
    named = [int(each.removeprefix(start)) for each in project["classifiers"] if start in each]
    assert project["requires-python"] == f">=3.{min(named)}"
    assert named == list(range(min(named), max(named) + 1))
    tools = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]
    assert tools["mypy"].get("python_version", f"3.{min(named)}") == f"3.{min(named)}"
