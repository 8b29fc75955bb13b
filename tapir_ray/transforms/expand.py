"""Expand: the teacher writes a new instruction for each draw of a hard row (TAPIR, arXiv 2405.13448).

generated = expand(draws, config, roles)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import ray.data

from tapir_ray.config import Config, Sampling
from tapir_ray.data import schemas
from tapir_ray.data.schemas import Message
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import EMPTY
from tapir_ray.llm.prompts import Prompts
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.judge import seed_of

NO_INSTRUCTION, SOURCE_USED_UP = "no_new_instruction", "source_used_up"
"""Reasons of filtered draws, next to those of a reply (`llm/client/reply.py`)."""

USED_UP_PHRASE = "no recorded rows left"
"""Reply of the `recorded` simulator once it has handed out all of its rows."""

_TAGGED = re.compile(r"<new_instruction>((?:(?!<new_instruction>).)*?)</new_instruction>", re.DOTALL)


def expand(draws: ray.data.Dataset, config: Config, roles: Roles) -> ray.data.Dataset:
    """Returns `draws` (schemas.GENERATED_ROWS with the messages of their parent) with new instructions.

    A new row has an instruction_id of its own, source and split `generated`, no response, and one user turn after the
    parent's system message. A draw without a new instruction has null messages and instruction_id. It is filtered as
    `no_new_instruction`, `empty`, `source_used_up`, `cut_off` or `refused`, or failed with the error of its request.
    """
    sampling = config.teacher.sampling.model_copy(update={"temperature": config.expand.temperature})
    function = ExpandRow(Prompts(config.prompts.dir), sampling)
    return roles.ask(draws, function, schemas.GENERATED_ROWS)


@dataclass(frozen=True)
class ExpandRow:
    """The AskRow of `expand`."""

    prompts: Prompts
    sampling: Sampling

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != schemas.OK:
            return row
        system = [message for message in row["messages"] if message["role"] == "system"][:1]
        # The system message is kept for the new row, but the teacher should vary the user's request alone.
        turns = [message for message in row["messages"] if message["role"] != "system"]
        prompt = self.prompts.render("expand", task=row["task"], instruction=schemas.text_of(turns))
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
        }
        if reply.status != schemas.OK:
            return {**generated, "status": reply.status, "reason": reply.reason}
        text, problem = parse_instruction(reply.text or "")
        if text:
            messages: list[Message] = [*system, {"role": "user", "content": text}]
            generated |= {"messages": messages, "instruction_id": schemas.instruction_id(messages)}
        return generated if problem is None else {**generated, "status": schemas.FILTERED, "reason": problem}


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
