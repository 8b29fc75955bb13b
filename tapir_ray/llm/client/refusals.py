"""Heuristic for English answers that are only a refusal, by the wording of chat models.

if is_refusal(reply.text): ...

It looks at the first words of a short answer, and misses a refusal rather than drop an answer. "I'm sorry, but I can't
help with that." is a refusal. An apology to a customer or "I cannot emphasize enough" is not.
"""

from __future__ import annotations

import re

LONGEST = 400
"""Most characters of a refusal; longer texts mostly go on to an answer."""

_SORRY = (
    r"(?:(?:i'm|i am)(?: so| very| really)? (?:sorry|afraid)|sorry|i apologi[sz]e|my apologies|unfortunately)"
    r"[,.;:!]?(?: but)?(?: that)? "
)
_CANNOT = (
    r"(?:i(?:'m| am) (?:unable|not able) to|i (?:can't|cannot|can not|won't|will not|must decline to|decline to))"
    r"(?: [a-z]+ly)?"
)
_LACK = (
    r"i (?:don't|do not|lack) (?:have )?(?:the (?:ability|capability)|access) to"
    r"|i(?:'m| am) not (?:capable of|programmed to|designed to|allowed to|permitted to)"
)
_AI = (
    r"as an? (?:(?:responsible|helpful|large|text-based|virtual) )*"
    r"(?:ai(?: language)?(?: (?:model|assistant|chatbot))?|language model|artificial intelligence)(?: \([a-z]+\))?,? "
)
_FIGURE_OF_SPEECH = r"(?! (?:emphasi[sz]e|stress|overstate|help but|wait|be|agree|recommend|believe|express))"
_REQUEST = r"(?:this|that|your|such an?) (?:specific |particular )?(?:request|question|task|topic)"
_END = r"(?= ?(?:[.,;:!]|$| (?:as|because|since|at)\b))"

_REFUSAL = re.compile(
    rf"(?:{_SORRY})?(?:"
    rf"{_AI}(?:{_CANNOT}{_FIGURE_OF_SPEECH}|{_LACK})"
    rf"|{_CANNOT} (?:(?:help|assist)(?: you)? with|comply with|fulfill?) (?:that|this|{_REQUEST}){_END}"
    rf"|{_CANNOT} (?:complete|process|answer|respond to|engage with) {_REQUEST}{_END}"
    rf"|i (?:must|have to)(?: [a-z]+ly)? decline (?:that|this|your) request"
    rf")|{_SORRY}{_CANNOT} assist{_END}"
    rf"|{_SORRY}{_CANNOT} (?:help|assist)(?: you)? (?:with|in) (?:that|this|such|requests|anything|any|creating)\b"
    rf"|{_SORRY}{_CANNOT} (?:provide|generate|create|produce|write|share|offer) "
    r"(?:that|this|such|(?:any )?(?:assistance|instructions|content|material) (?:that|on|for|about|with|which|of))\b"
)


def is_refusal(text: str) -> bool:
    """Whether an answer is only a refusal, by its first words."""
    words = " ".join(text.replace("\u2019", "'").lower().split())
    return len(words) <= LONGEST and _REFUSAL.match(words) is not None
