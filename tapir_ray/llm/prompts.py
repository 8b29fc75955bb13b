"""The prompts sent to teacher and judge: Jinja files beside this module, each of which a run may replace.

prompts = Prompts(override_dir)          # files of the same name in the folder win
prompts.render("expand", task="Math", instruction="…")
"""

from __future__ import annotations

from pathlib import Path

import jinja2

from tapir_ray.errors import InputError

SHIPPED = Path(__file__).parent / "prompts"
NAMES = tuple(sorted(path.stem for path in SHIPPED.glob("*.jinja")))


class Prompts:
    """The run's prompts by name. Pickles as its folder's name, so it travels to workers."""

    def __init__(self, override_dir: str | None = None) -> None:
        """Raises InputError for a folder that is missing, or that holds a prompt of an unknown name or bad syntax."""
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
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined, autoescape=False
        )
        for name in NAMES:
            try:
                self._environment.get_template(f"{name}.jinja")
            except jinja2.TemplateSyntaxError as error:
                raise InputError(f"prompt {name}.jinja line {error.lineno}: {error.message}") from error

    def __reduce__(self) -> tuple[type[Prompts], tuple[str | None]]:
        return Prompts, (self.override_dir,)

    def render(self, name: str, **values: object) -> str:
        """The text of a prompt. Raises jinja2.UndefinedError for a value the file uses and the caller lacks."""
        return self._environment.get_template(f"{name}.jinja").render(**values).strip()
