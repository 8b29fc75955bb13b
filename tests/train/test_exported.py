"""The exported folder equals the trained module in its worker, and real vLLM has the prompts of training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from tapir_ray.config import CreateModel, Lora, Student
from tapir_ray.llm.engine.requests import tokenised
from tapir_ray.train import loop
from tapir_ray.train.chat import encode_pair, encode_prompt, load_tokenizer, stop_token_ids
from tapir_ray.train.create_student import create_student
from tests.train.templates import PROMPTS, THINKING
from tests.train.test_student import packed_folder, run

SIZE = CreateModel(
    hidden_size=64, intermediate_size=128, layers=2, heads=2, vocab_size=512, max_length=512, initializer_range=0.07
)
"""Heads of 32, the smallest of vLLM on CPUs; weights large enough to learn the end of an answer in 50 steps."""
NEW_TOKENS = 16
NUMBERS = ["one", "two", "three"]
QUESTIONS = [f"Say {' '.join(NUMBERS[(n // 3**k) % 3] for k in range(1 + n % 4))}, number {n}." for n in range(50)]

ENGINE = """
import json, sys
from vllm import LLM, SamplingParams
def main():
    job = json.loads(open(sys.argv[1]).read())
    llm = LLM(model=job["model"], dtype="float32", max_model_len=512, enforce_eager=True, max_num_seqs=16)
    greedy = SamplingParams(temperature=0.0, max_tokens=job["new_tokens"])
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], greedy)
    one = SamplingParams(temperature=0.0, max_tokens=1)
    chats = [llm.chat(messages, one, **options)[0].prompt_token_ids for messages, options in job["chats"]]
    with open(sys.argv[2], "w") as file:
        json.dump({"answers": [list(output.outputs[0].token_ids) for output in outputs], "chats": chats}, file)
if __name__ == "__main__":
    main()
"""


def begin_texts(folder: str) -> None:
    """Makes the tokenizer of a folder put a token before every text, as Llama's does.

    A template that writes this token too must not give two of them.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = mark = tokenizer.pad_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{mark} $A", special_tokens=[(mark, tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("x")["input_ids"][0] == tokenizer.bos_token_id


def greedy(model: Any, prompts: list[list[int]], stops: list[int] | None = None) -> list[list[int]]:
    """Returns the most likely tokens after each prompt, up to a stop token; None stands for the model's own."""
    model.eval()
    options = {} if stops is None else {"eos_token_id": stops}
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            whole = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                **options,
            )
        answers.append(whole[0, len(prompt) :].tolist())
    return answers


def record_and_train(config: dict[str, Any], prompts: list[list[int]], stops: list[int], file: str) -> None:
    """The worker: it stores answers and logits of its trained module before the export."""
    save = loop.export

    def recorded(engine: Any, *arguments: Any) -> None:
        logits = [engine.module(input_ids=torch.tensor([prompt])).logits[0, -1].tolist() for prompt in prompts]
        Path(file).write_text(json.dumps({"answers": greedy(engine.module, prompts, stops), "logits": logits}))
        save(engine, *arguments)

    loop.export = recorded
    loop.train_worker(config)


def vllm(folder: Path, **job: Any) -> dict[str, Any]:
    """Returns the output of a real engine in a process of its own."""
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-c", ENGINE, str(folder / "job.json"), str(folder / "output.json")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads((folder / "output.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("lora", [None, Lora(rank=8, alpha=16, between_rounds="continue")], ids=["weights", "lora"])
def test_the_exported_folder_answers_like_the_trained_module(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Lora | None
) -> None:
    """Compared in transformers and in vLLM, for 50 prompts.

    vLLM renders the prompt of every template as training did.
    """
    template = tmp_path / "thinking.jinja"
    template.write_text(THINKING)
    base = str(tmp_path / "base")
    create_student(SIZE, ["Say one two three.", "number 1 2 3 4 5 6 7 8 9 0"] * 20, base, None, 0)
    begin_texts(base)
    student = Student(model=base, chat_template=str(template), chat_template_kwargs={"enable_thinking": False})
    tokenizer = load_tokenizer(base, student)
    prompts = [
        encode_prompt(tokenizer, [{"role": "user", "content": question}], student.chat_template_kwargs)
        for question in QUESTIONS
    ]
    file = tmp_path / "module.json"
    stops = stop_token_ids(tokenizer, student.chat_template_kwargs)
    monkeypatch.setattr(
        "tapir_ray.train.student.train_worker", lambda config: record_and_train(config, prompts, stops, str(file))
    )
    (tmp_path / "packed").mkdir()
    packed = packed_folder(base, tmp_path / "packed", student, sequences=200)
    folder = run(base, packed, tmp_path, "exported", workers=1, student=student, lora=lora).checkpoint
    module = json.loads(file.read_text())

    exported = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert AutoTokenizer.from_pretrained(folder).chat_template == THINKING
    assert exported.generation_config.eos_token_id == tokenizer.eos_token_id
    for prompt, logits in zip(prompts, module["logits"], strict=True):
        with torch.no_grad():
            found = exported(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(found, torch.tensor(logits), rtol=1e-4, atol=1e-4)
    assert greedy(exported, prompts) == module["answers"]
    lengths = {len(answer) for answer in module["answers"]}
    assert min(lengths) < NEW_TOKENS, "no answer ended, so no end token was seen to stop one"
    assert len({tuple(answer) for answer in module["answers"]}) > 5, "the answers are all the same"

    cases = list(PROMPTS.values())
    chats = [
        [messages, {"chat_template_kwargs": kwargs, **({} if jinja == THINKING else {"chat_template": jinja})}]
        for jinja, messages, kwargs in cases
    ]
    output = vllm(tmp_path, model=folder, prompts=prompts, new_tokens=NEW_TOKENS, chats=chats)
    assert output["answers"] == module["answers"]
    for number, ((jinja, messages, kwargs), shown) in enumerate(zip(cases, output["chats"], strict=True)):
        own = tmp_path / f"{number}.jinja"  # One file for each template: the stage's worker keeps its tokenizer.
        own.write_text(jinja)
        asked = Student(model=folder, chat_template=str(own), chat_template_kwargs=kwargs)
        trained = encode_pair(load_tokenizer(folder, asked), messages, "It is 7.", kwargs)[0]
        assert (shown[0] == tokenizer.bos_token_id) == ("bos_token" in jinja)
        assert shown[1] != tokenizer.bos_token_id
        assert shown == trained == tokenised({"messages": messages}, folder, asked, 0)["tokenized_prompt"]
