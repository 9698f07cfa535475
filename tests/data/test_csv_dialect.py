"""Every way to write one and the same table is read as that table; what may be two is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bptt.data.tables.columns import Columns
from bptt.data.tables.csv_dialect import Dialect
from bptt.data.tables.table import Table
from bptt.data.tables.table_reader import read_table
from bptt.errors import BpttError

VALUES = [[1234.5, 3.0], [2.25, 4.0], [17.125, 5.0], [8.0, 1.0], [1.5, 9.0]]


def read(folder: Path, content: str | bytes, name: str = "t.csv", **columns: object) -> Table:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    options = {"validation_share": 0.4} | columns
    return read_table(path, Columns(**options))  # type: ignore[arg-type]


PLAIN = "a,b\n1234.5,3\n2.25,4\n17.125,5\n8.0,1\n1.5,9\n"
EUROPEAN = "a;b\n1.234,5;3\n2,25;4\n17,125;5\n8,0;1\n1,5;9\n"
# How it is written, and what is said of it.
WRITTEN: list[tuple[str | bytes, str]] = [
    (PLAIN, ""),
    (EUROPEAN, "separator ';', decimal comma, thousands marked by '.'"),
    ("sep=;\n" + EUROPEAN, "separator ';', decimal comma, thousands marked by '.'"),
    (PLAIN.replace(",", "\t"), "separator a tab"),
    (PLAIN.replace(",", "|"), "separator '|'"),
    (PLAIN.replace("1234.5", '"1,234.5"'), "thousands marked by ','"),
    (PLAIN.replace("1234.5", "1 234.5"), "thousands marked by a space"),
    (PLAIN.replace("1234.5", "1'234.5"), 'thousands marked by "\'"'),
    (PLAIN.replace("1234.5", "1\u202f234.5"), "thousands marked by a space"),
    ("# from a sensor\n# in May\n" + PLAIN, "comments after '#'"),
    ("% from a sensor\n" + PLAIN + "% its end\n", "comments after '%'"),
    (PLAIN.replace("8.0", "# a break\n8.0"), "comments after '#'"),
    ("# a,b\n" + PLAIN.split("\n", 1)[1], "comments after '#', names from the last comment"),
    (PLAIN.encode("utf-16"), "encoding utf-16"),
    (PLAIN.encode("utf-16-le"), "encoding utf-16-le"),
    (PLAIN.encode("utf-16-be"), "encoding utf-16-be"),
    (PLAIN.encode("utf-32"), "encoding utf-32"),
    (PLAIN.encode("utf-8-sig"), ""),
    (PLAIN.replace("\n", "\r"), ""),
    (PLAIN.replace("\n", "\r\n"), ""),
    (PLAIN.replace("\n", "\r").encode("utf-16"), "encoding utf-16"),
    (PLAIN.replace("1234.5", "$1234.5").replace("2.25", "$2.25"), ""),
]


@pytest.mark.parametrize(("content", "words"), WRITTEN)
def test_one_table_written_in_many_ways(tmp_path: Path, content: str | bytes, words: str) -> None:
    table = read(tmp_path, content)
    assert table.levels.tolist() == VALUES
    assert table.columns.target == ("a", "b")
    assert [line for line in table.about if "written" in line] == (
        [f"written with {words}"] if words else []
    )
    again = read_table(table.path, Columns(**table.config()["columns"]))  # as a run reads it
    assert again.levels.tolist() == VALUES
    assert again.columns == table.columns


@pytest.mark.parametrize("sign", ["$", "€", "£"])
def test_signs_of_currencies_and_percent(tmp_path: Path, sign: str) -> None:
    rows = [f"{sign}{a},{b}%" if k % 2 else f"{a} {sign},{b} %" for k, (a, b) in enumerate(VALUES)]
    table = read(tmp_path, "a,b\n" + "\n".join(rows) + "\n")
    assert table.levels.tolist() == VALUES
    assert (
        f"read without the sign that numbers have: {'%, ' + sign if sign != '$' else '$, %'}"
        in (table.about)
    )
    with pytest.raises(BpttError, match=r"column 'a' .* has text in row 3"):
        read(tmp_path, f"a\n{sign}1\n{sign}2\n₹3\n{sign}5\n")
    with pytest.raises(BpttError, match=r"column 'a' .* has text in row 3"):
        read(tmp_path, "a\n1%\n2%\n0.3\n4%\n")


@pytest.mark.parametrize(
    "word", ["NULL", "#N/A", "?", "NA", "n/a", "<NA>", "nan", "None", "-", "."]
)
def test_words_for_missing_values(tmp_path: Path, word: str) -> None:
    content = f"a,b\n1,5\n{word},4\n4,2\n9,1\n"
    assert read(tmp_path, content, fill="previous").levels[:, 0].tolist() == [1, 1, 4, 9]
    with pytest.raises(BpttError, match=r"column 'a' .* is missing in row 2; .*--fill"):
        read(tmp_path, content)


def test_words_of_ones_own(tmp_path: Path) -> None:
    content = "a\n1\n-999\nnone today\n9\n4\n2\n"
    with pytest.raises(BpttError, match=r"has text in row 3, 'none today'; .*--missing"):
        read(tmp_path, content)
    dialect = Dialect(missing=("-999", "none today"))
    table = read(tmp_path, content, fill="previous", dialect=dialect)
    assert table.levels[:, 0].tolist() == [1, 1, 1, 9, 4, 2]


@pytest.mark.parametrize(
    ("content", "told", "expected"),
    [
        ("a;b\n1,512;2\n3,123;4\n2,1;1\n", {}, [1.512, 3.123, 2.1]),
        ("a;b\n1,512;2\n3,123;4\n2,100;1\n", {"decimal": ","}, [1.512, 3.123, 2.1]),
        ("a;b\n1,512;2\n3,123;4\n2,100;1\n", {"decimal": "."}, [1512, 3123, 2100]),
        ("a;b\n1.512;2\n3.123;4\n2.100;1\n", {}, [1.512, 3.123, 2.1]),
        ("a;b\n1.512;2\n3.123;4\n999;1\n", {"decimal": ","}, [1512, 3123, 999]),
        ('a,b\n"1,010",2\n"3,123",4\n999,1\n', {}, [1010, 3123, 999]),
        ("x a b\n9 1 2\n3 3 4\n2 2 1\n", {"separator": "space"}, [1, 3, 2]),
        ("a\n7\n8\n10\n9\n", {"header": True}, [7, 8, 10, 9]),
        ("café;a\nx;1\ny;3\nz;2\n".encode("cp1252"), {"encoding": "cp1252"}, [1, 3, 2]),
        ("//x\na,b\n1,2\n//y\n3,4\n5,3\n", {"comment": "//"}, [1, 3, 5]),
    ],
)
def test_what_is_told_is_done(
    tmp_path: Path, content: str | bytes, told: dict[str, object], expected: list[float]
) -> None:
    table = read(tmp_path, content, target="a", dialect=Dialect(**told))  # type: ignore[arg-type]
    assert table.levels[:, 0].tolist() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a;b\n1,512;2\n3,123;4\n", r"'1,512' in .* can be a number with decimals or .*--decimal"),
        ("a;b\n1.512;2\n3;4\n", r"'1.512' in .* can be a number with decimals or .*--decimal"),
        ("0,1,2\n7,5,5\n3,3,3\n", "the first row of .*, '0,1,2', can be names .*--no-header"),
        ("a,b\n1,2\n3,4,5\n", r"row 2 of .* \(line 3\) has 3 fields, .*--separator"),
        ("a,b\n1,2\n1.5.5,4\n2,3\n", "'1.5.5'; .*how numbers are written .*--decimal"),
        ("a,b\n1,é\n".encode("latin-1"), r"is not UTF-8: byte 0xe9 in line 2; .*--encoding"),
        (b"\xff\xfea\x00\n\x00\xd8", "is not utf-16, after line 1.*--encoding"),
    ],
)
def test_what_may_be_two_things_names_the_option(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(BpttError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b'"\r\r', b"a\r\r\r", b"\n\n", b'"\n\n\n', b"a,b\n\n\n"])
def test_blank_lines_alone_are_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(BpttError):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("row", ["#N/A,4", "#7,4", "#,4"])
def test_a_row_that_begins_like_a_comment_is_not_lost(tmp_path: Path, row: str) -> None:
    with pytest.raises(BpttError, match=r"line 8 of .* looks like a row; .*--comment"):
        read(tmp_path, f"# from a sensor\n{PLAIN}{row}\n")
    table = read(tmp_path, f"# from a sensor\n{PLAIN}{row}\n", dialect=Dialect(comment="#"))
    assert table.levels.tolist() == VALUES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": "ab"}, "separator is 'ab'; expected one character"),
        ({"decimal": "x"}, "decimal is 'x'; expected one of"),
        ({"thousands": ".", "decimal": "."}, "thousands and decimal are both '.'"),
        ({"thousands": "12"}, "thousands is '12'; expected one mark"),
        ({"encoding": "klingon"}, "there is no encoding 'klingon'"),
    ],
)
def test_bad_dialects(options: dict[str, str], message: str) -> None:
    with pytest.raises(BpttError, match=message):
        Dialect(**options)  # type: ignore[arg-type]


def test_without_a_header_no_row_is_lost(tmp_path: Path) -> None:
    table = read(tmp_path, PLAIN.split("\n", 1)[1])
    assert table.columns.target == ("column_1", "column_2")
    assert table.levels.tolist() == VALUES
    assert "written with no header" in table.about
    table = read(tmp_path, "2020-01-01,5\n2020-01-02,7\n2020-01-03,6\n", time="column_1")
    assert len(table.levels) == 3


@pytest.mark.parametrize("start", [0, 1, 1700, -3])
@pytest.mark.parametrize("name", ["", "Unnamed: 0", "index", "n"])
def test_an_index_is_no_target(tmp_path: Path, name: str, start: int) -> None:
    rows = "".join(f"{k + start},{a},{b},x\n" for k, (a, b) in enumerate(VALUES))
    table = read(tmp_path, f"{name},a,b,note\n{rows}")
    assert table.columns.target == ("a", "b")
    [line] = [line for line in table.about if line.startswith("left out: ")]
    assert "has no name" in line or "rises by 1 from row to row: --time" in line
    assert "note (is text, such as 'x')" in line
    if name:
        named = read(tmp_path, f"{name},a,b,note\n{rows}", target=name)
        assert named.levels[:, 0].tolist() == [k + start for k in range(len(VALUES))]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-16"])
def test_names_in_another_encoding_are_refused_or_read(tmp_path: Path, encoding: str) -> None:
    second = "n" if encoding == "cp1252" else "\ufffd"
    text = f"Höhe,{second}\n" + "5,1\n7,2\n6,4\n8,3\n" * 3
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    if encoding == "cp1252":
        with pytest.raises(BpttError, match=r"is not UTF-8: byte 0xf6 in line 1; .*--encoding"):
            read_table(tmp_path / "t.csv")
        told = Columns(dialect=Dialect(encoding=encoding))
        assert read_table(tmp_path / "t.csv", told).columns.target[0] == "Höhe"
    else:
        assert read_table(tmp_path / "t.csv").columns.target == ("Höhe", "\ufffd")


def test_what_pandas_writes(tmp_path: Path) -> None:
    table = read(tmp_path, ",0,1\n0,5,1.5\n1,7,2.5\n2,6,1.5\n3,8,9\n")
    assert table.columns.target == ("0", "1")
    assert table.levels[:, 0].tolist() == [5, 7, 6, 8]


def test_options_of_text_are_refused_for_parquet(tmp_path: Path) -> None:
    import polars as pl  # noqa: PLC0415

    pl.DataFrame({"a": [1, 2, 4, 8]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(BpttError, match=r"decimal \(--decimal\) is for .csv and .tsv files"):
        read_table(tmp_path / "t.parquet", Columns(dialect=Dialect(decimal=",")))


def test_thousands_of_columns(tmp_path: Path) -> None:
    rows = np.arange(24)[:, None] * (1 + np.arange(4000) % 7) % 11
    content = ",".join(f"c{k}" for k in range(4000)) + "\n"
    content += "\n".join(",".join(map(str, row)) for row in rows.tolist())
    table = read(tmp_path, content)
    np.testing.assert_array_equal(table.levels, rows)
