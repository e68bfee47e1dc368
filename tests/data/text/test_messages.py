import json

import pytest

from wegeft_pl.data.text.messages import (
    Conversation,
    Message,
    StreamedConversations,
    detect_layout,
    read_conversations,
    take_conversation,
)

TALK = (Message("user", "Hi"), Message("assistant", "Hello"))
ROWS = {
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "prompt_completion": {"prompt": "Hi", "completion": "Hello"},
}


@pytest.mark.parametrize("layout", ROWS)
def test_every_layout_is_told_and_read(layout):
    assert detect_layout(ROWS[layout], "") == layout
    for named in ("auto", layout):
        assert take_conversation(ROWS[layout], named, "a.json: row 1").messages == TALK


@pytest.mark.parametrize("row", [{"prompt": "Hi", "response": "Hello"}, {"question": "Hi", "answer": "Hello"}])
def test_pairs_by_other_names(row):
    assert take_conversation(row, "auto", "").messages == TALK


def test_system_input_and_dataset():
    row = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief", "dataset": "helpful_base"}
    found = take_conversation(row, "auto", "")
    assert found.messages == (Message("system", "Be brief"), Message("user", "Add", "1 2"), Message("assistant", "3"))
    assert found.dataset == "helpful_base"
    assert found.turns == found.messages[1:]
    row = ROWS["sharegpt"] | {"system": "Be brief"}
    assert take_conversation(row, "auto", "").messages == (Message("system", "Be brief"), *TALK)
    row = {"messages": [{"role": "system", "content": "s"}, *ROWS["messages"]["messages"]]}
    assert take_conversation(row, "auto", "").messages == (Message("system", "s"), *TALK)


@pytest.mark.parametrize(
    ("row", "layout", "message"),
    [
        ([1], "auto", r"a.json: row 3: a row must be a JSON object, got \[1\]"),
        ({"text": "a"}, "auto", "a.json: row 3: no known layout; this row has text, and the layouts"),
        ({"instruction": "a"}, "auto", "a.json: row 3: no column 'output'; there are: instruction"),
        ({"instruction": 1, "output": "b"}, "auto", "a.json: row 3: column 'instruction' must hold a string, got 1"),
        ({"messages": "a"}, "auto", "a.json: row 3: column 'messages' must hold an array of messages, got 'a'"),
        ({"messages": ["a"]}, "auto", r"a.json: row 3: messages\[1\] must be an object with 'role' and 'content'"),
        ({"messages": [{"role": "tool", "content": ""}]}, "auto", r"row 3: messages\[1\]: no role 'tool'; roles are"),
        ({"messages": [{"role": "user"}]}, "auto", r"row 3: messages\[1\]: no column 'content'; there are: role"),
        ({"messages": []}, "auto", "row 3: after at most one system message, user and assistant must take turns"),
        (ROWS["alpaca"], "messages", "a.json: row 3: column 'messages' must hold an array of messages, got None"),
        (
            {"conversations": [{"from": "gpt", "value": "a"}]},
            "auto",
            "a.json: row 3: .* take turns, user first; got assistant",
        ),
    ],
)
def test_broken_rows_name_their_place(row, layout, message):
    with pytest.raises(ValueError, match=message):
        take_conversation(row, layout, "a.json: row 3")


def test_files(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS.values()))
    found = read_conversations(path, "auto")
    assert [one.messages for one in found] == [TALK] * 4
    assert found[2].place == f"{path}:3"
    assert all(one.is_answered for one in found)
    assert not Conversation((Message("user", "Hi"),), "").is_answered


def test_texts_say_how_many_messages_there_are():
    asked = (Message("user", "Add", "1 2"),)
    assert Conversation(asked, "").texts == ("user", "Add", "1 2")
    two = [*Conversation(TALK, "").texts, *Conversation(TALK, "").texts]
    assert list(Conversation(TALK + TALK, "").texts) != two
    assert (
        Conversation(TALK, "a:1").texts == Conversation(TALK, "a:2").texts == ("user assistant", "Hi", "", "Hello", "")
    )


def test_conversations_read_where_they_stand_are_those_of_the_whole_file(write_rows):
    file = write_rows("train.jsonl", [*ROWS.values()])
    streamed = StreamedConversations(file, "auto")
    assert list(streamed) == list(enumerate(read_conversations(file, "auto")))
    assert [number for number, _ in streamed.pick([3, 1])] == [3, 1]
    with pytest.raises(ValueError, match=r"train.jsonl:1: column 'messages' must hold an array of messages, got None"):
        StreamedConversations(file, "messages")[0]
