"""Tokens are made once for what they depend on, again where files broke, and by one process at a time."""

import subprocess
import sys
import time

import pytest

from wegeft_pl.data.text import token_cache
from wegeft_pl.data.text.token_cache import cache_key, cached, cached_or_held
from wegeft_pl.data.text.tokenize import ExampleEncoder, TextPair

PAIRS = [TextPair("Q: 1+1?\n", "2"), TextPair("Q: 2+2?\n", "4")]


@pytest.fixture
def make(make_tokenizer):
    """Tokenises, and counts how often."""

    def make():
        make.calls += 1
        return ExampleEncoder(make_tokenizer("llama"), 50).encode_many(PAIRS)

    make.calls = 0
    return make


def test_the_key_depends_on_everything_that_tokens_depend_on():
    keys = {
        cache_key("t", 50, False, PAIRS),
        cache_key("u", 50, False, PAIRS),
        cache_key("t", 51, False, PAIRS),
        cache_key("t", 50, True, PAIRS),
        cache_key("t", 50, False, PAIRS[::-1]),
        cache_key("t", 50, False, PAIRS[:1]),
        cache_key("t", 50, False, [TextPair("Q: 1+1?\n2", ""), PAIRS[1]]),
    }
    assert len(keys) == 7
    assert cache_key("t", 50, False, iter(PAIRS)) == cache_key("t", 50, False, PAIRS)
    # What an encoder adds counts too; one that adds nothing keeps the names that tokens had before.
    assert cache_key("t", 50, False, PAIRS, ("last_turn",)) not in keys
    assert cache_key("t", 50, False, PAIRS, ()) in keys
    # Where a text stands changes no token; a lone surrogate is a text too.
    assert cache_key("t", 50, False, [TextPair(*pair[:2], "a:1") for pair in PAIRS]) in keys
    assert cache_key("t", 50, False, [TextPair("\ud800", "")])


def test_tokens_are_made_once(tmp_path, make):
    said = []
    first, second = (cached(tmp_path / "cache", "k" * 64, make, said.append) for _ in range(2))
    assert list(first) == list(second) == list(make())
    assert (make.calls, said) == (2, [])  # the last call is the test's own
    cached(tmp_path / "cache", "l" * 64, make, said.append)
    assert make.calls == 3
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", "", ".lock", ".lock"]


@pytest.mark.parametrize("name", ["ids.bin", "store.json"])
def test_broken_files_are_said_and_made_again(tmp_path, make, name):
    said = []
    expected = list(cached(tmp_path, "k" * 64, make, said.append))
    file = tmp_path / ("k" * 32) / name
    file.write_bytes(file.read_bytes()[:-1])
    assert list(cached(tmp_path, "k" * 64, make, said.append)) == expected
    assert make.calls == 2
    assert len(said) == 1
    assert f"token cache {file.parent} is broken" in said[0]


def test_what_a_killed_run_left_is_removed(tmp_path, make):
    left = tmp_path / f"{'k' * 32}.abc.tmp"
    (left / "store").mkdir(parents=True)
    cached(tmp_path, "k" * 64, make, print)
    assert not left.exists()


def test_a_failure_leaves_nothing_behind(tmp_path):
    def fail():
        yield from ()
        raise ValueError("train.jsonl:3: broken")

    with pytest.raises(ValueError, match=r"train.jsonl:3: broken"):
        cached(tmp_path, "k" * 64, fail, print)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path, make):
    said = []
    (tmp_path / "file").write_text("")
    held = cached_or_held(tmp_path / "file", "k" * 64, make, said.append)
    assert held == list(make())
    assert f"no token cache in {tmp_path / 'file'}" in said[0]
    assert "set data.cache_dir to a folder or null" in said[0]
    assert cached_or_held(None, "k" * 64, make, said.append) == held
    assert len(said) == 1
    with pytest.raises(OSError, match=r"exists"):
        cached(tmp_path / "file", "k" * 64, make, said.append)


SCRIPT = """
import sys, time
from pathlib import Path
from wegeft_pl.data.text.token_cache import cached
from wegeft_pl.data.text.tokenize import EncodedExample

def make():
    Path(sys.argv[2]).open("a").write("made\\n")
    time.sleep(1)
    yield EncodedExample([1, 2], [-100, 2], [1], False)

print(len(cached(Path(sys.argv[1]), "k" * 64, make, print)))
"""


@pytest.mark.slow
def test_several_processes_make_them_once(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cache"), str(tmp_path / "made")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in running] == ["1\n"] * 2
    assert (tmp_path / "made").read_text() == "made\n"


@pytest.mark.slow
def test_a_process_killed_in_the_middle_leaves_no_half_cache(tmp_path, make):
    command = [
        sys.executable,
        "-c",
        SCRIPT.replace("sleep(1)", "sleep(60)"),
        str(tmp_path / "cache"),
        str(tmp_path / "made"),
    ]
    process = subprocess.Popen(command)
    while not (tmp_path / "made").exists():
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert list(cached(tmp_path / "cache", "k" * 64, make, print)) == list(make())
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_lines_are_printed_once(capsys):
    token_cache.say_once("said")
    assert capsys.readouterr().out == "said\n"
