"""The trees over the rows of a record, and the check of one row by them: as docs/formats.md says,
against a tree made by the definition, and against whoever changes anything."""

import json
import shutil
from collections import Counter
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from interruptions import interrupted_after
from typer.testing import CliRunner

import anodetect
from anodetect import cli
from anodetect.commands.forget import forget
from anodetect.engines import worker
from anodetect.errors import ConfigError, Interrupted, RunError
from anodetect.record import directories, signatures, tables
from anodetect.record.chain import head_of
from anodetect.record.merkle import CHAIN, OUTPUTS, Growing, tree_of
from anodetect.record.rows import ChainRow, ScoreRow, schema_of, to_table

FAR = 0.2
GROUP = 4  # rows of a row group here


@pytest.fixture(scope="module", autouse=True)
def small_groups():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PART", GROUP)
        yield


@pytest.fixture(scope="module")
def scored(pca_run, synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("merkle") / "scores"
    anodetect.score(pca_run, [str(synthetic_folder)], out, far=FAR, heatmaps=("tiff", "mask"))
    return out


@pytest.fixture
def copy(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "copy")


# -- The tree --------------------------------------------------------------------------------------


def reference(leaves):
    """MTH of RFC 6962, section 2.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    left, right = reference(leaves[:split]), reference(leaves[split:])
    return sha256(b"\1" + left + right).digest()


def chain_of(count):
    rows = [
        ChainRow(path=f"{number}", row=sha256(b"%d" % number).hexdigest(), chain="")
        for number in range(count)
    ]
    return to_table(rows, ChainRow)


@pytest.mark.parametrize("count", range(0, 42))
def test_the_tree_is_that_of_the_rfc_however_many_row_groups_there_are(count, tmp_path):
    table = chain_of(count)
    growing = Growing(CHAIN, table)
    (file,) = tables.write_table(tmp_path / "chain", growing)
    leaves = [row.encode() for row in table["row"].to_pylist()]
    assert growing.tree == tree_of(CHAIN, table)
    assert growing.tree.root == reference(leaves).hex()

    groups = [leaves[start : start + GROUP] for start in range(0, count, GROUP)] or [[]]
    assert growing.tree.groups == tuple(reference(group).hex() for group in groups)
    written = pq.ParquetFile(file)
    rows = [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)]
    assert rows == [len(group) for group in groups]


def test_a_known_tree():
    """The eight leaves of the tests of Certificate Transparency's reference implementation."""
    texts = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")
    leaves = [bytes.fromhex(text) for text in (*texts, "606162636465666768696a6b6c6d6e6f")]
    root = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert reference(leaves).hex() == root


def test_any_other_row_order_or_number_of_rows_is_another_tree():
    table = chain_of(11)
    tree, rows = tree_of(CHAIN, table), table.to_pylist()
    others = [rows[:-1], [*rows, rows[-1]], rows[4:8] + rows[:4] + rows[8:]]
    for number, row in enumerate(rows):
        others.append([*rows[:number], row | {"row": "0" * 64}, *rows[number + 1 :]])
        others.append([*rows[:number], *rows[number + 1 :]])
    for other in others:
        assert tree_of(CHAIN, pa.Table.from_pylist(other, table.schema)).root != tree.root


def test_a_record_has_the_trees_of_its_tables(scored):
    audit = directories.read(scored).audit
    links = pq.read_table(scored / CHAIN)["row"].to_pylist()
    outputs = pq.read_table(scored / OUTPUTS).to_pylist()
    spelled = [
        json.dumps(row, sort_keys=True, separators=(",", ":")).encode("ascii") for row in outputs
    ]
    assert audit.trees[CHAIN].root == reference([link.encode() for link in links]).hex()
    assert audit.trees[OUTPUTS].root == reference(spelled).hex()
    assert len(audit.trees[CHAIN].groups) == len(links) // GROUP > 2


# -- One row ---------------------------------------------------------------------------------------


def row_of(folder, place):
    return directories.read(folder).rows[place]


def test_each_row_alone_is_authenticated_by_the_head_that_was_kept(scored):
    directory = directories.read(scored)
    for row in directory.rows:
        verdict = anodetect.verify(scored, row=row.path, head=directory.audit.head)
        assert (verdict.problems, verdict.row) == ((), row.path)
        assert verdict.authenticated
        assert row.heatmap in verdict.notes[0]
        assert row.heatmap.replace("_heatmap.tiff", "_mask.png") in verdict.notes[0]
    assert verdict.verdicts.state == verdict.report.state == "not covered"
    assert "other rows and their files" in verdict.not_looked_at[0]
    assert anodetect.verify(scored, row=row.path).record.state == "consistent"
    problems = anodetect.verify(scored, row=row.path, head="0" * 64).problems
    assert "not the one that was kept" in problems[0]


def test_only_the_row_groups_of_the_row_are_read(scored, monkeypatch):
    read, real = [], pq.ParquetFile.read_row_group

    def counted(self, number, *rest, **options):
        read.append(number)
        return real(self, number, *rest, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    monkeypatch.setattr(directories, "read_table", None)
    assert anodetect.verify(scored, row=row_of_chain(scored, 5)).intact
    assert read[:2] == [1, 1]  # of scores.parquet and chain.parquet
    in_outputs = pq.ParquetFile(scored / OUTPUTS).num_row_groups
    assert len(read) - 2 < in_outputs / 2  # those of its maps, and of pictures for the report


def row_of_chain(folder, place):
    return pq.read_table(folder / CHAIN)["path"][place].as_py()


def test_a_signed_head_authenticates_a_row(copy, tmp_path):
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "key.pub").write_bytes(public)
    name = row_of(copy, 0).path
    assert "no signature" in anodetect.verify(copy, row=name, key=tmp_path / "key.pub").problems[0]
    signatures.sign(copy, directories.read(copy).audit.head, key)
    assert anodetect.verify(copy, row=name, key=tmp_path / "key.pub").authenticated


def test_a_row_that_is_not_there_is_an_error_and_so_is_a_record_without_trees(copy):
    for name in ("else.png", "", "caf\udce9.png"):
        with pytest.raises(ConfigError, match="no row '"):
            anodetect.verify(copy, row=name)
    with pytest.raises(ConfigError, match="leave out --rescore"):
        anodetect.verify(copy, row="else.png", rescore=1)
    audit = json.loads((copy / "audit.json").read_text())
    del audit["trees"]
    audit["head"] = head_of(audit)
    (copy / "audit.json").write_text(json.dumps(audit))
    assert anodetect.verify(copy).record.state == "consistent"
    with pytest.raises(RunError, match="an older release wrote it"):
        anodetect.verify(copy, row=row_of(copy, 0).path)


def test_one_row_and_no_row(scored, tmp_path):
    directory = directories.read(scored)
    first = directories.Tables(directory.table.slice(0, 1))
    directories.write(tmp_path / "one", directory.audit, first)
    name = directory.rows[0].path
    (problem,) = anodetect.verify(tmp_path / "one", row=name).problems
    assert problem == f"{directory.rows[0].heatmap} is missing from {OUTPUTS}"
    directories.write(tmp_path / "none", directory.audit, directories.Tables(directory.table[:0]))
    assert directories.read(tmp_path / "none").audit.trees[CHAIN].root == sha256().hexdigest()
    with pytest.raises(ConfigError, match="no row"):
        anodetect.verify(tmp_path / "none", row=name)


# -- Attacks ---------------------------------------------------------------------------------------


def edit(file, change):
    """Write a Parquet table, whose rows `change` has changed, in row groups as before."""
    table = pq.read_table(file)
    rows = change(table.to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file, row_group_size=GROUP)


@pytest.mark.parametrize("column", [field.name for field in schema_of(ScoreRow)])
def test_a_row_with_any_other_value_is_named(copy, column):
    name = row_of(copy, 6).path

    def other(rows):
        value = rows[6][column]
        changed = {str: "x", bool: value is False, float: 0.5, int: 7, type(None): None}
        if value is None:
            kind = pq.read_schema(copy / "scores.parquet").field(column).type
            changed[type(None)] = {"string": "x"}.get(str(kind), 1)
        rows[6][column] = changed[type(value)]
        return rows

    edit(copy / "scores.parquet", other)
    if column == "path":
        problem = f"{name} is missing from scores.parquet"
        assert anodetect.verify(copy, row="x").problems[0] == "x was added to scores.parquet"
    else:
        problem = f"{name} was changed"
    assert problem in anodetect.verify(copy, row=name).problems
    assert anodetect.verify(copy, row=row_of_chain(copy, 7)).intact


@pytest.mark.parametrize("other", range(8))
def test_a_changed_link_breaks_the_rows_of_its_row_group_and_no_other(copy, other):
    def change(links):
        links[other]["row"] = "0" * 64
        return links

    edit(copy / CHAIN, change)
    for place in range(12):
        problems = anodetect.verify(copy, row=row_of_chain(copy, place)).problems
        assert bool(problems) == (place // GROUP == other // GROUP)
        assert (f"{row_of_chain(copy, place)} was changed" in problems) == (place == other)


def test_swapped_and_shifted_row_groups_are_found(copy):
    names = [row_of_chain(copy, place) for place in range(16)]
    edit(copy / CHAIN, lambda links: links[4:8] + links[:4] + links[8:])
    for place, name in enumerate(names):
        assert anodetect.verify(copy, row=name).intact == (place >= 8)
    edit(copy / CHAIN, lambda links: links[1:])
    for name in names[5:8]:
        assert not anodetect.verify(copy, row=name).intact


def test_a_row_that_is_there_twice_or_not_at_all_is_named(copy, scored):
    name = row_of(copy, 1).path
    edit(copy / "scores.parquet", lambda rows: [rows[0], rows[1], *rows[1:]])
    assert f"{name} is in scores.parquet twice" in anodetect.verify(copy, row=name).problems
    edit(copy / "scores.parquet", lambda rows: [rows[0], *rows[3:]])
    assert anodetect.verify(copy, row=name).problems == (f"{name} is missing from scores.parquet",)
    shutil.copy(scored / "scores.parquet", copy)
    edit(copy / CHAIN, lambda links: [links[0], *links[2:]])
    assert anodetect.verify(copy, row=name).problems == (f"{name} was added to scores.parquet",)


def test_changed_files_of_the_row_are_named_and_those_of_others_not_read(copy):
    row, other = row_of(copy, 2), row_of(copy, 3)
    mask = row.heatmap.replace("_heatmap.tiff", "_mask.png")
    (copy / other.heatmap).unlink()
    assert anodetect.verify(copy, row=row.path).intact
    (copy / mask).write_bytes(b"else")
    assert anodetect.verify(copy, row=row.path).problems == (f"{mask} was changed",)

    digest = sha256(b"else").hexdigest()
    edit(
        copy / OUTPUTS,
        lambda rows: [each | {"sha256": digest} if each["name"] == mask else each for each in rows],
    )
    (problem,) = anodetect.verify(copy, row=row.path).problems
    assert f"of {OUTPUTS} is not that of the tree" in problem
    edit(copy / OUTPUTS, lambda rows: [each for each in rows if each["path"] != row.path])
    assert f"{row.heatmap} is missing from {OUTPUTS}" in (
        anodetect.verify(copy, row=row.path).problems
    )


def with_tree(folder, **values):
    """A record with another tree of the chain, all other hashes of which fit."""
    audit = json.loads((folder / "audit.json").read_text())
    audit["trees"][CHAIN] |= values
    audit["head"] = head_of(audit)
    (folder / "audit.json").write_text(json.dumps(audit))


def test_a_tree_that_is_not_that_of_the_rows_is_found_by_the_check_of_all(copy):
    groups = directories.read(copy).audit.trees[CHAIN].groups
    name = row_of(copy, 0).path
    for values in (
        {"root": "0" * 64},
        {"groups": [*groups[:-1], "0" * 64]},
        {"groups": groups[:-1]},
        {"groups": [groups[1], groups[0], *groups[2:]]},
        {"groups": ["x", *groups[1:]]},
    ):
        with_tree(copy, **({"groups": groups} | values))
        said = f"the tree of {CHAIN} in audit.json is not that of its rows"
        assert said in anodetect.verify(copy).problems
        assert not anodetect.verify(copy, row=name).intact
        with_tree(copy, groups=groups, root=tree_of(CHAIN, pq.read_table(copy / CHAIN)).root)
    assert anodetect.verify(copy, row=name).intact


@pytest.mark.parametrize("name", ["scores.parquet", CHAIN, OUTPUTS])
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_table_is_told_and_no_traceback(copy, name, seed):
    rng, path = np.random.default_rng(seed), row_of_chain(copy, 5)
    content = bytearray((copy / name).read_bytes())
    for place in rng.integers(len(content), size=20):
        content[place] = rng.integers(256)
    (copy / name).write_bytes(content if seed else b"PAR1")
    try:
        anodetect.verify(copy, row=path)
    except ConfigError as error:
        assert "no row" in str(error)
    if not seed:
        assert "not a readable score directory" in anodetect.verify(copy, row=path).problems[0]


# -- Several rows ----------------------------------------------------------------------------------


def test_rows_from_one_number_to_another_are_authenticated_by_the_head(scored):
    head, rows = directories.read(scored).audit.head, directories.read(scored).rows
    outputs = pq.read_table(scored / OUTPUTS)["path"].to_pylist()
    for first, last in [(1, 1), (1, 4), (3, 6), (5, 12), (2, 40), (40, 40)]:
        verdict = anodetect.verify(scored, rows=f"{first}:{last}", head=head)
        assert (verdict.problems, verdict.numbers, verdict.row) == ((), f"{first}:{last}", "")
        assert verdict.authenticated
        ends = f"from {rows[first - 1].path} to {rows[last - 1].path}"
        assert f"checked: {last - first + 1} rows, {ends}" in verdict.notes[0]
        paths = {row.path for row in rows[first - 1 : last]}
        count = sum(path in paths for path in outputs)
        assert f"and {count} files" in verdict.notes[0]
    assert "other rows and their files" in verdict.not_looked_at[0]
    problems = anodetect.verify(scored, rows="1:4", head="0" * 64).problems
    assert "not the one that was kept" in problems[0]


def test_only_the_row_groups_of_the_rows_are_read(scored, monkeypatch):
    read, real = Counter(), pq.ParquetFile.read_row_group

    def counted(self, number, *rest, **options):
        read[number, tuple(self.schema_arrow.names)] += 1
        return real(self, number, *rest, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    monkeypatch.setattr(directories, "read_table", None)
    assert anodetect.verify(scored, rows="9:12").intact
    names = tuple(field.name for field in schema_of(ChainRow))
    assert [number for number, columns in read if columns == names] == [2]
    assert len(read) < pq.ParquetFile(scored / OUTPUTS).num_row_groups


@pytest.mark.parametrize("place", [8, 9, 11])
@pytest.mark.parametrize("how", ["changed", "missing from", "added to", "in scores.parquet twice"])
def test_a_row_among_them_that_is_not_as_it_was_is_named(copy, place, how):
    name = row_of(copy, place).path

    def change(rows):
        if how == "changed":
            rows[place]["score"] = 0.5
        elif how == "missing from":
            del rows[place]
        elif how == "added to":
            rows.insert(place + 1, rows[place] | {"path": f"{name}~"})
        else:
            rows.insert(place, rows[place])
        return rows

    edit(copy / "scores.parquet", change)
    for numbers in ("9:12", "1:40"):
        problems = anodetect.verify(copy, rows=numbers).problems
        if how == "added to" and place == 11 and numbers == "9:12":
            assert problems == ()  # it is behind the last of them
        else:
            assert len(problems) == 1 and how in problems[0] and problems[0].startswith(name)
    for numbers in ("1:8", "14:40"):
        assert anodetect.verify(copy, rows=numbers).intact


def test_files_and_links_of_rows_that_are_not_as_they_were_are_named(copy, scored):
    row = row_of(copy, 9)
    (copy / row.heatmap).write_bytes(b"else")
    assert anodetect.verify(copy, rows="9:12").problems == (f"{row.heatmap} was changed",)
    assert anodetect.verify(copy, rows="5:9").intact
    shutil.copy(scored / row.heatmap, copy / row.heatmap)
    edit(copy / CHAIN, lambda links: links[4:8] + links[:4] + links[8:])
    assert not anodetect.verify(copy, rows="4:5").intact
    assert anodetect.verify(copy, rows="9:40").intact
    edit(copy / CHAIN, lambda links: links[:38])
    assert not anodetect.verify(copy, rows="38:40").intact


@pytest.mark.parametrize("numbers", ["", "x", "1", "0:3", "3:2", "1:41", "-1:2", "1:2:3", "1:²"])
def test_numbers_of_no_rows_are_refused(copy, numbers):
    with pytest.raises(ConfigError, match=r"A:B with numbers from 1 to 40 is expected"):
        anodetect.verify(copy, rows=numbers)
    with pytest.raises(ConfigError, match="name one of the two"):
        anodetect.verify(copy, rows="1:2", row="x")


def test_rows_are_checked_over_the_gaps_of_what_was_erased(copy):
    rows = directories.read(copy).rows
    gone = rows[8:13]  # a whole row group, and a row of the next
    for row in gone:
        forget(copy, row.group)
    head = directories.read(copy).audit.head
    verdict = anodetect.verify(copy, rows="7:16", head=head)
    assert verdict.authenticated
    assert "checked: 5 rows" in verdict.notes[0] and "5 rows with these" in verdict.notes[0]
    assert anodetect.verify(copy, rows="9:12").notes[0].startswith("checked: 4 rows with these")


# -- Other ways to a record ------------------------------------------------------------------------


def test_merged_records_have_the_trees_of_the_whole(pca_run, synthetic_folder, scored, tmp_path):
    for number in (1, 2, 3):
        anodetect.score(
            pca_run,
            [str(synthetic_folder)],
            tmp_path / f"part{number}",
            far=FAR,
            heatmaps=("tiff", "mask"),
            shard=f"{number}/3",
        )
    parts = [tmp_path / f"part{number}" for number in (1, 2, 3)]
    anodetect.merge(parts, tmp_path / "merged")
    trees = directories.read(tmp_path / "merged").audit.trees
    assert trees[CHAIN] == directories.read(scored).audit.trees[CHAIN]
    assert anodetect.verify(tmp_path / "merged", row=row_of(scored, 9).path).intact


def test_an_interrupted_scoring_that_is_resumed_has_the_same_trees(
    pca_run, synthetic_folder, scored, tmp_path, monkeypatch
):
    options = {"far": FAR, "heatmaps": ("tiff", "mask")}
    real = interrupted_after(monkeypatch, 17)
    with pytest.raises(Interrupted):
        anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "s", **options)
    monkeypatch.setattr(worker, "score_records", real)
    anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "s", resume=True, **options)
    trees = directories.read(tmp_path / "s").audit.trees
    assert trees[CHAIN] == directories.read(scored).audit.trees[CHAIN]
    assert anodetect.verify(tmp_path / "s", row=row_of(scored, 20).path).intact


def test_the_command_names_the_row_and_ends_with_1_where_it_was_changed(copy):
    row = row_of(copy, 2)
    result = CliRunner().invoke(cli.app, ["verify", str(copy), "--row", row.path])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{copy}, row {row.path}: intact\n")
    (copy / row.heatmap).unlink()
    result = CliRunner().invoke(cli.app, ["verify", str(copy), "--row", row.path, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"] == [f"{row.heatmap} is missing"]
    result = CliRunner().invoke(cli.app, ["verify", str(copy), "--rows", "5:8"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{copy}, rows 5:8: intact\n")


def test_what_is_left_after_forgetting_is_checked_row_by_row(copy):
    before, rows = directories.read(copy).audit, directories.read(copy).rows
    gone = [rows[0], *rows[8:13]]  # the last five of them fill a row group
    for row in gone:
        forget(copy, row.group)
    audit = directories.read(copy).audit
    assert audit.trees[CHAIN] == before.trees[CHAIN]
    assert audit.trees[OUTPUTS] != before.trees[OUTPUTS]
    for row in rows:
        if row in gone:
            with pytest.raises(ConfigError, match="no row"):
                anodetect.verify(copy, row=row.path)
        else:
            assert anodetect.verify(copy, row=row.path, head=audit.head).authenticated
    assert anodetect.verify(copy).record.problems == ()
