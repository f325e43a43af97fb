"""Words that are spelt almost like another, out of a hundred thousand, within milliseconds. Pure."""

import difflib
from collections.abc import Collection, Iterable
from typing import Final

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 &-"  # that symbols have
_COMPARED_MAX: Final = 1000  # words that are compared letter by letter, at some 30 us each
_LENGTHS: Final = 2  # letters more or fewer


def one_off(word: str, known: Collection[str]) -> list[str]:
    """Return the known words that come of `word` by one letter more, fewer or another, or two that change places."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    spellings = [head + tail[1] + tail[0] + tail[2:] for head, tail in cuts if len(tail) > 1]
    spellings += [head + letter + tail[1:] for head, tail in cuts if tail for letter in _LETTERS]
    spellings += [head + tail[1:] for head, tail in cuts if tail]
    spellings += [head + letter + tail for head, tail in cuts for letter in _LETTERS]
    return [spelling for spelling in dict.fromkeys(spellings) if spelling in known and spelling != word]


def alike(word: str, known: Iterable[str], count: int) -> list[str]:
    """Return at most `count` known words of which most letters are those of `word`, the best first."""
    return difflib.get_close_matches(word, _candidates(word, known), count)


def _candidates(word: str, known: Iterable[str]) -> list[str]:
    """Return words worth comparing: who mistypes has the first letter right.

    Of thousands, those are left that begin or end as the word does, for as many letters as it takes.
    """
    found = [each for each in known if each[:1] == word[:1] and abs(len(each) - len(word)) <= _LENGTHS]
    for length in range(2, len(word)):
        if len(found) <= _COMPARED_MAX:
            break
        head, tail = word[:length], word[-length:]
        fewer = [each for each in found if each.startswith(head) or each.endswith(tail)]
        if not fewer:
            break
        found = fewer
    return found[:_COMPARED_MAX]
