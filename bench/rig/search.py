"""How the highest rate that something holds is looked for. Pure: others try, and tell what came of it.

Rates are the rungs of a ladder, each a few per cent above the one below. Short trials find the neighbourhood; one that
fails is made once more, as the machine may have been busy with something else. Full trials have the last word: from
there up or down, until a rate is held and the one above it is not.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

STEP = 1.05  # from rung to rung
STRIDE = 14  # rungs, the first step of the short trials: about twice the rate


class Attempt(NamedTuple):
    """What to try next: a rate in ticks a second, for the full time or a short one."""

    rate: int
    is_full: bool


def ladder(lowest: int, highest: int) -> list[int]:
    """Return the rates from `lowest` to `highest`, both included, rounded to three digits between them."""
    rungs = [lowest]
    exact = float(lowest)
    while (exact := exact * STEP) < highest:
        rounded = int(round(exact, 3 - len(str(int(exact)))))
        if rungs[-1] < rounded < highest:
            rungs.append(rounded)
    return rungs if highest <= lowest else [*rungs, highest]


def search(rungs: Sequence[int]) -> Generator[Attempt, bool, int | None]:
    """Yield what to try, and be sent whether it was held; return the highest rate that was held for the full time.

    None: not even the lowest was.
    """
    near = yield from _highest(rungs, 0, STRIDE, is_full=False)
    found = yield from _highest(rungs, max(near, 0), 1, is_full=True)
    return rungs[found] if found >= 0 else None


def _highest(rungs: Sequence[int], place: int, stride: int, *, is_full: bool) -> Generator[Attempt, bool, int]:
    """Return the place of the highest rate that is held, -1 where there is none; `place` is the first that is tried.

    As long as all are held, or none is, the steps away from it double; then what lies between is halved.
    """
    held, failed = -1, len(rungs)
    while failed - held > 1:
        attempt = Attempt(rungs[place], is_full)
        if (yield attempt) or (not is_full and (yield attempt)):
            held = place
        else:
            failed = place
        if held >= 0 and failed < len(rungs):
            place = (held + failed) // 2
        else:
            place = min(held + stride, failed - 1) if held >= 0 else max(failed - stride, 0)
            stride *= 2
    return held
