import pytest

from wegeft_pl.data.text.chat_templates import CHAT_TEMPLATES, get_chat_template
from wegeft_pl.data.text.messages import Message

U, A, S = (
    (lambda text: Message("user", text)),
    (lambda text: Message("assistant", text)),
    Message("system", "Be {brief}."),
)
TALK = [S, U("Hi {user}"), A("Hello"), U("Bye"), A("So long")]


def joined(name, messages):
    return "|".join(prompt + "|" + (answer or "") for prompt, answer in CHAT_TEMPLATES[name].rounds(messages))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "alpaca",
            "Be {brief}.\n\n### Instruction:\nHi {user}\n\n### Response:\n|Hello|"
            "\n\n### Instruction:\nBye\n\n### Response:\n|So long",
        ),
        ("vicuna", "Be {brief}. USER: Hi {user} ASSISTANT:| Hello|USER: Bye ASSISTANT:| So long"),
        ("llama2", "[INST] <<SYS>>\nBe {brief}.\n<</SYS>>\n\nHi {user} [/INST]| Hello |[INST] Bye [/INST]| So long "),
        (
            "chatml",
            "<|im_start|>system\nBe {brief}.<|im_end|>\n<|im_start|>user\nHi {user}<|im_end|>\n<|im_start|>assistant\n|"
            "Hello<|im_end|>|\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n|So long<|im_end|>",
        ),
        ("plain", "Be {brief}.\nHi {user}\n|Hello|\nBye\n|So long"),
    ],
)
def test_texts(name, text):
    assert joined(name, TALK) == text
    assert get_chat_template(name).name == name


def test_alpaca_says_whether_there_is_an_input():
    with_input = joined("alpaca", [Message("user", "Add", "1 2")])
    assert with_input.startswith("Below is an instruction that describes a task, paired with an input that provides")
    assert with_input.endswith("### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n|")
    without = joined("alpaca", [U("Add")])
    assert without.startswith("Below is an instruction that describes a task. Write a response that appropriately")
    assert joined("plain", [Message("user", "Add", "1 2")]) == "Add\n1 2\n|"


def test_answers_are_cut():
    assert CHAT_TEMPLATES["alpaca"].cut(" Fine.\n\n### Instruction:\nMore") == "Fine."
    assert CHAT_TEMPLATES["plain"].cut(" Fine.\n") == "Fine."


def test_names():
    assert get_chat_template("chat") is None
    with pytest.raises(
        ValueError, match=r"data.prompt: no chat template 'vicunia'; did you mean 'vicuna'\? Templates: a"
    ):
        get_chat_template("vicunia")
