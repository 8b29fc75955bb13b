"""Transcripts: a conversation in a single text is no question; otherwise its answers would be generated again."""

from __future__ import annotations

import pytest

from tapir_ray.data.formats import Malformed, Unsupported, parse, parse_evaluation

TRANSCRIPTS = [
    "### Human: What is x?### Assistant: It is y.### Human: More?### Assistant: Yes.",
    "<s>[INST] What is x? [/INST] It is y. </s>",
    "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is x? [/INST] It is y.",
    "<|im_start|>system\nHi.<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nThat.<|im_end|>",
    "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>",
    "<start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\na<end_of_turn>",
    "<|user|>\nq</s>\n<|assistant|>\na</s>",
    "The conversation between human and AI assistant.\n[|Human|] q\n[|AI|] a\n[|Human|] ",
    "\n\nHuman: 你好\n\nAssistant: 好",
    "A chat between a curious user and an assistant.\n\nUSER: q ASSISTANT: a</s>",
    "Below is an instruction that describes a task.\n\n### Instruction:\nAdd.\n\n### Response:\n3",
]


@pytest.mark.parametrize("text", TRANSCRIPTS)
@pytest.mark.parametrize("column", ["text", "prompt", "input"])
def test_a_conversation_in_one_text_is_refused(text: str, column: str) -> None:
    with pytest.raises(Unsupported, match=r"transcript .*messages"):
        parse({column: text})
    assert parse({column: text, "output": "a"})[0].response == "a"
    assert parse_evaluation({column: text})[0].messages[0]["content"] == text


@pytest.mark.parametrize(
    "text",
    [
        "Human: Two?\n\nAssistant:",
        "### Instruction:\nAdd.\n\n### Response:\n",
        "What does this chat template print? <|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na",
        "Explain `[INST] q [/INST] a`.",
        "Write a dialogue of a user and an assistant.",
        "My assistant: a friend. Human: a being.",
    ],
)
def test_a_question_about_conversations_is_accepted(text: str) -> None:
    assert parse({"text": text})[0].messages == [{"role": "user", "content": text}]


def test_the_advice_for_an_evaluation_row_does_not_name_seed_data_columns() -> None:
    """`seed_data.columns` has no effect on evaluation sets."""
    for read, words in ((parse, r"seed_data\.columns"), (parse_evaluation, "goal.*rename the column .* prompt")):
        with pytest.raises(Malformed, match=words):
            read({"goal": "q", "sol1": "a"})


def test_a_single_message_of_a_tree_is_no_question() -> None:
    """Answers in OpenAssistant's flat rows were once read as questions, and the replies of its trees went to `meta`."""
    answer = {"message_id": "m", "parent_id": "p", "text": "It is y.", "role": "assistant", "lang": "en"}
    for row in (answer, {**answer, "role": "prompter"}):
        with pytest.raises(Malformed, match=r"one message .*messages"):
            parse(row)
    assert parse({**answer, "role": "prompter", "parent_id": None})[0].messages[0]["content"] == "It is y."
    assert parse({**answer, "role": "poet"})[0].messages[0]["content"] == "It is y."
    replies = [{"text": "a", "role": "assistant", "replies": []}]
    with pytest.raises(Unsupported, match="replies"):
        parse({"prompt": {"text": "q", "role": "prompter", "replies": replies}})
    assert parse({"prompt": {"text": "q", "role": "prompter", "replies": []}})[0].response is None


@pytest.mark.parametrize("flag", ["on", "off", "Yes", "none", "high"])
def test_a_reasoning_flag_is_no_thought(flag: str) -> None:
    """Nemotron's column `reasoning` tells whether a model was asked to think."""
    (found,) = parse({"input": [{"role": "user", "content": "q"}], "output": "<think>t</think>a", "reasoning": flag})
    assert (found.response, found.reasoning) == ("a", "t")
    assert (found.meta, found.unused) == ({"reasoning": flag}, ("reasoning",))
