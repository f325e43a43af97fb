"""Which derivatives a rule of the settings wants today: around the money, of the expiry that comes next. Pure.

A rule is what `rules.parse_rule` reads. The money is the strike next to the spot, the last price of the underlying.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date

from pipeline.instruments.instrument import Instrument
from pipeline.rules import Cycle, Rule

# Of indices the name in the list of derivatives is another than the symbol; a share has one name for both.
_INDICES = {
    "NIFTY": "NSE:NIFTY 50",
    "BANKNIFTY": "NSE:NIFTY BANK",
    "FINNIFTY": "NSE:NIFTY FIN SERVICE",
    "MIDCPNIFTY": "NSE:NIFTY MID SELECT",
    "NIFTYNXT50": "NSE:NIFTY NEXT 50",
    "SENSEX": "BSE:SENSEX",
    "BANKEX": "BSE:BANKEX",
    "SENSEX50": "BSE:SNSX50",
}
_CASH = {"NFO": "NSE", "BFO": "BSE"}
_OPTIONS = ("CE", "PE")


def underlying(
    rule: Rule, derivatives: Iterable[Instrument], find: Callable[[str], Instrument | None], today: date
) -> Instrument | None:
    """Return the instrument whose price is the spot; None where there is none.

    It is the index or the share; where there is neither, as with commodities and currencies, the next future.
    """
    cash = _INDICES.get(rule.name) or f"{_CASH.get(rule.exchange, rule.exchange)}:{rule.name}"
    if found := find(cash):
        return found
    futures = [i for i in derivatives if i.instrument_type == "FUT" and i.expiry is not None and i.expiry >= today]
    return min(futures, key=lambda i: (i.expiry, i.token), default=None)


def pick(rule: Rule, derivatives: Sequence[Instrument], spot: float | None, today: date) -> list[Instrument]:
    """Return what the rule wants of an underlying's derivatives, by strike; options only where the spot is known."""
    kept = [i for i in derivatives if is_of(rule, i) and i.expiry is not None and i.expiry >= today]
    day = _expiry({i.expiry for i in kept if i.expiry is not None}, rule.cycle, rule.later)
    of_day = [i for i in kept if i.expiry == day]
    if rule.kind == "futures":
        return of_day
    if spot is None:
        return []
    strikes = sorted({i.strike for i in of_day})
    money = min(range(len(strikes)), key=lambda n: (abs(strikes[n] - spot), n), default=0)
    near = set(strikes[max(money - rule.strikes, 0) : money + rule.strikes + 1])
    return sorted((i for i in of_day if i.strike in near), key=lambda i: (i.strike, i.instrument_type))


def is_of(rule: Rule, derivative: Instrument) -> bool:
    """Tell whether this is of the kind that the rule wants, of its underlying."""
    types = _OPTIONS if rule.kind == "options" else ("FUT",)
    called = (derivative.exchange, derivative.name.upper())
    return called == (rule.exchange, rule.name) and derivative.instrument_type in types


def _expiry(days: Iterable[date], cycle: Cycle, later: int) -> date | None:
    """Return the expiry; monthly ones are the last of their month that there is."""
    ascending = sorted(days)
    if cycle == "monthly":
        ascending = list({(day.year, day.month): day for day in ascending}.values())
    return ascending[later] if later < len(ascending) else None
