"""Rows from files: every fault is named with its file and line."""

import hashlib
import json

import pytest

from wegeft_pl.data.rows import Row, read_rows, read_text, read_values, sha256, sha256_rows

COLUMNS = ("question", "answer")
GOOD = '{"question": "a?", "answer": "b", "other": 3}'


@pytest.fixture
def write(tmp_path):
    def write(content, name="rows.jsonl"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def test_reads_the_wanted_columns_in_order_and_remembers_the_line(write):
    file = write(f'\n{GOOD}\n   \n{{"answer": "d", "question": "c?"}}')
    rows = read_rows(file, COLUMNS)
    assert rows == [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]
    assert [row.place for row in rows] == [f"{file}:2", f"{file}:4"]


def test_reads_an_array_and_remembers_the_row_number(write):
    file = write(json.dumps([json.loads(GOOD), json.loads(GOOD)], indent=2), "rows.json")
    assert [row.place for row in read_rows(str(file), COLUMNS)] == [f"{file}: row 1", f"{file}: row 2"]


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(write):
    file = write(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n" + GOOD.encode() + b"\r\n")
    assert len(read_rows(file, COLUMNS)) == 2


def test_a_line_separator_inside_a_string_does_not_split_the_row(write):
    text = "one\u2028two\x85three"
    file = write(json.dumps({"question": text, "answer": ""}, ensure_ascii=False))
    assert read_rows(file, COLUMNS)[0]["question"] == text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"question": "a?", "answer": "b"',
            r"rows.jsonl:3: not valid JSON \(Expecting ',' delimiter at column 33\): ",
        ),
        ("question,answer", r"rows.jsonl:3: not valid JSON \(Expecting value at column 1\): question,answer"),
        ('["a", "b"]', "rows.jsonl:3: a row must be a JSON object like {'question': ...}, got an array"),
        ('"a"', "rows.jsonl:3: a row must be a JSON object .* got a string"),
        ("null", "got null"),
        ("7", "got a number"),
        (
            '{"qestion": "a?", "answer": "b"}',
            r"rows.jsonl:3: no column 'question'; did you mean 'qestion'\? this row has: qestion, answer",
        ),
        ("{}", "no column 'question'; this row has: none"),
        ('{"question": "a?", "answer": 7}', "rows.jsonl:3: column 'answer' must hold a string, got a number"),
        ('{"question": null, "answer": "b"}', "column 'question' must hold a string, got null"),
        ('{"question": true, "answer": "b"}', "column 'question' must hold a string, got a boolean"),
        ('{"question": ["a"], "answer": "b"}', "column 'question' must hold a string, got an array"),
    ],
)
def test_a_faulty_line_is_named(write, line, message):
    with pytest.raises(ValueError, match=message):
        read_rows(write(f"{GOOD}\n\n{line}\n{GOOD}\n"), COLUMNS)


def test_a_faulty_row_of_an_array_is_named(write):
    with pytest.raises(ValueError, match=r"rows.json: row 2: no column 'answer'; did you mean 'anwser'\?"):
        read_rows(write(f'[{GOOD}, {{"question": "a?", "anwser": "b"}}]', "rows.json"), COLUMNS)


def test_a_broken_array_names_the_line(write):
    with pytest.raises(ValueError, match=r"rows.json:2: not valid JSON \(Expecting value\)"):
        read_rows(write(f"[{GOOD},\n]", "rows.json"), COLUMNS)
    with pytest.raises(ValueError, match=r"one object a line belongs in a .jsonl file"):
        read_rows(write(f"{GOOD}\n{GOOD}", "rows.json"), COLUMNS)
    with pytest.raises(ValueError, match="must be an array of objects, got an object"):
        read_rows(write(GOOD, "rows.json"), COLUMNS)


@pytest.mark.parametrize(("content", "name"), [("", "a.jsonl"), ("\n \n", "a.jsonl"), ("", "a.json"), ("[]", "a.json")])
def test_an_empty_data_set_is_refused(write, content, name):
    with pytest.raises(ValueError, match=f"{name}: no rows; the data set is empty"):
        read_rows(write(content, name), COLUMNS)


def test_bytes_that_are_not_utf8_are_named_with_their_line(write):
    file = write(GOOD.encode() + b'\n{"question": "caf\xe9", "answer": ""}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl:2: byte 0xe9 is not UTF-8; save the file as UTF-8"):
        read_rows(file, COLUMNS)


def test_a_missing_file_has_a_close_match(write, tmp_path):
    write(GOOD)
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*row.jsonl; did you mean 'rows.jsonl'\?"):
        read_rows(tmp_path / "row.jsonl", COLUMNS)
    with pytest.raises(FileNotFoundError, match=r"its folder .*nowhere is missing too"):
        read_rows(tmp_path / "nowhere" / "rows.jsonl", COLUMNS)


def test_another_ending_is_refused(write):
    with pytest.raises(ValueError, match=r"expected a .jsonl or .json file, got the ending '.csv'"):
        read_rows(write("a,b", "rows.csv"), COLUMNS)


def test_the_hash_is_of_the_content(write):
    file = write(GOOD)
    assert sha256(file) == hashlib.sha256(GOOD.encode()).hexdigest()
    assert read_text(file) == GOOD


def test_the_hash_of_rows_without_a_file_depends_on_columns_and_values_only():
    rows = [Row({"question": "a?", "answer": "b"}, "here"), Row({"question": "c?", "answer": "d"}, "there")]
    same = [Row({"answer": "b", "question": "a?"}, ""), rows[1]]
    assert sha256_rows(rows) == sha256_rows(same)
    text = '{"answer": "b", "question": "a?"}\n{"answer": "d", "question": "c?"}\n'
    assert sha256_rows(rows) == hashlib.sha256(text.encode()).hexdigest()
    assert sha256_rows(rows[::-1]) != sha256_rows(rows)


def test_rows_of_any_type_are_read_as_they_are(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n[2]\n"c"\n')
    assert read_values(file) == [({"a": 1}, f"{file}:1"), ([2], f"{file}:3"), ("c", f"{file}:4")]
