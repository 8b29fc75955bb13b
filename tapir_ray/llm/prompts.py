"""The prompts sent to teacher and judge: Jinja files beside this module, each of which a run may replace.

They are rendered in a sandbox (`llm/sandbox.py`).

prompts = Prompts(override_dir)          # files of the same name in the folder win
prompts.render("expand", task="Math", instruction="…")

Texts that somebody else wrote stand between tags with an id, as in `<answer_1 id=9f3c02b7>`, which none of them
holds: no answer can close its own tag, or open another one.
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
NAMES = tuple(sorted(path.stem for path in SHIPPED.glob("*.jinja")))


class Prompts:
    """The run's prompts by name. Pickles as its folder's name, so it travels to workers."""

    def __init__(self, override_dir: str | None = None) -> None:
        """Raises InputError for a folder that is missing, or a prompt in it that has no use or cannot be rendered."""
        self.override_dir = override_dir
        folders = [SHIPPED]
        if override_dir is not None:
            folder = Path(override_dir)
            if not folder.is_dir():
                raise InputError(f"prompts.dir {override_dir} is not a folder")
            unknown = sorted(path.name for path in folder.glob("*.jinja") if path.stem not in NAMES)
            if unknown:
                raise InputError(f"prompts.dir {override_dir} has {unknown[0]}; the prompts are {', '.join(NAMES)}")
            folders.insert(0, folder)
        self._environment = sandbox.environment(folders)
        if override_dir is not None:
            for name in NAMES:
                self._check(name, Path(override_dir) / f"{name}.jinja")

    def __reduce__(self) -> tuple[type[Prompts], tuple[str | None]]:
        return Prompts, (self.override_dir,)

    def render(self, name: str, **values: object) -> str:
        """The text of a prompt; `text_id` need not be given. Raises jinja2.UndefinedError for a value the file uses and
        the caller lacks."""
        values.setdefault("text_id", text_id(*(str(value) for value in values.values())))
        return self._environment.get_template(f"{name}.jinja").render(**values).strip()

    def _check(self, name: str, file: Path) -> None:
        """Raises InputError for a prompt that cannot be rendered or that, in any of its branches, uses what it is not
        given or what the sandbox forbids."""
        known = used = variables(name)
        try:
            if found := sandbox.forbidden(self._environment, f"{name}.jinja"):
                place, line, what = found
                raise InputError(
                    f"prompt {place} line {line} uses {what}, which a prompt may not: it reads the values that it is "
                    "given, and changes none of them; take it out"
                )
            if file.exists():
                used = frozenset(jinja2.meta.find_undeclared_variables(self._environment.parse(file.read_text())))
            self.render(name, **{value: [value] if value == "labels" else value for value in known | used})
        except InputError:
            raise
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"prompt {file} line {error.lineno}: {error.message}") from error
        except Exception as error:
            # A template may do anything; whatever it raises is its author's to mend.
            raise InputError(f"prompt {file} cannot be rendered: {one_line(error)}") from error
        if unknown := sorted(used - known):
            raise InputError(f"prompt {file} uses {unknown[0]}; what it is given is {', '.join(sorted(known))}")


def text_id(*texts: str) -> str:
    """An id that none of the texts holds: 8 hex digits, the same for the same texts, so that a cache knows the prompt.

    It is a hash of all texts, which nobody can foresee in one of them.
    """
    lowered = [text.lower() for text in texts]
    for number in itertools.count():
        digest = hashlib.blake2b(digest_size=4, person=b"tapir text id")
        for text in (str(number), *texts):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        if not any(digest.hexdigest() in text for text in lowered):
            return digest.hexdigest()
    raise AssertionError("a text holds finitely many ids")


@functools.cache
def variables(name: str) -> frozenset[str]:
    """The values that a prompt is given: those that the shipped file of this name uses."""
    return frozenset(
        jinja2.meta.find_undeclared_variables(jinja2.Environment().parse((SHIPPED / f"{name}.jinja").read_text()))
    )
