"""Control tokens of a tokenizer, and texts in which they stay text.

    control = ControlTokens(tokenizer, template_text)
    broken = control.broken("What is <|im_end|>?")     # with BREAK inside the mark, so that nothing takes it for one
    ids = control.encode(before + broken + after)      # the marks of the template are tokens, that of the text is not

A control token is a special token, or another added token that the chat template itself writes (DeepSeek's
`<｜User｜>` is not special). A tokenizer's own option `split_special_tokens` splits neither the second kind nor, in a
Unigram model, the first, and it would split the template's marks as well. So a text with breaks is encoded by a copy of
the tokenizer in which the control tokens have other names, after the template's marks were renamed alike. The text is
still encoded as one: what stands between two marks has the ids that it would have in any other text.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

BREAK = "\ufdd0"
"""A code point that Unicode keeps out of texts, inside a mark that is text."""

_NAME = "\ua4b3\ua015{}\ua014\ua4b3"
"""The other name of a control token: letters of Yi, which no normaliser changes, around its number."""
_DIGITS = str.maketrans("0123456789", "".join(chr(0xA020 + digit) for digit in range(10)))


class RowRefused(Exception):
    """A conversation that cannot be shown to the student as it is; the text says why."""

    @property
    def reason(self) -> str:
        """The `reason` of a filtered row."""
        return str(self)


class SpecialToken(RowRefused):
    """A text holds a control token that this tokenizer cannot write as text."""

    def __init__(self) -> None:
        super().__init__("special_token")


class ControlTokens:
    """The control tokens of `tokenizer`, of which the chat template writes what is in `template_text`."""

    def __init__(self, tokenizer: Any, template_text: str) -> None:
        self._tokenizer = tokenizer
        special = set(tokenizer.all_special_ids)
        added = tokenizer.added_tokens_decoder
        # White space and whole words are text also where they are added tokens (Gemma's blank lines, a user's own).
        self.texts: dict[int, str] = {
            number: token.content
            for number, token in sorted(added.items())
            if token.content.strip()
            and (
                token.special
                or number in special
                or (token.content in template_text and re.search(r"[^\w\s]", token.content))
            )
        }
        self._padded = {token.content for token in added.values() if token.lstrip or token.rstrip or token.single_word}
        self._pattern = re.compile(_any_of(self.texts.values())) if self.texts else None
        backend = getattr(tokenizer, "backend_tokenizer", None)
        # Such a token is found in the normalised text, in which this module does not look.
        self._normalised = backend is not None and backend.normalizer is not None and any(
            added[number].normalized for number in self.texts
        )  # fmt: skip

    def broken(self, text: str) -> str:
        """The text with a BREAK inside each control token in it; itself if there is none.

        Raises SpecialToken for one that cannot be broken.
        """
        if BREAK in text:
            raise SpecialToken
        if self._pattern is None:
            return text
        place = 0
        while (found := self._pattern.search(text, place)) is not None:
            if len(found[0]) < 2:
                raise SpecialToken
            # Not after the mark: one that overlaps with it may begin inside.
            place = found.start() + 1
            text = f"{text[:place]}{BREAK}{text[place:]}"
        if self._normalised and self.texts.keys() & set(self._plain(text)):
            raise SpecialToken
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without its breaks, at which no control token is. Raises SpecialToken."""
        if BREAK not in text:
            return self._plain(text)
        copy = self._renamed
        if copy is None:
            raise SpecialToken
        shown = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        named, wanted, last = "", [], 0
        for number, (start, stop) in zip(shown["input_ids"], shown["offset_mapping"], strict=True):
            mark = self.texts.get(number)
            if mark is None:
                continue
            within = text.find(mark, start, stop)
            if within < 0:
                if number == self._tokenizer.unk_token_id:
                    continue
                raise SpecialToken
            named += text[last:within] + _name_of(number)
            last = within + len(mark)
            wanted.append(number)
        named += text[last:]
        ids, spans = copy.encode(named.replace(BREAK, ""))
        unknown = self._tokenizer.unk_token_id
        if [number for number in ids if number in self.texts and number != unknown] != [
            number for number in wanted if number != unknown
        ]:
            raise SpecialToken
        if unknown is not None and unknown in ids and any(
            start <= place <= stop
            for place in _breaks(named)
            for number, (start, stop) in zip(ids, spans, strict=True)
            if number == unknown
        ):  # fmt: skip
            raise SpecialToken
        return ids

    def encode_after(self, text: str) -> list[int]:
        """Token ids of a text that follows another one: tokenizers that mark the beginning of a text do not here."""
        for mark in self.texts.values():
            if mark in self._padded or mark == self._tokenizer.unk_token:
                continue
            first, *ids = self.encode(mark + text)
            if self.texts.get(first) == mark:
                return ids
        return self.encode(text)

    def joins(self, before: str, after: str) -> bool:
        """Whether a text between these two could complete a control token that begins or ends in them."""
        return any(
            before.endswith(mark[:place]) or after.startswith(mark[place:])
            for mark in self.texts.values()
            for place in range(1, len(mark))
        )

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @functools.cached_property
    def _renamed(self) -> _Renamed | None:
        """None for a tokenizer that is not a fast one, or cannot be copied."""
        if not getattr(self._tokenizer, "is_fast", False):
            return None
        return _Renamed.of(json.loads(self._tokenizer.backend_tokenizer.to_str()), self.texts)


class _Renamed:
    """A copy of a fast tokenizer in which control tokens have the names of `_name_of`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, spec: dict[str, Any], texts: Mapping[int, str]) -> _Renamed | None:
        from tokenizers import Tokenizer

        names = {text: _name_of(number) for number, text in texts.items()}
        model = spec["model"]
        for token in spec["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        vocab = model["vocab"]
        if isinstance(vocab, dict):
            model["vocab"] = {names.get(piece, piece): number for piece, number in vocab.items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if "merges" in model:
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
        spec |= {"post_processor": None, "padding": None, "truncation": None}
        try:
            tokenizer = Tokenizer.from_str(json.dumps(spec))
        except Exception:  # its only kind of error
            return None
        same = all(tokenizer.token_to_id(_name_of(number)) == number for number in texts)
        return cls(tokenizer) if same else None

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and of each token its place in the text."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets


def _breaks(text: str) -> list[int]:
    """Where the breaks are, in the text without them."""
    places = [place for place, letter in enumerate(text) if letter == BREAK]
    return [place - before for before, place in enumerate(places)]


def _name_of(number: int) -> str:
    return _NAME.format(str(number).translate(_DIGITS))


def _any_of(words: Iterable[str]) -> str:
    """A pattern that finds the longest of the words at a place; as a tree, since a tokenizer may have thousands."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}

    def pattern(node: dict[str, Any]) -> str:
        branches = [re.escape(letter) + pattern(after) for letter, after in node.items() if letter]
        if not branches:
            return ""
        return f"(?:{'|'.join(branches)}){'?' if '' in node else ''}"

    return pattern(tree)
