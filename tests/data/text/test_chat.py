"""Which tokens carry the loss, checked against the text that they decode to."""

from dataclasses import replace
from functools import partial

import pytest

from wegeft_pl.data.text import tokenize
from wegeft_pl.data.text.chat import NamedChatEncoder, make_chat_encoder
from wegeft_pl.data.text.chat_templates import CHAT_TEMPLATES
from wegeft_pl.data.text.messages import Conversation, Message
from wegeft_pl.losses import IGNORED

TALK = Conversation(
    (Message("user", "1+1"), Message("assistant", "2"), Message("user", "2+7"), Message("assistant", "79")),
    "a.json: row 1",
)
MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}"
    "{% endgeneration %}{{ eos_token }}{% else %}U:{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
#: Ends every answer with a line break behind EOS, as ChatML does.
BREAKS = PLAIN.replace("{{ eos_token }}", "{{ eos_token }}{{ '\\n' }}")
#: Leaves all answers but the last one out, as templates do with thoughts.
FORGETS = PLAIN.replace("{{ m.content }}{{ eos_token }}", "{% if loop.last %}{{ m.content }}{{ eos_token }}{% endif %}")
#: Has another end than EOS.
OTHER_END = PLAIN.replace("{{ eos_token }}", "!")


def trained(example):
    """The runs of labelled ids."""
    runs, last = [], IGNORED
    for token, label in zip(example.input_ids, example.labels, strict=True):
        if label != IGNORED:
            assert label == token
            if last == IGNORED:
                runs.append([])
            runs[-1].append(token)
        last = label
    return runs


@pytest.mark.parametrize("prompt", CHAT_TEMPLATES)
@pytest.mark.parametrize("train_on", ["all_turns", "last_turn"])
def test_named_templates_train_answers_and_one_eos_each(tokenizer, prompt, train_on):
    encoder = make_chat_encoder(prompt, tokenizer, 1000, train_on)
    example = encoder.encode(TALK)
    eos = tokenizer.eos_token_id
    runs = trained(example)
    assert [run.count(eos) for run in runs] == [1] * (2 if train_on == "all_turns" else 1)
    assert all(run[-1] == eos for run in runs)
    texts = [encoder.cut(tokenizer.decode(run[:-1])) for run in runs]
    assert texts == ["2", "79"][-len(texts) :]
    assert example.prompt_ids == example.input_ids[: len(example.prompt_ids)]
    assert example.prompt_ids == encoder.prompt(TALK.messages[:-1])[1]
    bos = tokenizer.bos_token_id
    if bos is not None and bos != eos:
        doubles = zip(example.input_ids, example.input_ids[1:], strict=False)
        assert (bos, bos) not in doubles
        leading = tokenizer("a")["input_ids"][0] == bos
        assert example.input_ids.count(bos) == (2 if prompt == "llama2" else 1) * leading


@pytest.mark.parametrize("kind", ["llama", "merges_the_boundary", "gpt2", "appends_eos"])
@pytest.mark.parametrize("template", [MARKED, PLAIN, BREAKS], ids=["marked", "plain", "line breaks"])
@pytest.mark.parametrize("train_on", ["all_turns", "last_turn"])
def test_the_tokenizers_own_template(make_tokenizer, kind, template, train_on):
    tokenizer = make_tokenizer(kind)
    tokenizer.chat_template = template
    encoder = make_chat_encoder("chat", tokenizer, 1000, train_on)
    example = encoder.encode(TALK)
    eos = tokenizer.eos_token_id
    runs = trained(example)
    texts = [tokenizer.decode(run[:-1]).strip() for run in runs]
    assert texts == (["2", "79"] if train_on == "all_turns" else ["79"])
    assert all(run[-1] == eos and run.count(eos) == 1 for run in runs)
    if tokenizer.bos_token_id != eos:
        assert example.input_ids.count(tokenizer.bos_token_id) == 1
    assert example.prompt_ids == encoder.prompt(TALK.messages[:-1])[1]
    assert tokenizer.decode(example.input_ids) == tokenizer.decode(
        tokenizer.apply_chat_template(
            [{"role": one.role, "content": one.content} for one in TALK.messages], tokenize=True, return_dict=False
        )
    )


def test_a_template_that_changes_its_mind(make_tokenizer):
    tokenizer = make_tokenizer("gpt2")
    tokenizer.chat_template = FORGETS
    with pytest.raises(
        ValueError, match=r"a.json: row 1: the chat template renders message 2 differently once the conv"
    ):
        make_chat_encoder("chat", tokenizer, 1000, "all_turns").encode(TALK)
    example = make_chat_encoder("chat", tokenizer, 1000, "last_turn").encode(TALK)
    assert [tokenizer.decode(run[:-1]) for run in trained(example)] == ["79"]


def test_a_template_without_eos(make_tokenizer):
    tokenizer = make_tokenizer("gpt2")
    tokenizer.chat_template = OTHER_END
    with pytest.raises(
        ValueError, match=r"a.json: row 1: the chat template does not end an answer with the tokenizer's E"
    ):
        make_chat_encoder("chat", tokenizer, 1000, "all_turns").encode(TALK)


def test_a_marked_answer_that_is_empty(make_tokenizer):
    tokenizer = make_tokenizer("gpt2")
    tokenizer.chat_template = MARKED
    talk = Conversation((Message("user", "a"), Message("assistant", "")), "a.json: row 2")
    with pytest.raises(ValueError, match=r"a.json: row 2: the chat template marks 0 answers and there are 1"):
        make_chat_encoder("chat", tokenizer, 1000, "all_turns").encode(talk)


def test_no_template_and_no_eos(make_tokenizer):
    with pytest.raises(
        ValueError, match=r"data.prompt=chat asks for the tokenizer's own chat template and it has none"
    ):
        make_chat_encoder("chat", make_tokenizer("gpt2"), 1000, "all_turns")
    with pytest.raises(ValueError, match=r"the tokenizer has no EOS token"):
        make_chat_encoder("plain", make_tokenizer("no_eos"), 1000, "all_turns")


@pytest.mark.parametrize("prompt", [*CHAT_TEMPLATES, "chat"])
@pytest.mark.parametrize("chunk", [2, 1000])
def test_many_are_as_one_by_one(tokenizer, monkeypatch, prompt, chunk):
    monkeypatch.setattr(tokenize, "CHUNK", chunk)
    tokenizer.chat_template = MARKED
    talks = [TALK, Conversation(TALK.messages[:3], ""), Conversation(TALK.messages[:2], ""), TALK]
    talks.append(Conversation((Message("system", "Brief."), Message("user", "a", "b"), Message("assistant", "S")), ""))
    for train_on in ("all_turns", "last_turn"):
        encoder = make_chat_encoder(prompt, tokenizer, 60, train_on)
        assert list(encoder.encode_many(iter(talks))) == [encoder.encode(talk) for talk in talks]
        assert encoder.prompt_text(TALK.messages[:3]) == encoder.prompt(TALK.messages[:3])[0]


def test_settings_tell_encoders_apart(make_tokenizer):
    tokenizer = make_tokenizer("gpt2")
    tokenizer.chat_template = PLAIN
    found = [
        make_chat_encoder(prompt, tokenizer, 60, train_on).settings
        for prompt in [*CHAT_TEMPLATES, "chat"]
        for train_on in ("all_turns", "last_turn")
    ]
    assert len(set(map(repr, found))) == len(found)
    changed = replace(CHAT_TEMPLATES["plain"], between="")
    assert repr(NamedChatEncoder(changed, tokenizer, 60, "all_turns").settings) not in map(repr, found)


def test_a_template_with_the_date_in_it_is_another_one_each_day(make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer("gpt2")
    tokenizer.chat_template = "{{ day }}" + PLAIN
    encoder, render = make_chat_encoder("chat", tokenizer, 60, "all_turns"), tokenizer.apply_chat_template
    found = []
    for day in ("1 May", "2 May", "2 May"):
        monkeypatch.setattr(tokenizer, "apply_chat_template", partial(render, day=day))
        found.append(encoder.settings)
    assert found[0] != found[1] == found[2]


@pytest.mark.parametrize("prompt", ["plain", "chat"])
def test_questions_without_an_answer_truncation_and_training_on_all(make_tokenizer, prompt):
    tokenizer = make_tokenizer("gpt2")
    tokenizer.chat_template = PLAIN
    encoder = make_chat_encoder(prompt, tokenizer, 1000, "all_turns")
    asked = Conversation(TALK.messages[:3], "")
    example = encoder.encode(asked)
    assert example.prompt_ids == example.input_ids == encoder.prompt(asked.messages)[1]
    assert len(trained(example)) == 1  # the answer that is there
    whole = encoder.encode(TALK)
    cut = make_chat_encoder(prompt, tokenizer, len(whole.input_ids) - 1, "all_turns").encode(TALK)
    assert cut.truncated
    assert not whole.truncated
    assert cut.input_ids == whole.input_ids[:-1]
    assert cut.prompt_ids == whole.prompt_ids
    everything = make_chat_encoder(prompt, tokenizer, 1000, "all_turns", train_on_prompt=True).encode(TALK)
    assert everything.labels == everything.input_ids
