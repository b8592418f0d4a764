"""A reader study: who reads which cases of a score directory, in which order, and who decides where
readers differ.

    study.json   beside reviews.sqlite; written once by `anodetect reviews plan`, and not changed

Each verdict that is given under a plan names the plan's hash (`Review.study`), which the chain of
verdicts thereby holds. Cases are named by hashes of their contents, so that the file says nothing
of who they are of, and nothing has to be taken out of it when a patient is forgotten.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import ConfigDict, Field, TypeAdapter

from anodetect.config import canonical
from anodetect.errors import ConfigError, RunError
from anodetect.files import write_atomic
from anodetect.record.objects import object_of
from anodetect.record.rows import OK, ScoreRow
from anodetect.stats.spellings import spelled_alike
from anodetect.words import amount

FILE = "study.json"
LARGEST = 2**26  # bytes of a plan
MOST_ROWS = 100_000  # of a record, all of which the app then holds in memory
Role = Literal["reader", "adjudicator", "viewer"]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Key = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


@dataclass(frozen=True)
class Plan:
    """A study's plan.

    `head` is that of the record the study is on. Each case of `cases` is read by the `readers` at
    its places, `each` of them. Where their verdicts differ, one of the `adjudicators` reads it,
    too. `viewers` see everything and record nothing. With `login` a name counts only if it comes
    from a login. `seed` decides who reads what, and in which order.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: Literal[1]
    name: Annotated[str, Field(max_length=200)]
    head: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    seed: Annotated[int, Field(ge=0)]
    each: Annotated[int, Field(ge=1)]
    login: bool
    readers: tuple[Name, ...]
    adjudicators: tuple[Name, ...]
    viewers: tuple[Name, ...]
    cases: Mapping[Key, tuple[int, ...]]

    @cached_property
    def hash(self) -> str:
        """The hash that verdicts name."""
        return sha256(canonical(asdict(self))).hexdigest()

    def role_of(self, name: str) -> Role | None:
        """Return the role of somebody; None for whoever has none."""
        roles: list[tuple[Role, tuple[str, ...]]] = [
            ("reader", self.readers),
            ("adjudicator", self.adjudicators),
            ("viewer", self.viewers),
        ]
        return next((role for role, names in roles if name in names), None)

    def key_of(self, row: ScoreRow) -> str:
        """Return the name that a row has in `cases`."""
        return _key(self.head, row)

    def readers_of(self, row: ScoreRow) -> tuple[str, ...]:
        """Return who is to read a row; nobody if it is no case of the study."""
        return tuple(self.readers[place] for place in self.cases.get(self.key_of(row), ()))

    def adjudicator_of(self, row: ScoreRow) -> str:
        """Return who decides on a row where its readers differ; "" for nobody."""
        if not self.adjudicators:
            return ""
        return min(self.adjudicators, key=lambda name: _draw(self.seed, name, self.key_of(row)))

    def cases_in(self, rows: Iterable[ScoreRow]) -> list[ScoreRow]:
        """Return the rows that are cases of the study."""
        return [row for row in rows if row.status == OK and self.key_of(row) in self.cases]

    def in_order(self, rows: Iterable[ScoreRow], reader: str) -> list[ScoreRow]:
        """Return rows in the order that this reader has them in: a random one of the reader's own,
        which has nothing to do with names and scores."""

        def place(row: ScoreRow) -> tuple[bytes, str]:
            return _draw(self.seed, reader, self.key_of(row)), row.path

        return sorted(rows, key=place)


_PLAN = TypeAdapter(Plan)


def _key(head: str, row: ScoreRow) -> str:
    return _hash(head, row.sha256 or "")


@lru_cache(2**17)
def _hash(head: str, content: str) -> str:
    return sha256(f"{head}\n{content}".encode()).hexdigest()[:16]


def _draw(seed: int, *parts: str) -> bytes:
    """Return a random text of these parts, the same each time."""
    return sha256("\n".join([str(seed), *parts]).encode()).digest()


# -- Making ----------------------------------------------------------------------------------------


def make(
    rows: Sequence[ScoreRow],
    head: str,
    *,
    name: str,
    readers: Sequence[str],
    adjudicators: Sequence[str] = (),
    viewers: Sequence[str] = (),
    each: int = 2,
    sample: int | None = None,
    seed: int = 0,
    login: bool = False,
) -> Plan:
    """Return a plan in which each scored row, or each of a random `sample` of them, has `each`
    readers. The images of a patient or lot have the same ones, and readers have as many images as
    one another, as far as that allows.

    Raises ConfigError where there are too few readers or cases, or where names do not do.
    """
    scored = [row for row in rows if row.status == OK and row.sha256]
    if sample is not None:
        if not 0 < sample <= len(scored):
            are = "is" if len(scored) == 1 else "are"
            images = amount(len(scored), "scored image")
            raise ConfigError(f"a sample of {sample}: there {are} {images}")
        scored.sort(key=lambda row: (_draw(seed, "sample", _key(head, row)), row.path))
        scored = scored[:sample]
    if len(rows) > MOST_ROWS:
        raise ConfigError(f"a study is on a record of at most {MOST_ROWS} rows, not {len(rows)}")
    if not scored:
        raise ConfigError("a study needs scored images; there are none")

    plan = Plan(
        format=1,
        name=name,
        head=head,
        seed=seed,
        each=each,
        login=login,
        readers=tuple(readers),
        adjudicators=tuple(adjudicators),
        viewers=tuple(viewers),
        cases=_assigned(scored, head, readers, each, seed),
    )
    if problem := _problem(plan):
        raise ConfigError(problem)
    return plan


def _assigned(
    rows: Sequence[ScoreRow], head: str, readers: Sequence[str], each: int, seed: int
) -> dict[str, tuple[int, ...]]:
    """Return for each row's key the places of its readers: those who have fewest images so far, and
    by lot among those with as many."""
    groups, images = dict[str, set[str]](), Counter[str]()
    for row in rows:
        groups.setdefault(row.group, set()).add(_key(head, row))
        images[_key(head, row)] += 1
    in_order = sorted(groups.items(), key=lambda item: _draw(seed, "group", min(item[1])))

    cases, load = dict[str, tuple[int, ...]](), Counter[int]()
    for _, keys in in_order:
        drawn = {n: _draw(seed, "reader", str(n), min(keys)) for n in range(len(readers))}
        chosen = sorted(drawn, key=lambda n: (load[n], drawn[n]))[:each]
        new = {key for key in keys if key not in cases}  # the same bytes may be in two groups
        load.update(dict.fromkeys(chosen, sum(images[key] for key in new)))
        cases |= dict.fromkeys(new, tuple(sorted(chosen)))
    return dict(sorted(cases.items()))


def _problem(plan: Plan) -> str:
    """Return what is wrong with a plan, "" for nothing."""
    names = [*plan.readers, *plan.adjudicators, *plan.viewers]
    if any(name != name.strip() or not name or len(name) > 100 for name in names):
        return "everybody in a study has a name, of at most 100 letters, without spaces around it"
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        return f"{twice[0]} is named twice: everybody has one role in a study"
    if alike := spelled_alike(names):
        return f"{', '.join(alike[0])}: these names look like spellings of one"
    if not 1 <= plan.each <= len(plan.readers):
        return f"{plan.each} readers for each case: the study has {len(plan.readers)}"

    for places in plan.cases.values():
        known = all(0 <= place < len(plan.readers) for place in places)
        if not known or len(set(places)) != plan.each or len(places) != plan.each:
            return f"a case has not {plan.each} different readers of the study"
    return ""


# -- Files -----------------------------------------------------------------------------------------


def read(folder: Path, head: str) -> Plan | None:
    """Return the plan of a score directory whose verdicts start from `head`; None without one.

    Raises RunError where it is damaged, or the plan of another record.
    """
    file = folder / FILE
    if not file.is_file() and not file.is_symlink():
        return None
    plan = object_of(file, _PLAN, LARGEST)
    problem = _problem(plan)
    if plan.head != head:
        problem = "it is the plan of another record"
    if problem:
        raise RunError(f"{file}: {problem}; put back the plan that was written, or remove it")
    return plan


def write(folder: Path, plan: Plan) -> None:
    """Write a plan beside the verdicts."""
    write_atomic(folder / FILE, _PLAN.dump_json(plan, indent=1).decode() + "\n")


# -- Verdicts --------------------------------------------------------------------------------------


def is_disputed(plan: Plan, row: ScoreRow, verdicts: Mapping[str, str]) -> bool:
    """Return whether all readers of a row have judged it, and not all alike; `verdicts` are those
    in force by who gave them."""
    given = [verdicts.get(name) for name in plan.readers_of(row)]
    return None not in given and len(set(given)) > 1


def outcome(plan: Plan, row: ScoreRow, verdicts: Mapping[str, str]) -> str:
    """Return the verdict that a study comes to: that of all readers, or else of the adjudicator;
    "" as long as there is none."""
    given = [verdicts.get(name, "") for name in plan.readers_of(row)]
    if not given or "" in given:
        return ""
    if len(set(given)) == 1:
        return given[0]
    return verdicts.get(plan.adjudicator_of(row), "")


def is_complete(plan: Plan, row: ScoreRow, verdicts: Mapping[str, str]) -> bool:
    """Return whether nothing is left to do on a row."""
    if outcome(plan, row, verdicts):
        return True
    return not plan.adjudicators and is_disputed(plan, row, verdicts)


def refusal(
    plan: Plan, row: ScoreRow, verdicts: Mapping[str, str], name: str, *, complete: bool
) -> str:
    """Return why somebody may not judge a row now, or take back what they said of it; "" if they
    may. `complete` says that nothing is left to do in the whole study."""
    role = plan.role_of(name)
    if role is None:
        return f"{name} has no part in this study"
    if role == "viewer":
        return f"{name} may look at this study, and not judge"
    if complete:
        return "this study is complete; its verdicts are final"

    decider = plan.adjudicator_of(row)
    if role == "adjudicator":
        is_own = name == decider and is_disputed(plan, row, verdicts)
    else:
        is_own = name in plan.readers_of(row) and decider not in verdicts
    return "" if is_own else f"this case is not {name}'s to judge, or no longer"


class Given(Protocol):
    """A verdict, as far as a study is concerned."""

    @property
    def number(self) -> int: ...

    @property
    def path(self) -> str: ...

    @property
    def reviewer(self) -> str: ...

    @property
    def blind(self) -> bool: ...

    @property
    def study(self) -> str | None: ...


def fault(plan: Plan | None, given: Iterable[Given], rows: Mapping[str, ScoreRow]) -> str:
    """Return what is wrong with the first verdict that the plan does not allow, "" for nothing;
    `rows` are those of the record by their paths."""
    for each in given:
        name = f"review {each.number} ({each.reviewer} on {each.path})"
        if plan is None and each.study is None:
            continue
        if plan is None:
            return f"{name} was given under a study's plan, and {FILE} is missing"
        if each.study != plan.hash:
            return f"{name} was not given under the plan that {FILE} has"

        row = rows.get(each.path)
        readers = () if row is None else plan.readers_of(row)
        decider = plan.adjudicator_of(row) if row is not None and readers else ""
        if row is not None and each.reviewer not in (*readers, decider):
            return f"{name}: by {FILE} this case was somebody else's"
        if not each.blind:
            return f"{name} was not blind"
    return ""
