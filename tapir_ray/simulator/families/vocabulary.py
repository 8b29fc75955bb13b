"""Words that the families share. They are few, so that a tiny student sees each of them often."""

from tapir_ray.simulator.text import one_of

NAMES = ("tom", "ana", "ben", "mia", "leo", "eva", "sam", "zoe", "ida", "kim", "joe", "amy")
THINGS = ("hat", "cup", "pen", "coin", "book", "key", "ball", "bag", "lamp", "ring")
PLURALS = tuple(thing + "s" for thing in THINGS)
COLORS = ("red", "blue", "green", "black", "white", "gray")

NAME, THING, PLURAL, COLOR = one_of(NAMES), one_of(THINGS), one_of(PLURALS), one_of(COLORS)
NUMBER = r"\d{1,9}"
