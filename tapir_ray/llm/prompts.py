"""Prompts for the teacher and the judge: Jinja files in `llm/prompts/`, each of which a run may replace.

    prompts = Prompts(override_dir)          # a file of the same name in this folder replaces the shipped one
    prompts.render("expand", task="Math", instruction="…")

Prompts are rendered in a sandbox (`llm/sandbox.py`). Instructions and answers are put between tags with an id, such as
`<answer_1 id=9f3c02b7>`. No text in the prompt contains this id, so an answer can neither close its tag nor open one.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from pathlib import Path

import jinja2
import jinja2.meta

from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.llm import sandbox

SHIPPED = Path(__file__).parent / "prompts"
LISTS = ("labels", "steps", "instructions")
"""Variables of prompts that are lists of texts."""
NAMES = tuple(sorted(path.stem for path in SHIPPED.glob("*.jinja")))


class Prompts:
    """Prompts of a run by name. Pickles as the name of its folder, so that it can be sent to workers."""

    def __init__(self, override_dir: str | None = None) -> None:
        """Raises InputError if the folder is missing, or a prompt in it is unknown or cannot render."""
        self.override_dir = override_dir
        folders = [SHIPPED]
        if override_dir is not None:
            folder = Path(override_dir)
            if not folder.is_dir():
                raise InputError(f"prompts.dir {override_dir} is not a folder; name a folder with .jinja files")
            unknown = sorted(path.name for path in folder.glob("*.jinja") if path.stem not in NAMES)
            if unknown:
                raise InputError(
                    f"prompts.dir {override_dir} has {unknown[0]}, which is not the name of a prompt; rename it to one "
                    f"of {', '.join(NAMES)}, or take it out"
                )
            folders.insert(0, folder)
        self._environment = sandbox.environment(folders)
        if override_dir is not None:
            for name in NAMES:
                self._check(name, Path(override_dir) / f"{name}.jinja")

    def __reduce__(self) -> tuple[type[Prompts], tuple[str | None]]:
        return Prompts, (self.override_dir,)

    def render(self, name: str, **values: object) -> str:
        """Renders a prompt to text; `text_id` is computed from the values unless it is given.

        Raises jinja2.UndefinedError for a variable of the prompt that is not among `values`.
        """
        values.setdefault("text_id", text_id(*(str(value) for value in values.values())))
        return self._environment.get_template(f"{name}.jinja").render(**values).strip()

    def _check(self, name: str, file: Path) -> None:
        """Raises InputError for a prompt that cannot be rendered, has an unknown variable or uses a forbidden name.

        All branches of the prompt are checked, not only those that the trial rendering reaches.
        """
        known = used = variables(name)
        try:
            if found := sandbox.forbidden(self._environment, f"{name}.jinja"):
                place, line, what = found
                raise InputError(
                    f"prompt {place} line {line} uses {what}, which prompts must not use: they may only read their "
                    "variables; take it out"
                )
            if file.exists():
                used = frozenset(jinja2.meta.find_undeclared_variables(self._environment.parse(file.read_text())))
            # Every variable gets its own name as a sample value. Only LISTS are lists: prompts loop over them.
            self.render(name, **{value: [value] if value in LISTS else value for value in known | used})
        except InputError:
            raise
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"prompt {file} line {error.lineno}: {error.message}") from error
        except Exception as error:
            # A template can raise any exception (a division by zero, a wrong filter); its author has to fix it.
            raise InputError(f"prompt {file} cannot be rendered: {one_line(error)}") from error
        if unknown := sorted(used - known):
            raise InputError(f"prompt {file} uses {unknown[0]}; its variables are {', '.join(sorted(known))}")


def text_id(*texts: str) -> str:
    """Returns 8 hex digits that occur in none of the texts; the same texts give the same id, so the cache finds them.

    The id is a hash over all texts, so the author of one text cannot predict it.
    """
    lowered = [text.lower() for text in texts]
    for number in itertools.count():
        digest = hashlib.blake2b(digest_size=4, person=b"tapir text id")
        for text in (str(number), *texts):
            # Datasets and replies contain lone surrogates, which plain UTF-8 refuses.
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        if not any(digest.hexdigest() in text for text in lowered):
            return digest.hexdigest()
    raise AssertionError("a text contains finitely many ids")


@functools.cache
def variables(name: str) -> frozenset[str]:
    """Returns the variables of a prompt: those that the shipped file of this name uses."""
    return frozenset(
        jinja2.meta.find_undeclared_variables(jinja2.Environment().parse((SHIPPED / f"{name}.jinja").read_text()))
    )
