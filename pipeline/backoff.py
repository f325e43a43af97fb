"""How long to wait before the next try. Pure: the random numbers are handed in, the sleeping is the caller's."""

import random
from collections.abc import Callable, Iterator


def exponential(
    first_s: float, cap_s: float, uniform: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """Yield delays in seconds: `first_s`, doubled each time up to `cap_s`, each spread over its upper half.

    The spread keeps connections that died together from coming back together.
    """
    delay_s = first_s
    while True:
        yield uniform(delay_s / 2, delay_s)
        delay_s = min(delay_s * 2, cap_s)
