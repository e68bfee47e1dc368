"""Comma- and tab-separated text: headers found or refused, and faults named with their line."""

from __future__ import annotations

import pytest

from wegeft_pl.data.delimited import Dialect, Header, read_delimited

WANTED = ["text", "label"]


def read(
    text: str, columns: list[str] = WANTED, header: Header = "auto", tabs: bool = False
) -> list[tuple[object, ...]]:
    dialect = Dialect("\t" if tabs else ",", quoted=not tabs, has_header=header)
    rows, _ = read_delimited(text, "f.csv", columns, columns[-1], dialect)
    return [(row.place, *row.values()) for row in rows]


def test_a_header_with_the_wanted_names_is_no_data() -> None:
    assert read("id,label,text\n7,pos,good\n8,neg,bad\n") == [("f.csv:2", "good", "pos"), ("f.csv:3", "bad", "neg")]


def test_numbered_columns_mean_that_the_first_line_is_data() -> None:
    text = "good film\t1\nbad film\t0\nfine\t1\n"
    assert [row[1:] for row in read(text, ["0", "1"], tabs=True)] == [
        ("good film", "1"),
        ("bad film", "0"),
        ("fine", "1"),
    ]


def test_quotes_blank_lines_and_line_breaks_inside_quotes_keep_the_line_numbers() -> None:
    text = 'text,label\n"a, ""b""\nc",x\n\nd,y\n'
    assert read(text) == [("f.csv:2", 'a, "b"\nc', "x"), ("f.csv:5", "d", "y")]


def test_without_quoting_a_quote_is_a_character() -> None:
    rows = read('"Well , he said\t1\n5 " by 6 "\t1\n', ["0", "1"], tabs=True)
    assert [row[1] for row in rows] == ['"Well , he said', '5 " by 6 "']


def test_texts_longer_than_the_csv_module_s_limit() -> None:
    long = "word " * 40_000
    assert read(f"text,label\n{long},x\n")[0][1] == long


def test_line_ends_of_other_systems_and_separators_inside_texts() -> None:
    assert [row[1] for row in read("text,label\r\na\u2028b,x\r\nc,y\r\n")] == ["a\u2028b", "c"]


def test_a_header_can_be_declared() -> None:
    assert [row[1:] for row in read("sentence,y\na,1\n", ["0", "1"], header=True)] == [("a", "1")]
    assert len(read("sentence,y\na,1\n", ["0", "1"], header=False)) == 2


@pytest.mark.parametrize(
    ("text", "columns", "header", "message"),
    [
        ("", WANTED, "auto", r"^f.csv: no rows; the data set is empty$"),
        ("text,label\n", WANTED, "auto", r"^f.csv: no rows below the header"),
        ("text,label\na,x\nb,y,z\n", WANTED, "auto", r"^f.csv:3: 3 columns, but the first row has 2; .* double quotes"),
        ("text,label\na\n", WANTED, "auto", r"^f.csv:2: 1 column, but the first row has 2"),
        ("text,text,label\na,b,x\n", WANTED, "auto", r"^f.csv:1: the column 'text' is there 2 times; rename"),
        ('text,label\n"a,x\nb,y\n', WANTED, "auto", r"^f.csv:2: broken quoting in the row that begins here"),
        ('text,label\n"a"b,x\n', WANTED, "auto", r"^f.csv:2: broken quoting"),
        ("texts,label\na,x\n", WANTED, "auto", r"^f.csv:1: no column 'text' .* did you mean 'texts'\? .*column 0"),
        ("text;label\na;x\n", WANTED, "auto", r"one column at data.delimiter ',', but semicolons in it: .* to ';'$"),
        ("text\tlabel\na\tx\n", WANTED, "auto", r"one column at data.delimiter ',', but tabs in it: .* to '\\t'$"),
        ("a,1\n", ["0", "4"], "auto", r"^f.csv:1: no column '4'; this file has columns 0 to 1"),
        ("0,1\na,x\n", ["0", "1"], "auto", r"^f.csv:1: .*could be a header or data; set data.has_header$"),
        ("sentence,label\na,0\nb,1\n", ["0", "1"], "auto", r"^f.csv:1: .* label 'label' of the first row is in no"),
        ("a,x\n", WANTED, False, r"^f.csv:1: with data.has_header false columns are numbers from 0, got text, label;"),
    ],
)  # fmt: skip
def test_faults_are_named(text: str, columns: list[str], header: Header, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(text, columns, header)


def test_a_tab_in_an_unquoted_text_names_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"f.csv:2: 3 columns, but the first row has 2; .*set data.quoted to true"):
        read("a\t1\nb\tc\t0\n", ["0", "1"], tabs=True)
