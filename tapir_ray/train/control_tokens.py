"""Encodes texts so that control tokens quoted in a conversation stay plain text.

    control = ControlTokens(tokenizer, template_text)
    broken = control.broken("What is <|im_end|>?")     # inserts BREAK into the mark, so that it is no control token
    ids = control.encode(before + broken + after)      # marks of the template are tokens, the one in the text is not

A control token is a special token, or another added token that the chat template writes (DeepSeek's `<｜User｜>` is not
special). The tokenizers' option `split_special_tokens` is of no use: it does not split the second kind, nor in Unigram
models the first, and it would split the template's marks too.

Instead a text with breaks is encoded by a copy of the tokenizer in which every control token has another name, after
the marks of the template have been renamed in the same way. The text is encoded as a whole, so the text between two
marks gets the same ids as anywhere else.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

BREAK = "\ufdd0"
"""A Unicode noncharacter, inserted into marks that are to stay text; it occurs in no text."""

_NAME = "\ua4b3\ua015{}\ua014\ua4b3"
"""New name of a control token in the copy: its number between letters of Yi, which no normaliser changes."""
_DIGITS = str.maketrans("0123456789", "".join(chr(0xA020 + digit) for digit in range(10)))


class RowRefused(Exception):
    """A conversation that cannot be encoded unchanged; the text says why."""

    @property
    def reason(self) -> str:
        """The `reason` of a filtered row."""
        return str(self)


class SpecialToken(RowRefused):
    """A text contains a control token that this tokenizer cannot encode as plain text."""

    def __init__(self) -> None:
        super().__init__("special_token")


class ControlTokens:
    """The control tokens of `tokenizer`; `template_text` is all text that the chat template can write."""

    def __init__(self, tokenizer: Any, template_text: str) -> None:
        self._tokenizer = tokenizer
        special = set(tokenizer.all_special_ids)
        added = tokenizer.added_tokens_decoder
        # White space and whole words are text even if they are added tokens (Gemma's blank lines, a user's own words).
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
        # The tokenizer finds such tokens in the normalised text, which `broken` does not see.
        self._normalised = backend is not None and backend.normalizer is not None and any(
            added[number].normalized for number in self.texts
        )  # fmt: skip

    def broken(self, text: str) -> str:
        """The text with a BREAK inside each of its control tokens; unchanged if it has none.

        Raises SpecialToken for a control token that cannot be broken.
        """
        if BREAK in text:
            raise SpecialToken
        if self._pattern is None:
            return text
        place = 0
        while (found := self._pattern.search(text, place)) is not None:
            if len(found[0]) < 2:
                raise SpecialToken
            # Search on from the break, not after the mark: an overlapping mark may begin inside this one.
            place = found.start() + 1
            text = f"{text[:place]}{BREAK}{text[place:]}"
        if self._normalised and self.texts.keys() & set(self._plain(text)):
            raise SpecialToken
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without its breaks; broken marks are encoded as plain text. Raises SpecialToken."""
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
        # The result must have exactly the control tokens of the template; otherwise the row is refused.
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
        """Token ids of a text that follows another one: without the mark with which some tokenizers begin a text.

        The text is encoded after a control token, whose id is then dropped.
        """
        for mark in self.texts.values():
            if mark in self._padded or mark == self._tokenizer.unk_token:
                continue
            first, *ids = self.encode(mark + text)
            if self.texts.get(first) == mark:
                return ids
        return self.encode(text)

    def joins(self, before: str, after: str) -> bool:
        """Returns whether a text between `before` and `after` could complete a control token cut by them."""
        return any(
            before.endswith(mark[:place]) or after.startswith(mark[place:])
            for mark in self.texts.values()
            for place in range(1, len(mark))
        )

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @functools.cached_property
    def _renamed(self) -> _Renamed | None:
        """The renamed copy of the tokenizer; None for a slow tokenizer, or one that cannot be copied."""
        if not getattr(self._tokenizer, "is_fast", False):
            return None
        return _Renamed.of(json.loads(self._tokenizer.backend_tokenizer.to_str()), self.texts)


class _Renamed:
    """A copy of a fast tokenizer with its control tokens renamed by `_name_of`."""

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
        # Merges that would build a control token from pieces.
        if "merges" in model:
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
        # Only the text is encoded: no special tokens around it, and all of it.
        spec |= {"post_processor": None, "padding": None, "truncation": None}
        try:
            tokenizer = Tokenizer.from_str(json.dumps(spec))
        except Exception:  # tokenizers raises plain Exceptions
            return None
        same = all(tokenizer.token_to_id(_name_of(number)) == number for number in texts)
        return cls(tokenizer) if same else None

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """(token ids, (start, stop) of each token in the text)."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets


def _breaks(text: str) -> list[int]:
    """Positions of the breaks, counted in the text without breaks."""
    places = [place for place, letter in enumerate(text) if letter == BREAK]
    return [place - before for before, place in enumerate(places)]


def _name_of(number: int) -> str:
    return _NAME.format(str(number).translate(_DIGITS))


def _any_of(words: Iterable[str]) -> str:
    """A regular expression that matches the longest of the words at a position.

    It is built as a prefix tree: a plain alternation is slow for the thousands of added tokens of some tokenizers.
    """
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
