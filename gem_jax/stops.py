"""Where an answer's text ends: stop strings, which may span several tokens."""

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

# What decoders write for the bytes of a character that is not whole yet.
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Returns (the text before the earliest stop string, whether there is one)."""
    found = [at for at in map(text.find, stops) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def settled(text: str, stops: Sequence[str]) -> str:
    """Returns the part of a growing text that no further token can take back.

    What is held back is an unfinished character, or the beginning of a stop string.
    """
    text = text.rstrip(UNFINISHED)
    held = (
        size
        for stop in stops
        for size in range(min(len(stop) - 1, len(text)), 0, -1)
        if text.endswith(stop[:size])
    )
    return text[: len(text) - max(held, default=0)]


def within(tokens: Sequence[int], decode: Decode, text: str) -> tuple[int, ...]:
    """Returns the most tokens, from the first, whose text is not longer than `text`."""
    count = len(tokens)
    while count and len(decode(list(tokens[:count]))) > len(text):
        count -= 1
    return tuple(tokens[:count])
