"""Print how readable the code is in numbers, and exit with 1 where one is above its limit.

    python tools/style.py [FOLDER ...]        anodetect, apps and examples by default

Code lines are lines that are neither blank nor comment nor docstring.
"""

import ast
import io
import sys
import tokenize
from dataclasses import dataclass, fields
from pathlib import Path

FOLDERS = ("anodetect", "apps", "examples")
LONG = 15  # lines from which a function should have paragraphs
LONGEST = 60  # lines a function may have
RIDDLES = ("Of ", "What ", "Whether ", "How ")  # beginnings of docstrings without a verb
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Counts:
    """What was counted in one or more files."""

    code_lines: int = 0
    functions: int = 0
    long_functions: int = 0
    without_paragraphs: int = 0
    too_long: int = 0
    comprehensions: int = 0
    riddles: int = 0

    def add(self, other: "Counts") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def docstring_lines(tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) or not node.body:
            continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            lines |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def code_lines(text: str, tree: ast.Module) -> int:
    """Return how many lines hold code."""
    lines: set[int] = set()
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(tree))


def body_length(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> tuple[int, bool]:
    """Return how many lines a function has without its docstring, and whether one is blank."""
    start, end = node.lineno, node.end_lineno or node.lineno
    own = set(range(start, end + 1))
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        # The blank line that may follow a docstring is no paragraph of the code.
        own -= set(range(first.lineno, (first.end_lineno or first.lineno) + 2))
    blank = any(not lines[number - 1].strip() for number in own)
    return len(own), blank


def count(path: Path) -> tuple[Counts, list[str]]:
    """Return one file's counts, and its functions that are too long."""
    text = path.read_text("utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    counts, names = Counts(code_lines=code_lines(text, tree)), []

    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS):
            counts.comprehensions += 1
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)):
            counts.riddles += (ast.get_docstring(node) or "").startswith(RIDDLES)
        if not isinstance(node, FUNCTIONS):
            continue

        length, blank = body_length(node, lines)
        counts.functions += 1
        if length >= LONG:
            counts.long_functions += 1
            counts.without_paragraphs += not blank
        if length > LONGEST:
            counts.too_long += 1
            names.append(f"{path}:{node.lineno} {node.name} has {length} lines")
    return counts, names


def main(folders: list[str]) -> int:
    """Print the figures of all files, and of each folder with -v; return the exit code."""
    verbose = "-v" in folders
    total, too_long = Counts(), []
    for folder in [name for name in folders if name != "-v"] or FOLDERS:
        for path in sorted(Path(folder).rglob("*.py")):
            counts, names = count(path)
            total.add(counts)
            too_long += names
            if verbose and (counts.without_paragraphs or counts.riddles or counts.comprehensions):
                print(
                    f"{path}: {counts.code_lines} code lines, {counts.without_paragraphs} of "
                    f"{counts.long_functions} long functions without paragraphs, "
                    f"{counts.comprehensions} comprehensions, {counts.riddles} riddles"
                )

    unbroken = total.without_paragraphs / max(total.long_functions, 1)
    dense = 1000 * total.comprehensions / max(total.code_lines, 1)
    print(f"code lines: {total.code_lines} in {total.functions} functions")
    figures = (
        (f"functions of {LONG} lines or more without a blank line, %", 100 * unbroken, 15),
        ("comprehensions per 1000 code lines", dense, 35),
        (f"functions over {LONGEST} lines", float(total.too_long), 0),
        ("docstrings that start with Of, What, Whether or How", float(total.riddles), 10),
    )
    for name, value, limit in figures:
        print(f"{name}: {value:.1f} (at most {limit})")
    for name in too_long:
        print(name)
    return int(any(value > limit for _, value, limit in figures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
