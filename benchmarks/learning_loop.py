"""One training of the learning benchmark: the loop of the method in one process, without Ray, vLLM and DeepSpeed.

Plan, pools, quotas, sampling, packing by best fit, loss, optimizer settings and learning rates are the product's own.
Only their surroundings differ: the teacher and the judge are the simulator's functions instead of its server, the
student answers through transformers, and tables are in memory.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tapir_ray.config import Config
from tapir_ray.data.schemas import OK, instruction_id, order_key
from tapir_ray.simulator.families import FAMILIES, LEVELS, grade, understand
from tapir_ray.simulator.judging import scores, verdict
from tapir_ray.simulator.options import Options
from tapir_ray.train.batches import Packed, collate
from tapir_ray.train.chat import IGNORED, end_of_turn, load_tokenizer
from tapir_ray.train.loss import response_loss
from tapir_ray.train.loss_mask import encode
from tapir_ray.train.packed_attention import attend_apart
from tapir_ray.train.weights import load_student
from tapir_ray.transforms.pack import best_fit

ANSWERS_AT_ONCE = 256


@dataclass
class Student:
    """A student in memory, with its tokenizer and the ends of a turn."""

    config: Config
    folder: str
    answers: bool = True
    """False for a student that only trains and measures losses, which then needs half the memory."""
    trained: Any = None
    answering: Any = None
    tokenizer: Any = None

    def __post_init__(self) -> None:
        options = {"dtype": torch.float32, "attn_implementation": "sdpa"}
        self.tokenizer = load_tokenizer(self.folder, self.config.student)
        self.trained = load_student(self.folder, self.config.student, **options)
        if self.answers:
            # Packed attention changes a model for good, so answers come from a second one with the same weights.
            self.answering = load_student(self.folder, self.config.student, **options).eval()
        attend_apart(self.trained)
        self.end = end_of_turn(self.tokenizer, self.config.student.chat_template_kwargs)

    def save(self, folder: str) -> None:
        """Writes the student as a HF folder."""
        self.trained.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def encode(self, row: dict[str, Any]) -> Any:
        """Returns tokens and labels of a training pair, by the product's `encode`."""
        config = self.config
        return encode(self.tokenizer, row["messages"], row["response"], config.student, config.train, self.end)

    def answer(self, instructions: Sequence[str]) -> list[str]:
        """Returns the greedy answers to instructions, in their order."""
        return self._write(self._prompts(instructions), do_sample=False)

    def samples(self, instructions: Sequence[str], count: int, temperature: float, seed: int) -> list[list[str]]:
        """Returns `count` answers to each instruction, sampled from all tokens at `temperature`."""
        prompts = [prompt for prompt in self._prompts(instructions) for _ in range(count)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # The default of transformers is the 50 likeliest tokens.
            how = {"temperature": temperature, "top_k": 0, "top_p": self.config.student.sampling.top_p}
            texts = self._write(prompts, do_sample=True, **how)
        return [texts[at : at + count] for at in range(0, len(texts), count)]

    def count(self, texts: Sequence[str]) -> int:
        """Returns the number of tokens of texts, without ends of turns."""
        times = Counter(texts)
        encoded = self.tokenizer.backend_tokenizer.encode_batch(list(times), add_special_tokens=False)
        return sum(len(one.ids) * n for one, n in zip(encoded, times.values(), strict=True))

    def _prompts(self, instructions: Sequence[str]) -> list[list[int]]:
        return [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
            )
            for text in instructions
        ]

    @torch.no_grad()
    def _write(self, prompts: list[list[int]], **sampling: Any) -> list[str]:
        """Returns an answer to each prompt, in their order."""
        self.answering.load_state_dict(self.trained.state_dict())
        order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
        answers = [""] * len(prompts)
        pad = self.tokenizer.pad_token_id
        for start in range(0, len(order), ANSWERS_AT_ONCE):
            part = order[start : start + ANSWERS_AT_ONCE]
            longest = max(len(prompts[at]) for at in part)
            ids = torch.full((len(part), longest), pad)
            for place, at in enumerate(part):
                ids[place, longest - len(prompts[at]) :] = torch.tensor(prompts[at])
            made = self.answering.generate(
                ids,
                attention_mask=(
                    torch.arange(longest)[None] >= torch.tensor([[longest - len(prompts[at])] for at in part])
                ),
                max_new_tokens=self.config.student.sampling.max_tokens,
                eos_token_id=self.end[0],
                pad_token_id=pad,
                **sampling,
            )
            for place, at in enumerate(part):
                answers[at] = self.tokenizer.decode(made[place, longest:], skip_special_tokens=True)
        return answers

    def train(
        self, pairs: list[dict[str, Any]], sequences: int, seed: int, rates: Callable[[int, int], float]
    ) -> dict[str, Any]:
        """Trains on `sequences` packed sequences of the pairs, as many epochs as they need; returns what was trained.

        `rates` gives the learning rate at (step, steps).
        """
        train = self.config.train
        packed, used = packed_sequences(self, pairs, sequences, seed)
        steps = len(packed) // train.global_batch_size
        model = self.trained.train()
        decayed = [p for p in model.parameters() if p.dim() > 1]
        other = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": other, "weight_decay": 0.0}]
        # The settings of `train/engine.py`.
        optimizer = torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, 0.95), fused=True)
        losses = []
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rates(step, steps)
            batch = collate(
                packed[step * train.global_batch_size : (step + 1) * train.global_batch_size], one_row=False
            )
            in_loss = int((batch["labels"] != IGNORED).sum())
            loss = response_loss(model, batch) / max(1, in_loss)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return {
            "steps": steps,
            "tokens": sum(len(row["input_ids"]) for row in packed),
            "response_tokens": sum(int((row["labels"] != IGNORED).sum()) for row in packed),
            "pairs": sum(used.values()),
            "distinct": len(used),
            "used": names(used, pairs),
            "first_loss": float(np.mean(losses[:10])),
            "last_loss": float(np.mean(losses[-10:])),
        }


def packed_sequences(
    student: Student, pairs: list[dict[str, Any]], sequences: int, seed: int
) -> tuple[list[Packed], dict[str, int]]:
    """Returns exactly `sequences` packed sequences and how often each pair is in them.

    Epochs are ordered and packed as the product does; the last one is cut off where the number is reached.
    """
    encoded = {row["pair_id"]: student.encode(row) for row in pairs}
    usable = sorted(name for name, pair in encoded.items() if pair.in_loss)
    packed: list[Packed] = []
    used: dict[str, int] = {}
    epoch = 0
    while len(packed) < sequences:
        order = sorted(usable, key=lambda name: order_key(name, seed, epoch))
        bins = best_fit([len(encoded[name].input_ids) for name in order], student.config.train.sequence_length)
        # Best fit closes early bins first; a fixed shuffle keeps a cut epoch from losing one kind of row.
        random.Random(f"{seed} {epoch}").shuffle(bins)
        for members in bins[: sequences - len(packed)]:
            rows = [encoded[order[at]] for at in members]
            packed.append(
                {
                    "input_ids": np.concatenate([np.asarray(row.input_ids, np.int64) for row in rows]),
                    "labels": np.concatenate([np.asarray(row.labels, np.int64) for row in rows]),
                    "position_ids": np.concatenate([np.arange(len(row.input_ids)) for row in rows]),
                }
            )
            for at in members:
                used[order[at]] = used.get(order[at], 0) + 1
        epoch += 1
    return packed, used


def names(used: dict[str, int], pairs: list[dict[str, Any]]) -> dict[str, int]:
    """Returns how often each instruction was trained on, from the numbers of its pairs."""
    of = {row["pair_id"]: row["instruction_id"] for row in pairs}
    found: Counter[str] = Counter()
    for name, times in used.items():
        found[of[name]] += times
    return dict(found)


def row_of(instruction: str, response: str) -> dict[str, Any]:
    """Returns an instruction with its answer as a row of the product's tables, with its family and level."""
    found = understand(instruction)
    assert found is not None, instruction
    family, problem = found
    messages = [{"role": "user", "content": instruction}]
    return {
        "instruction_id": instruction_id(messages),
        "messages": messages,
        "response": response,
        "task": family.label,
        "level": problem.level,
        "status": OK,
    }


def holdout(rows: int, seed: int, shares: dict[tuple[str, int], int] | None = None) -> list[dict[str, Any]]:
    """Returns new problems: `rows` uniform over families and levels, or as many of each as `shares` says."""
    found = []
    each = rows // (len(FAMILIES) * len(LEVELS))
    for family in FAMILIES:
        for level in LEVELS:
            rng = random.Random(f"holdout {seed} {family.name} {level} {shares is None}")
            for _ in range(each if shares is None else shares[family.name, level]):
                text = family.generate(level, rng)
                found.append(row_of(text, family.plain(family.parse(text))))
    return list({row["instruction_id"]: row for row in found}.values())


@dataclass(frozen=True)
class Judged:
    """The judge's scores of a row, 1 to 10, the means of both orders, and its replies."""

    teacher_score: float
    student_score: float
    replies: tuple[str, str]


def judged(
    instructions: Sequence[str], teacher: Sequence[str], student: Sequence[str], ids: Sequence[str], options: Options
) -> list[Judged]:
    """Returns the judgement of each row, in both orders of the answers."""
    found = []
    for text, one, other, name in zip(instructions, teacher, student, ids, strict=True):
        grades, answers = [grade(text, one), grade(text, other)], [one, other]
        first = scores(options, f"{name} 0", grades, answers)
        second = scores(options, f"{name} 1", grades[::-1], answers[::-1])
        replies = (verdict(first), verdict(second))
        found.append(Judged((first[0] + second[1]) / 2, (first[1] + second[0]) / 2, replies))
    return found


def score_of(student: Student, rows: list[dict[str, Any]]) -> np.ndarray:
    """Returns the score of the student's answer to each row by a judge without noise, 1 to 10."""
    texts = [row["messages"][-1]["content"] for row in rows]
    answers = student.answer(texts)
    return np.array(
        [scores(Options(), "", [grade(text, answer)], [answer])[0] for text, answer in zip(texts, answers, strict=True)]
    )
