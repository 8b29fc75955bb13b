"""Expand: the teacher writes a new instruction for each draw of a hard row (TAPIR, arXiv 2405.13448).

    generated = expand(draws, config, roles)

`expand.prompt` is what it is asked for: an instruction like the drawn one and `expand.examples`, the drawn one changed
by an operation of Evol-Instruct (arXiv 2304.12244), or one on the student's weakness (EvoKD, arXiv 2403.06414).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import ray.data

from tapir_ray.config import Config, Expand, Sampling
from tapir_ray.data import schemas
from tapir_ray.data.schemas import Message
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import EMPTY
from tapir_ray.llm.prompts import Prompts, text_id
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.judge import share_of
from tapir_ray.transforms.judge_request import seed_of

NO_INSTRUCTION, SOURCE_USED_UP = "no_new_instruction", "source_used_up"
"""Reasons of filtered draws, next to those of a reply (`llm/client/reply.py`)."""

USED_UP_PHRASE = "no recorded rows left"
"""Reply of the `recorded` simulator once it has handed out all of its rows."""

EASIER, HARDER = "easier", "harder"
OPERATIONS = {
    "constraint": "add one more constraint or requirement.",
    "deepen": "if it asks about an issue, ask for more depth and breadth of it.",
    "concretise": "replace general concepts by more specific ones.",
    "reasoning": "if it can be solved by a few simple steps of thought, ask explicitly for more steps.",
    "breadth": "write about a rarer topic of the same domain instead, of similar length and difficulty.",
}
"""Operations of Evol-Instruct (arXiv 2304.12244, section 3.2), in our words."""

_TAGGED = re.compile(r"<new_instruction>((?:(?!<new_instruction>).)*?)</new_instruction>", re.DOTALL)


def expand(draws: ray.data.Dataset, config: Config, roles: Roles) -> ray.data.Dataset:
    """Returns `draws` (schemas.GENERATED_ROWS with the messages of their parent) with new instructions.

    A new row has an instruction_id of its own, source and split `generated`, no response, and one user turn after the
    parent's system message. A draw without a new instruction has null messages and instruction_id. It is filtered as
    `no_new_instruction`, `empty`, `source_used_up`, `cut_off` or `refused`, or failed with the error of its request.
    """
    return roles.ask(draws, ExpandRow.of(config), schemas.GENERATED_ROWS)


@dataclass(frozen=True)
class ExpandRow:
    """The AskRow of `expand`."""

    prompts: Prompts
    sampling: Sampling
    settings: Expand = field(default_factory=Expand)
    random_seed: int = 0

    @classmethod
    def of(cls, config: Config) -> ExpandRow:
        """Returns the AskRow of a config."""
        sampling = config.teacher.sampling.model_copy(update={"temperature": config.expand.temperature})
        return cls(Prompts(config.prompts.dir), sampling, config.expand, config.random_seed)

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != schemas.OK:
            return row
        system = [message for message in row["messages"] if message["role"] == "system"][:1]
        # The system message is kept for the new row, but the teacher should vary the user's request alone.
        turns = [message for message in row["messages"] if message["role"] != "system"]
        prompt, operation = self.prompt_of(row, schemas.text_of(turns))
        reply = await clients["teacher"].chat(
            [{"role": "user", "content": prompt}],
            sampling=self.sampling,
            seed=seed_of(row["draw_id"], "expand"),
            kind="expand",
        )
        generated = {
            **row,
            "split": schemas.GENERATED,
            "source": "generated",
            "response": None,
            "messages": None,
            "masked_turns": None,
            "instruction_id": None,
            "operation": operation,
            "example_ids": row.get("example_ids") or None,
        }
        if reply.status != schemas.OK:
            return {**generated, "status": reply.status, "reason": reply.reason}
        text, problem = parse_instruction(reply.text or "")
        if text:
            messages: list[Message] = [*system, {"role": "user", "content": text}]
            generated |= {"messages": messages, "instruction_id": schemas.instruction_id(messages)}
        return generated if problem is None else {**generated, "status": schemas.FILTERED, "reason": problem}

    def prompt_of(self, row: Row, instruction: str) -> tuple[str, str | None]:
        """Returns the prompt of a draw, and its operation; None for an instruction like the drawn one.

        With `prompt: feedback` a row that the student has not answered is expanded by an instruction like it.
        """
        given = {"task": row["task"], "instruction": instruction}
        if self.settings.prompt == "evolve":
            operation = chosen(row["draw_id"], self.random_seed, self.settings.operations.shares)
            return self.prompts.render("evolve", **given, operation=OPERATIONS[operation]), operation
        student = row.get("student_response")
        if self.settings.prompt == "feedback" and student is not None:
            shares = {EASIER: self.settings.easier_share, HARDER: 1.0 - self.settings.easier_share}
            level = chosen(row["draw_id"], self.random_seed, shares)
            # A verifier gives no reasons, and a table that was scored under another prompt has kept none.
            reasons = row.get("judge_reasons") or "(none)"
            texts = {"answer": row.get("parent_response") or "", "student_answer": student, "reasons": reasons}
            return self.prompts.render("feedback", **given, **texts, level=level), level
        examples = row.get("examples")
        if examples:
            shown = [instruction, *examples]
            tags = text_id(row["task"], *shown)
            return self.prompts.render("expand_examples", task=row["task"], instructions=shown, text_id=tags), None
        return self.prompts.render("expand", **given), None


def chosen(draw: str, random_seed: int, shares: Mapping[str, float]) -> str:
    """Returns the name that a draw gets by the hash of its id: a share s of all draws gets a name of share s."""
    place, name = share_of(schemas.order_key(draw, random_seed, "operation")) * sum(shares.values()), ""
    for name, share in shares.items():
        place -= share
        if share and place < 0.0:
            return name
    # Rounding may leave a place at the very end.
    return next(name for name, share in reversed(list(shares.items())) if share)


def parse_instruction(text: str) -> tuple[str | None, str | None]:
    """Returns (instruction, None) from the last tagged text of a reply, or (None, reason).

    Earlier tagged texts are drafts, or the prompt repeated: `between <new_instruction> and </new_instruction>`.
    """
    found = _TAGGED.findall(text)
    instruction = next((one.strip() for one in reversed(found) if one.strip()), None)
    if instruction:
        return instruction, None
    rest = " ".join(_TAGGED.sub("", text).split())
    if USED_UP_PHRASE in rest.lower():
        return None, SOURCE_USED_UP
    return None, f"{EMPTY if found else NO_INSTRUCTION}: {rest[:200]}".removesuffix(": ")
