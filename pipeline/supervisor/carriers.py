"""Who records the instruments of connections that have failed over. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple


class Carriers(NamedTuple):
    """The connections that record instruments of others."""

    places: dict[int, int]  # by token; what found no room is not in it
    evicted: set[int]  # had a place that others need more, and a home that can do nothing for them


def assign(
    homes: Mapping[int, Collection[int]],
    before: Mapping[int, int],
    fit: Mapping[int, int],
    unfit: Mapping[int, int],
    lost: Collection[int],
) -> Carriers:
    """Find places for the instruments of these `homes`, those of the first home first.

    `before` is where they had one, by token. `fit` and `unfit` tell how much room there is with others, the best one
    first; the unfit get what finds no room elsewhere, for they may be back soon. Who has a place with one that is fit
    stays there, unless instruments of an earlier home need it. Such a place is free at once where the home is `lost`,
    else when the home covers the instrument again.
    """
    waiting = [
        token for tokens in homes.values() for token in sorted(tokens, key=lambda token: before.get(token) not in fit)
    ]
    admitted = sum(fit.values())
    losing = {token for token in waiting[admitted:] if before.get(token) in fit}
    evicted = {token for home in lost for token in homes.get(home, ()) if token in losing}
    parting = Counter(before[token] for token in losing - evicted)
    free = {place: room - parting[place] for place, room in fit.items()}
    places = _place(waiting[:admitted], free, before) | _place(waiting[admitted:], unfit, before)
    return Carriers(places, evicted)


def _place(tokens: Iterable[int], room: Mapping[int, int], before: Mapping[int, int]) -> dict[int, int]:
    """Give each a place, those first that had one of these before, as long as there is room."""
    left = dict(room)
    places: dict[int, int] = {}
    for token in sorted(tokens, key=lambda token: before.get(token) not in left):
        order = (before[token], *left) if before.get(token) in left else tuple(left)
        place = next((place for place in order if left[place] > 0), None)
        if place is not None:
            left[place] -= 1
            places[token] = place
    return places
