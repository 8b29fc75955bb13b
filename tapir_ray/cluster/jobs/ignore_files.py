"""Applies the rules of `.gitignore` and `.rayignore` files to the entries of a folder.

rules = Rules().with_folder(tree).with_folder(tree / "sub")
rules.leave_out(tree / "sub" / "a.log")        # by the rules of git; a .rayignore wins over a .gitignore
rules.force(tree / "sub" / "secrets.yaml")     # True if a .rayignore has !secrets.yaml
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from tapir_ray.errors import InputError

GIT, RAY = ".gitignore", ".rayignore"


@dataclass(frozen=True)
class IgnoreFile:
    """A `.gitignore` or `.rayignore` file."""

    folder: Path
    spec: GitIgnoreSpec

    def decision(self, entry: Path) -> tuple[bool, str] | None:
        """(True if it ignores the entry, the line that decides); None if no line matches the entry."""
        name = entry.relative_to(self.folder).as_posix()
        # A rule that ends with a slash matches only folders.
        found = self.spec.check_file(f"{name}/" if entry.is_dir() and not entry.is_symlink() else name)
        if found.include is None or found.index is None:
            return None
        return found.include, str(self.spec.patterns[found.index].pattern)


@dataclass(frozen=True)
class Rules:
    """The ignore files that apply to a folder's entries: its own and those of the folders above, deepest first."""

    git: tuple[IgnoreFile, ...] = ()
    ray: tuple[IgnoreFile, ...] = ()

    def with_folder(self, folder: Path) -> Rules:
        """These rules and those of a sub-folder. Raises InputError, with the line, for an invalid rule."""
        git, ray = _read(folder, GIT), _read(folder, RAY)
        return Rules(((git, *self.git) if git else self.git), ((ray, *self.ray) if ray else self.ray))

    def leave_out(self, entry: Path) -> bool:
        """Returns whether the entry is ignored. The last matching rule of the deepest file with one decides."""
        decided = self._decision(self.ray, entry) or self._decision(self.git, entry)
        return decided is not None and decided[0]

    def force(self, entry: Path) -> bool:
        """Returns whether a `.rayignore` includes this entry by its own name, not by a pattern such as `!*.json`."""
        decided = self._decision(self.ray, entry)
        return decided is not None and not decided[0] and decided[1].strip().rstrip("/").endswith(_ends(entry.name))

    @staticmethod
    def _decision(files: tuple[IgnoreFile, ...], entry: Path) -> tuple[bool, str] | None:
        return next((found for file in files if (found := file.decision(entry)) is not None), None)


def _ends(name: str) -> tuple[str, str]:
    return f"!{name}", f"/{name}"


def _read(folder: Path, name: str) -> IgnoreFile | None:
    file = folder / name
    if not file.is_file():
        return None
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}), so the files to leave out are not known: make it readable"
        ) from error
    # Line by line, so that an error names its line.
    lines = [line.removesuffix("\r") for line in lines]
    for number, line in enumerate(lines, start=1):
        try:
            GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error) as error:
            raise InputError(f"{file} line {number} is not a rule of git ({error}): correct it") from error
    return IgnoreFile(folder, GitIgnoreSpec.from_lines(lines))
