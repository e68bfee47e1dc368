"""Templates: names, texts as templates, errors."""

import pytest

from wegeft_pl.data.text.prompts import TEMPLATES, PromptTemplate, get_template


def test_the_named_templates():
    assert get_template("qa").format_prompt("Why?") == "Question: Why?\nAnswer:\n"
    assert get_template("plain").format_prompt("Why?") == "Why?\n"
    assert get_template("alpaca").format_prompt("Why?") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nWhy?\n\n### Response:\n"
    )
    assert {name: get_template(name).format_response("a {b}") for name in TEMPLATES} == dict.fromkeys(
        TEMPLATES, "a {b}"
    )


def test_a_text_is_a_template():
    template = get_template("Q: {question}\nA: ")
    assert template.name == "custom"
    assert template.format_prompt("2 {+} 2") == "Q: 2 {+} 2\nA: "


def test_braces_in_a_question_stay_as_they_are():
    assert get_template("plain").format_prompt("{question} {answer} {0} {") == "{question} {answer} {0} {\n"


def test_generated_text_is_cut_at_the_first_stop_string():
    assert get_template("qa").cut("#### 7\nQuestion: more\n#### 8 Question:") == "#### 7\n"
    assert get_template("alpaca").cut("7\n### Instruction:\n8") == "7\n"
    assert get_template("plain").cut("#### 7\nQuestion: more") == "#### 7\nQuestion: more"
    assert PromptTemplate("two", "{question}", stop=("b", "a")).cut("xxayyb") == "xx"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no prompt template 'alpca'; did you mean 'alpaca'\? Templates: qa, alpaca"):
        get_template("alpca")
    with pytest.raises(ValueError, match=r"no prompt template 'Q: A:'; Templates: .* a text that contains {question}"):
        get_template("Q: A:")


def test_placeholders_are_checked():
    with pytest.raises(ValueError, match=r"has {answer}; its only placeholder is {question}: end it where the answer"):
        get_template("Q: {question} A: {answer}")
    with pytest.raises(ValueError, match=r"has {context}; its only placeholder is {question}: leave the braces out"):
        get_template("{context} {question}")
    with pytest.raises(ValueError, match=r"prompt template 'Q' has no {question}"):
        PromptTemplate("mine", "Q")
    with pytest.raises(ValueError, match=r"response template 'A' has no {answer}"):
        PromptTemplate("mine", "{question}", response="A")
