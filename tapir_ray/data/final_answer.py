r"""Final answer of a text: where it is marked, as a number, and in a form in which equal answers are equal texts.

    final_text(r"So \boxed{\frac{1}{2}}.")         # r"\frac{1}{2}"
    final_number("So it is 6.\n#### 1,042")        # Decimal("1042")
    answer_key("The answer is  Blue.")             # "blue"

A final answer is marked by the last `\boxed{…}` or `####` of the text, else announced by the last "answer:" or "answer
is" of a line.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation

_MARK = re.compile(r"\\boxed\{|^\s*####[ \t]*(?=\S)", re.MULTILINE)
_ANNOUNCED = re.compile(r"\banswer[*_]*\s*(?::|=|\bis\b)[\s*_:]*(\S.*)$", re.MULTILINE | re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ENDS = " .,;:!?\"'`*_$“”‘’"


def final_number(text: str) -> Decimal | None:
    """Returns the number in the last marked place of a text, or the text itself as a number; None if it is not one.

    42, 42.0, $42 and 1,042 (for 1042) are numbers; 42 apples and 1/2 are not.
    """
    marked = _marked(text)
    return _number(text if marked is None else marked)


def final_text(text: str) -> str | None:
    """Returns the marked or announced final answer of a text as it is written; None for a text without one."""
    marked = _marked(text)
    if marked is not None:
        return marked.strip()
    announced = _ANNOUNCED.findall(text)
    return announced[-1].strip() if announced else None


def final_place(text: str) -> int | None:
    """Returns the position of the last mark or announcement of a final answer; None for a text without one."""
    found = list(_MARK.finditer(text)) or list(_ANNOUNCED.finditer(text))
    return found[-1].start() if found else None


def answer_key(text: str) -> str:
    """Returns the final answer of a text, or all of it, in lower case and without punctuation at its ends.

    White space between words is one space. Equal numbers have equal keys: 42, 42.0 and $42.
    """
    found = final_text(text)
    written = text if found is None else found
    number = _number(written)
    if number is not None:
        return f"{number.normalize():f}"
    return " ".join(unicodedata.normalize("NFKC", written).casefold().split()).strip(_ENDS)


def _marked(text: str) -> str | None:
    """Returns the text in the last `\\boxed{}` or after the last `####`; None without such a place."""
    # The last mark counts: earlier ones may be intermediate results.
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    mark, after = marks[-1], text[marks[-1].end() :]
    if not mark.group().endswith("{"):
        return after.partition("\n")[0]
    depth = 1
    for place, letter in enumerate(after):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return after[:place]
    return None


def _number(written: str) -> Decimal | None:
    try:
        number = Decimal(_THOUSANDS.sub("", written.strip().strip("$").removesuffix(".").strip()))
    except InvalidOperation:
        return None
    # Decimal accepts `NaN` and `Infinity`, and 1e999999 would be a million digits.
    return number if number.is_finite() and abs(number.adjusted()) < 1000 else None
