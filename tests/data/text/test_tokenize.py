"""Ids and labels with tokenizers of every kind: what training sees is what generation starts from."""

import pytest

from wegeft_pl.data.text.tokenize import ExampleEncoder, encode_example, encode_plain, leading_ids
from wegeft_pl.losses import IGNORED

PROMPT, RESPONSE = "Question: 3+4?\nAnswer:", "7 it is"


def test_the_prompt_is_what_generation_sees_and_the_response_ends_in_one_eos(tokenizer):
    encoder = ExampleEncoder(tokenizer, max_length=200)
    example = encoder.encode(PROMPT, RESPONSE)
    size = example.prompt_length
    assert example.input_ids[:size] == example.prompt_ids == encoder.encode_prompt(PROMPT)
    assert example.labels == [IGNORED] * size + example.input_ids[size:]
    assert example.labels[-1] == tokenizer.eos_token_id
    assert example.labels[-2] != tokenizer.eos_token_id
    assert example.num_labels == len(example.input_ids) - size
    assert not example.truncated
    assert tokenizer.decode(example.input_ids[size:-1]).strip() == RESPONSE
    assert tokenizer.decode(example.prompt_ids, skip_special_tokens=True).strip() == PROMPT


def test_bos_is_what_the_tokenizer_adds(make_tokenizer):
    bos = {
        kind: encode_example(make_tokenizer(kind), PROMPT, RESPONSE, 200).input_ids.count(1)
        for kind in ("llama", "pad_is_eos", "appends_eos", "no_bos")
    }
    assert bos == {"llama": 1, "pad_is_eos": 1, "appends_eos": 1, "no_bos": 0}
    gpt2 = make_tokenizer("gpt2")  # bos == eos and none is added in front
    assert encode_example(gpt2, PROMPT, RESPONSE, 200).input_ids.count(gpt2.bos_token_id) == 1


def test_a_bos_spelt_out_in_the_prompt_is_not_doubled(make_tokenizer):
    example = encode_example(make_tokenizer("pad_is_eos"), "<s>" + PROMPT, RESPONSE, 200)
    assert example == encode_example(make_tokenizer("pad_is_eos"), PROMPT, RESPONSE, 200)
    spelt = encode_example(make_tokenizer("no_bos"), "x", RESPONSE, 200)
    assert spelt.input_ids.count(1) == 0


def test_an_eos_spelt_out_in_the_response_is_not_doubled(make_tokenizer):
    for kind in ("pad_is_eos", "appends_eos", "no_bos"):
        spelt = encode_example(make_tokenizer(kind), PROMPT, RESPONSE + "</s>", 200)
        assert spelt == encode_example(make_tokenizer(kind), PROMPT, RESPONSE, 200)


def test_pad_equal_to_eos_still_teaches_eos(make_tokenizer):
    tokenizer = make_tokenizer("pad_is_eos")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert encode_example(tokenizer, PROMPT, RESPONSE, 200).labels[-1] == tokenizer.eos_token_id


def test_an_empty_response_is_one_eos_to_learn(tokenizer):
    example = encode_example(tokenizer, PROMPT, "", 200)
    assert example.input_ids == [*example.prompt_ids, tokenizer.eos_token_id]
    assert example.num_labels == 1


def test_a_token_across_the_boundary_is_split(make_tokenizer):
    tokenizer = make_tokenizer("merges_the_boundary")
    joint = tokenizer(PROMPT + RESPONSE)["input_ids"]
    prompt = tokenizer(PROMPT)["input_ids"]
    assert joint[: len(prompt)] != prompt  # the trap is set
    example = encode_example(tokenizer, PROMPT, RESPONSE, 200)
    assert example.prompt_ids == prompt
    assert example.input_ids == [*prompt, *encode_plain(tokenizer, RESPONSE), tokenizer.eos_token_id]


def test_joint_ids_are_kept_where_the_boundary_holds(make_tokenizer):
    # Alone, a response gets an underline in front (Prepend); behind its prompt it has none.
    tokenizer = make_tokenizer("llama")
    example = encode_example(tokenizer, "Answer:\n", "7", 200)
    assert example.input_ids == [*tokenizer("Answer:\n7")["input_ids"], tokenizer.eos_token_id]
    assert encode_plain(tokenizer, "7") == [tokenizer.convert_tokens_to_ids("\u2581"), example.input_ids[-2]]


def test_the_loss_may_count_the_prompt(make_tokenizer):
    example = encode_example(make_tokenizer("llama"), PROMPT, RESPONSE, 200, train_on_prompt=True)
    assert example.labels == example.input_ids
    assert example.num_labels == len(example.input_ids) - 1  # nothing predicts the first token


def test_truncation_cuts_on_the_right_and_says_so(make_tokenizer):
    tokenizer = make_tokenizer("pad_is_eos")
    whole = encode_example(tokenizer, PROMPT, RESPONSE, 200)
    size = len(whole.input_ids)
    fits = encode_example(tokenizer, PROMPT, RESPONSE, size)
    assert fits == whole
    cut = encode_example(tokenizer, PROMPT, RESPONSE, size - 1)
    assert cut.truncated
    assert cut.input_ids == whole.input_ids[:-1]
    assert cut.labels == whole.labels[:-1]  # no EOS: a cut answer must not teach the model to stop there
    bare = encode_example(tokenizer, PROMPT, RESPONSE, whole.prompt_length)
    assert (bare.has_label, bare.num_labels, bare.truncated) == (False, 0, True)
    assert bare.prompt_ids == whole.prompt_ids
    short = encode_example(tokenizer, PROMPT, RESPONSE, 3)
    assert short.input_ids == whole.input_ids[:3]
    assert short.prompt_ids == whole.prompt_ids


def test_long_texts_do_not_warn_and_the_tokenizer_s_own_warning_stays(make_tokenizer, caplog):
    import logging

    tokenizer = make_tokenizer("llama")
    tokenizer.model_max_length = 8
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        encode_example(tokenizer, PROMPT, RESPONSE, 200)
        encode_plain(tokenizer, PROMPT)
        assert not caplog.records
        tokenizer(PROMPT)
        assert "longer than the specified maximum" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_leading_ids(make_tokenizer):
    assert leading_ids(make_tokenizer("llama"), "text") == [1]
    assert leading_ids(make_tokenizer("appends_eos"), "text") == [1]
    assert leading_ids(make_tokenizer("no_bos"), "text") == []
    assert leading_ids(make_tokenizer("gpt2"), "text") == []


def test_a_tokenizer_that_rewrites_the_text_is_refused():
    class Odd:
        bos_token_id, eos_token_id, pad_token_id = None, 0, None

        def __call__(self, text, *, add_special_tokens=True, verbose=True):
            return {"input_ids": [9, 8, 7] if add_special_tokens else [7, 8, 9]}

    with pytest.raises(ValueError, match="encodes a text differently with and without special tokens"):
        encode_example(Odd(), PROMPT, RESPONSE, 200)


def test_errors(make_tokenizer):
    with pytest.raises(ValueError, match="the tokenizer has no EOS token, so a model cannot learn to stop"):
        encode_example(make_tokenizer("no_eos"), PROMPT, RESPONSE, 200)
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        encode_example(make_tokenizer("llama"), PROMPT, RESPONSE, 0)
    with pytest.raises(ValueError, match="prompt '' has no token; a model cannot generate from nothing"):
        encode_example(make_tokenizer("gpt2"), "", RESPONSE, 200)


def test_an_empty_prompt_starts_from_bos(make_tokenizer):
    encoder = ExampleEncoder(make_tokenizer("llama"), 200)
    assert encoder.encode_prompt("") == [1]
    assert encoder.encode_prompt("a")[0] == 1
