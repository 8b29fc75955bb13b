"""Parser of the scores in a judge's free-text reply; no scores if they are in doubt.

    parse_scores("Both are right.\nScores: 8 6", 2)     # (8.0, 6.0)
    parse_scores("Score: 7-8", 1)                       # None: the judge is asked again

A wrong score does more harm than a repeated question, so every doubt gives None. An answer may try to inject scores,
and a reply may quote it. So thoughts and quotations never hold the verdict, and a code block only if nothing else does.
Of several verdicts the last one counts, because the prompts ask for it at the end.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tapir_ray.transforms.scores_json import NUMBER, PLACES, Scores, complete, decoder, in_range, of_json
from tapir_ray.transforms.unquoted import (
    BLOCK,
    FENCE,
    PLAIN,
    QUOTED,
    Line,
    announces,
    before,
    ends_reply,
    lines_of,
    quotes,
)

_OF_TEN = r"(\d{1,2}(?:\.\d+)?)\s*(?:/|out\s+of)\s*10(?:\.0+)?(?![\w.]*\d)"
_BETWEEN = r"(?:\s*(?:,|;|\||&|\band\b|和|与|與)\s*|\s+)"
_DECIMAL_COMMA = re.compile(r"(?<![\d./])\d{1,2},\d{1,2}(?![\d.])")
_MARKS = str.maketrans({mark: " " for mark in "*_`<>[](){}\"'"})
_SOME_MARKS = str.maketrans({mark: " " for mark in "*_`<>[]{}\"'"})

_LABEL = re.compile(
    r"^[\s*_#\-•`]*(?:(?:my|the|final|overall|new|revised|updated|corrected|adjusted|amended|edit|correction)[\s:*_]+)*"
    r"(?:scores?|ratings?|verdict|评分|評分|得分|分数|分數|打分|スコア|評価|점수)"
    r"(?:\s*\([^()]*\))?[\s*_`]*[:=](?P<rest>.*)$",
    re.IGNORECASE,
)
_DRAFT = re.compile(
    r"\?|\b(?:would|could|might|if|unless|instead|example|e\.g)\b"
    r"|\b(?:draft|initial(?:ly)?|tentative(?:ly)?|provisional(?:ly)?|preliminary|at first)\b",
    re.IGNORECASE,
)
"""Words that make a score line a draft: `Scores: 10 10 would be too much`."""
_TAKEN_BACK = re.compile(
    r"^\W*(?:actually|wait|hm+|oops|correction|edit|on (?:second|further|closer|reflection)|i (?:take|swapped|mixed)"
    r"|i (?:must|should|would|need to|have to|want to) (?:revise|correct|change|lower|raise|amend)"
    r"|let me (?:revise|correct|change|reconsider|re-?evaluate|redo))\b"
    r"|\b(?:new|revised|updated|corrected|adjusted|amended) (?:scores?|ratings?|verdict)\b",
    re.IGNORECASE,
)
"""Beginning of a line that takes back the verdict above it: `Wait, I swapped the answers.`"""
_LISTED = re.compile(r"^[^(\[]*\d\s*[)\]]|[(\[]\s*\d+\s*[)\]][\s:=.]*\d")
"""Brackets around the number of an answer, not around a score: `1) 8`, `(1) 8`."""
_ASIDE = re.compile(r"\((?![^()]*(?:draft|initial|tentative|provisional|preliminary|at first))[^()]*\)", re.IGNORECASE)
_ITEM = re.compile(
    r"(?:\b(?:score|rating)s?\s+(?:of|for)\s+)?(?:\bthe\s+)?"
    r"(?:\b(?P<word>answer|assistant|response|model|score|rating)\s*#?\s*(?P<name>[12ab])\b"
    r"|\b(?P<ordinal>first|second)\s+(?:answer|assistant|response))"
    r"(?:\s*'?s\b)?(?P<scored>\s+(?:score|rating))?\s*[:=|]\s*",
    re.IGNORECASE,
)
_ITEM_SCORE = re.compile(NUMBER + r"(?=\s*$|\s*[.,;|/&]|\s*\band\b|\s+[(–—-]|\s*:\s)", re.IGNORECASE)
_SOME_NUMBER = re.compile(r"\s*[+-]?\d")
_CERTAIN = re.compile(r"score|rating|/\s*10|out\s+of", re.IGNORECASE)
_JSON_TRIES = 20


@dataclass(frozen=True)
class _Verdict:
    """Candidate for the scores of a reply, with its first and last line."""

    scores: Scores | None
    """None if they cannot be read."""
    first: int
    last: int
    labelled: bool = False
    """True on a line of the judge's own words that begins with `Scores:`. Only these count before the last line."""
    certain: bool = False
    """True for lines without that label which hold nothing but scores."""


def parse_scores(text: str, count: int) -> Scores | None:
    """Returns the `count` (1 or 2) scores of a reply, each from 1 to 10; None if there are none or they are in doubt.

    Reads a line `Scores: a b` (also `Rating`, `評分` and others), `[[a]] [[b]]`, `a/10 and b/10`, lines or table rows
    such as `Assistant 1: a`, and JSON, all with full-width digits and colons as well. In doubt are ranges, decimal
    commas, more or fewer numbers than `count`, a score outside 1 to 10, and verdicts that disagree without a clear last
    one.
    """
    lines = lines_of(_plain_digits(text))
    rest = "\n".join(line.text for line in lines if line.kind not in (FENCE, QUOTED)).strip()
    if not rest.startswith("{"):
        return _decided(_verdicts(lines, count), lines)
    try:
        found, end = decoder().raw_decode(rest)
    except (ValueError, RecursionError):
        return None
    scores, prose = of_json(found, count), rest[end:]
    lines = lines_of(prose)
    if _is_taken_back(lines):
        return None
    if not re.search(r"\d", prose):
        return scores
    others = _verdicts(lines, count)
    return scores if not others or _decided(others, lines) == scores else None


def _plain_digits(text: str) -> str:
    """Returns the text with digits of every script and full-width punctuation as ASCII."""
    if text.isascii():
        return text
    return "".join(map(_plain, text))


def _plain(sign: str) -> str:
    if sign in "，،、":
        return ", "
    if "\uff01" <= sign <= "\uff5e":
        return chr(ord(sign) - 0xFEE0)
    if unicodedata.category(sign) == "Nd":
        return str(unicodedata.decimal(sign))
    if unicodedata.category(sign) in ("Zs", "Cf"):
        return " " if unicodedata.category(sign) == "Zs" else ""
    return {"٫": ".", "﹕": ":", "∶": ":", "−": "-", "‑": "-"}.get(sign, sign)


def _decided(verdicts: Sequence[_Verdict], lines: Sequence[Line]) -> Scores | None:
    """Returns the scores that the candidates, in the order of their lines, leave no doubt about; None otherwise."""
    labelled = [one for one in verdicts if one.labelled]
    others = [one for one in verdicts if not one.labelled and (one.certain or ends_reply(lines, one.last))]
    if verdicts and _is_taken_back(lines[verdicts[-1].last + 1 :]):
        return None
    if not labelled:
        only = {one.scores for one in others}
        shown = others and before(lines, others[-1].first)
        return None if len(only) != 1 or (shown and quotes(shown)) else only.pop()
    last = labelled[-1]
    lead = before(lines, last.first)
    if quotes(lead) and announces(lead):
        return None
    if any(one.scores not in (None, last.scores) for one in labelled) and (
        quotes(lead) or not ends_reply(lines, last.last)
    ):
        return None
    return None if any(one.first > last.last and one.scores != last.scores for one in others) else last.scores


def _is_taken_back(lines: Sequence[Line]) -> bool:
    """Returns True if the judge takes its verdict back in the `lines` after it."""
    return any(line.kind == PLAIN and _TAKEN_BACK.search(line.text) for line in lines)


def _verdicts(lines: Sequence[Line], count: int) -> list[_Verdict]:
    counted = lines
    if not _only_scores(lines):
        counted = [Line(line.text, QUOTED) if line.kind == BLOCK else line for line in lines]
    found = [*_lines_of_scores(counted, count), *_items(counted, count), *_json_at_the_end(lines, count)]
    return sorted(found, key=lambda one: one.last)


def _lines_of_scores(lines: Sequence[Line], count: int) -> Iterator[_Verdict]:
    """Yields verdicts on one line: with a label, or of nothing but `[[a]]` or `a/10`."""
    for at, line in enumerate(lines):
        text = _row(line.text)
        if line.kind in (QUOTED, FENCE) or not text.strip():
            continue
        label = _LABEL.match(text)
        if label is None:
            scores = _bare(text, count)
            if scores is not None:
                yield _Verdict(scores, at, at)
            continue
        rest, last = label["rest"], at
        if not re.search(r"\w", rest):
            rest, last = _continued(lines, at, count)
        if not re.search(r"\d", rest):
            continue
        scores = None if _DRAFT.search(_ASIDE.sub("", rest)) else _in_row(rest, count)
        if line.kind == PLAIN:
            yield _Verdict(scores, at, last, labelled=True)
        else:
            yield _Verdict(scores, at, last)


def _continued(lines: Sequence[Line], at: int, count: int) -> tuple[str, int]:
    """Returns the text below a label that is alone on its line, up to `count` scores, and its last line."""
    shown = list(islice((below for below in range(at + 1, len(lines)) if lines[below].text.strip()), count + 1))
    texts: list[str] = []
    for number, below in enumerate(shown[:count], start=1):
        if lines[below].kind != lines[at].kind:
            break
        texts.append(re.sub(rf"^[\s*_#\-•(\[]*{number}[*_]*[)\]:.]+[*_]*\s+", "", _row(lines[below].text)))
        if _in_row(" ; ".join(texts), count) is not None:
            after = shown[number:]
            if after and len(texts) == 1 < count and _in_row(_row(lines[after[0]].text), count) is not None:
                break  # two rows of scores
            return " ; ".join(texts), below
    return "", at


def _in_row(rest: str, count: int) -> Scores | None:
    """Returns `count` scores at the beginning of a text without other numbers, or by name as in `answer 1: 8`."""
    if count > 1 and (named := _named(rest)):
        return complete(named, count)
    if _DECIMAL_COMMA.search(rest) or (count > 1 and _LISTED.search(rest)):
        return None
    found = re.match(r"\s*" + _BETWEEN.join([NUMBER] * count) + r"(?P<after>.*)$", rest.translate(_MARKS), re.A | re.I)
    if not found or not _harmless(found["after"]):
        return None
    return in_range(found.groups()[:count])


def _harmless(after: str) -> bool:
    """Returns True if the text after a score does not change it: no number, `%`, `+`, fraction or `-ish`.

    `= perfect` and `means perfect` only explain the scale.
    """
    if re.match(
        r"\s*[%‰+^°~=]|[-–—/]\S|\s*(?:or|to|minus|plus|less|(?:would )?(?:mean|indicate|denote|represent)s?)\b",
        after,
        re.IGNORECASE,
    ):
        return False
    return not any(sign.isdigit() or unicodedata.category(sign) == "No" for sign in after)


def _bare(text: str, count: int) -> Scores | None:
    """Returns the `count` scores of a line that holds nothing but `[[8]]` or `8/10`."""
    for one, kept in ((r"\[\[\s*(\d{1,2}(?:\.\d+)?)\s*\]\]", text), (_OF_TEN, text.translate(_MARKS))):
        found = re.fullmatch(r"[\s*_#\-•]*" + _BETWEEN.join([one] * count) + r"[\s*_.]*", kept, re.A | re.I)
        if found and not _DECIMAL_COMMA.search(text):
            return in_range(found.groups())
    return None


def _items(lines: Sequence[Line], count: int) -> list[_Verdict]:
    """Returns the verdict of lines such as `Assistant 1: 8`; its scores are None unless each answer has exactly one."""
    if count < 2:
        return []
    named: dict[int, set[float | None]] = {}
    places: list[int] = []
    certain = True
    for at, line in enumerate(lines):
        text = _row(line.text)
        if line.kind in (QUOTED, FENCE) or _LABEL.match(text) or not (found := _named(text)):
            continue
        for place, score in found:
            named.setdefault(place, set()).add(score)
        places.append(at)
        certain &= _CERTAIN.search(text) is not None
    if not named:
        return []
    scores = complete([(place, score) for place, of in named.items() for score in of], count)
    filled = [at for at, line in enumerate(lines) if re.search(r"\w", line.text)]
    names_assistants = all(re.search("assistant|model", lines[at].text, re.IGNORECASE) for at in places)
    if not certain and not names_assistants and filled != places:
        return []  # `Answer 1: 8` may as well repeat what the answer says
    return [_Verdict(scores, places[0], places[-1], certain=certain)]


def _named(text: str) -> list[tuple[int, float | None]]:
    """Returns (place of the answer, its score or None) for each name followed by a number in a line; [] for prose."""
    text = text.translate(_SOME_MARKS)
    found: list[tuple[int, float | None]] = []
    end = 0
    for name in _ITEM.finditer(text):
        if re.search(r"\w", re.sub(r"\band\b", "", text[end : name.start()], flags=re.IGNORECASE)):
            return []
        number = _ITEM_SCORE.match(text, name.end())
        if number is None and not _SOME_NUMBER.match(text, name.end()):
            return []
        score = None if number is None or _DECIMAL_COMMA.search(text) else float(number[1])
        found.append((PLACES[(name["name"] or name["ordinal"]).lower()], score))
        end = number.end() if number else name.end()
    return found if not found or _harmless(text[end:]) else [(place, None) for place, _ in found]


def _row(text: str) -> str:
    """Returns a row of a table as a line: `_row("| Assistant 1 | 8 |")  # "Assistant 1: 8"`."""
    bare = text.strip()
    if not (bare.startswith("|") and bare.endswith("|") and len(bare) > 1):
        return text
    first, *cells = bare.strip("|").split("|")
    return f"{first.strip()}: {' '.join(cell.strip() for cell in cells)}"


def _only_scores(lines: Sequence[Line]) -> bool:
    """Returns True unless a code block at the end holds anything but lines of scores."""
    texts = [_row(line.text) for line in lines if line.kind == BLOCK and line.text.strip()]
    return all(_LABEL.match(text) or _ITEM.search(text) or _bare(text, 1) or _bare(text, 2) for text in texts)


def _json_at_the_end(lines: Sequence[Line], count: int) -> Iterator[_Verdict]:
    """Yields the verdict of a JSON object that ends the reply."""
    shown = [at for at, line in enumerate(lines) if line.kind not in (FENCE, QUOTED) and line.text.strip()]
    begins = [at for at in shown if lines[at].text.lstrip().startswith("{")]
    for at in reversed(begins[-_JSON_TRIES:]):
        try:
            found = decoder().decode("\n".join(lines[below].text for below in shown if below >= at))
        except (ValueError, RecursionError):
            continue
        yield _Verdict(of_json(found, count), at, shown[-1])
        return
