"""Whether the clock is right: against the time that Kite's answers carry, and by what the kernel says of it."""

import ctypes
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, Request, build_opener

from pipeline.doctor.finding import Check, Finding
from pipeline.doctor.network import tls_context

AREA = "clock"
OFFSET = Check(AREA, "clock_offset")
SYNCHRONISED = Check(AREA, "clock_synchronised")
ASK_S = 4.0
WRONG_S, VERY_WRONG_S = 2.0, 30.0
_WHY = "every tick is stored with the time at which it came, on that day, and market hours go by this clock"
_TODO = "switch on time synchronisation: timedatectl set-ntp true, or install chrony; in a container, on its host"
_TIME_ERROR = 5  # what adjtimex returns while the clock is not synchronised
_TIMEX_BYTES = 512  # more than any struct timex has


class Offset(NamedTuple):
    """By how much this clock is ahead of Kite's; None: nobody can tell."""

    seconds: float | None
    uncertain_s: float = 0.0
    fault: str = ""


def gather_offset(api_url: str) -> Offset:
    """Ask Kite's REST API for anything, and take the time at which it says that it answers, which is in whole seconds.

    Goes through the proxies that the other requests go through.
    """
    opener = build_opener(HTTPSHandler(context=tls_context()))
    began_s, began_wall_s = time.monotonic(), time.time()
    try:
        request = Request(api_url, method="HEAD", headers={"User-Agent": "mds"})  # noqa: S310  the settings take http only
        with opener.open(request, timeout=ASK_S) as answer:
            said = answer.headers.get("Date")
    except HTTPError as error:  # an answer all the same
        said = error.headers.get("Date")
        error.close()
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Offset(None, fault=getattr(reason, "strerror", None) or str(reason))
    took_s = time.monotonic() - began_s
    try:
        theirs_s = parsedate_to_datetime(said or "").timestamp() + 0.5
    except ValueError:
        return Offset(None, fault="its answer says no time")
    return Offset(began_wall_s + took_s / 2 - theirs_s, 0.5 + took_s / 2)


def gather_synchronised() -> bool | None:
    """Tell whether the kernel takes its clock for synchronised, None where it does not say."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: asks
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)


def judge_offset(offset: Offset) -> Finding:
    """Judge by how much the clock is wrong."""
    if offset.seconds is None:
        return OFFSET.skipped(f"Kite's time is not known: {offset.fault}")
    off_s = abs(offset.seconds)
    direction = "ahead of" if offset.seconds > 0 else "behind"
    what = f"{off_s:.0f} s {direction} Kite's"
    if off_s > VERY_WRONG_S:
        return OFFSET.failure(what, _WHY, _TODO)
    if off_s > WRONG_S + offset.uncertain_s:
        return OFFSET.warning(what, _WHY, _TODO)
    return OFFSET.ok(f"as Kite's, to {max(offset.uncertain_s, off_s):.1f} s")


def judge_synchronised(synchronised: bool | None) -> Finding:
    """Judge whether anything keeps the clock right."""
    if synchronised is None:
        return SYNCHRONISED.skipped("the kernel does not say whether it is synchronised")
    if synchronised:
        return SYNCHRONISED.ok("kept right by time synchronisation")
    return SYNCHRONISED.warning("the kernel does not know of anything that keeps it right", _WHY, _TODO)
