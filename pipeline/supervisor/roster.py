"""The roster: what the settings want today, as tokens.

It looks up the words and the rules of `[universe]` in Kite's list of instruments, at the start and whenever they may
mean something else: with a new day, a new list, or a spot that has moved. What has expired is unsubscribed; what a rule
no longer picks stays until the next day. Recording waits for none of it.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from pipeline.config import Config, Mode
from pipeline.errors import RequestRefusedError, UnknownSymbolError
from pipeline.instruments.instrument import Instrument
from pipeline.instruments.listing import SymbolError
from pipeline.instruments.roll import NO_LIST, ExpiredError, Identity, Listed, identity, roll, token_of
from pipeline.instruments.selection import is_of, pick, underlying
from pipeline.rules import Rule, parse_rule
from pipeline.supervisor.desk import Desk
from pipeline.supervisor.history import History
from pipeline.supervisor.resume import tell_refusals
from pipeline.supervisor.saved import Saved, Selected
from pipeline.supervisor.subscriptions import Changed, Refusal, Subscriptions, Wanted, modes
from pipeline.wire import by_mode

log = logging.getLogger(__name__)

EXPLAINED = 3  # unknown words at a time, with what is near them: to find that takes a moment each
SHOWN = 10  # reasons, and symbols in a line of the log


class Roster:
    """Construct, `begin` with what the last run has saved, `start`, then `look` now and then.

    `clock` is the wall clock in the storage time zone; `log_event` takes an event and its fields.
    """

    def __init__(
        self,
        config: Config,
        subscriptions: Subscriptions,
        *,
        clock: Callable[[], datetime],
        log_event: Callable[[str, dict[str, Any]], object],
    ) -> None:
        self._words: dict[Mode, tuple[int | str, ...]] = {
            "quote": config.universe.primary,
            "full": config.universe.secondary,
        }
        self._rules = [parse_rule(text) for text in config.universe.select]
        self._move = config.universe.select_move_percent / 100
        self._subscriptions = subscriptions
        subscriptions.who_is = self._who_is
        self._clock = clock
        self._log_event = log_event
        self._listing: Listed | None = None
        self._day = date.min  # for which everything was looked up last
        self._named: list[tuple[int, Mode]] = []  # what the words mean
        self._meant: dict[str, int] = {}  # words, when they were looked up last
        self._picked: dict[int, Mode] = {}  # by the rules
        self._picked_on: date | None = None
        self._spots: dict[Rule, tuple[int, float | None]] = {}  # the underlying, and its price when it was looked up
        self._applied: Mapping[int, Mode] = {}  # what was wanted last
        self._refused: set[int] = set()  # of these: what has found no room
        self._begun_with: set[int] = set()  # what was wanted when it was saved; of that, people have unsubscribed some
        self._unknown: dict[str, str] = {}  # words that mean nothing, and rules that pick nothing, and why
        self._told: dict[str, str] = {}  # of these, in the log
        self._waiting: dict[str, str] = {}  # rules without a price to go by yet
        self.expired: dict[str, date] = {}  # words that mean nothing any more

    # What is asked of it.

    @property
    def wanted(self) -> Mapping[int, Mode]:
        """What the settings want now, without what has found no room: that is new as soon as there is some."""
        return {token: mode for token, mode in self._all_wanted().items() if token not in self._refused}

    def _all_wanted(self) -> Mapping[int, Mode]:
        return modes([*self._named, *self._picked.items()])

    @property
    def selected(self) -> Selected:
        """What the rules have picked, to be saved."""
        return Selected(day=self._picked_on, tokens=by_mode(self._picked))

    @property
    def reasons(self) -> list[str]:
        """Why not all that the settings name is recorded."""
        unknown = list(self._unknown.values())
        if not self._subscriptions.resting:  # nobody has a price then
            unknown += self._waiting.values()
        told = [f"universe: {reason}" for reason in unknown[:SHOWN]]
        more = len(unknown) - len(told)
        left = sum(token not in self._subscriptions.all for token in self._refused)
        if more:
            told.append(f"universe: {more} more are not known")
        return [*told, f"universe: no connection has room for {left} of the instruments"] if left else told

    def _who_is(self, token: int) -> Identity | None:
        """Return who has this token today, None if no list says so."""
        found = self._listing.by_token(token) if self._listing else None
        return identity(found) if found else None

    def tokens(self, words: Sequence[int | str]) -> list[int]:
        """Return the tokens of words, in their order. Raises UnknownSymbolError saying why for each that is none."""
        found: dict[int | str, int] = {}
        unknown: dict[str, str] = {}
        for word in dict.fromkeys(words):
            try:
                found[word] = self._token(word, self._subscriptions.named, near=len(unknown) < EXPLAINED)
            except SymbolError as error:
                unknown[str(word)] = str(error)
        if unknown:
            told = "; ".join(list(unknown.values())[:EXPLAINED])
            more = f"; and {len(unknown) - EXPLAINED} more" if len(unknown) > EXPLAINED else ""
            raise UnknownSymbolError(f"{told}{more}; nothing was changed", {"unknown_symbols": unknown})
        return [found[word] for word in words]

    def _token(self, word: int | str, subscribed: Callable[[str], int | None], *, near: bool) -> int:
        if isinstance(word, int):
            return word
        return token_of(word, self._listing, subscribed, self._clock().date(), near=near)

    # The beginning.

    def begin(self, saved: Saved | None, listing: Listed | None) -> Wanted:
        """Return what the settings want; what has expired since it was saved is still among it."""
        self._listing = listing
        self._day = self._clock().date()
        names: dict[str, int] = {}
        if saved is not None:
            words = {*self._words["quote"], *self._words["full"]}
            self.expired = {word: day for word, day in saved.expired.items() if word in words}
            names = _names(saved.identities)
            self._begun_with = {token for tokens in saved.universe.values() for token in tokens}
            if self._rules:
                self._picked_on = saved.selected.day
                picked = {token: mode for mode, tokens in saved.selected.tokens.items() for token in tokens}
                foreign = self._foreign(picked)
                self._picked = {token: mode for token, mode in picked.items() if token not in foreign}
        self._look_up(lambda word: names.get(word.upper()), keep_expired=True)
        self._applied = self._all_wanted()
        return [*self._named, *self._picked.items()]

    def start(self, desk: Desk, history: History) -> None:
        """Compare what is subscribed again with the list."""
        self._refused = {t for t in self._applied if t not in self._subscriptions.all and t not in self._begun_with}
        self._renew(desk, history)

    # And on.

    def use(self, listing: Listed, desk: Desk, history: History) -> None:
        """Look everything up in another list."""
        self._listing = listing
        self._renew(desk, history)

    def look(self, desk: Desk, history: History) -> None:
        """See whether it is another day, or a spot has moved; costs next to nothing if not."""
        if self._clock().date() != self._day:
            self._renew(desk, history)
        elif moved := [rule for rule in self._rules if self._has_moved(rule)]:
            self._select(moved if self._picked_on == self._day else self._rules)
            self._apply(desk, history)

    def _renew(self, desk: Desk, history: History) -> None:
        self._roll(desk, history)
        self._look_up(self._subscriptions.named)
        self._select(self._rules)
        self._apply(desk, history)
        self._tell_unknown()

    def _tell_unknown(self) -> None:
        if self._unknown == self._told:
            return
        self._told = dict(self._unknown)
        if self._unknown and self._listing is None:
            log.info("%d symbols and rules wait for the list of instruments", len(self._unknown))
        elif self._unknown:
            log.warning("%s", "; ".join(self.reasons))

    def _roll(self, desk: Desk, history: History) -> None:
        """Unsubscribe what has expired, and follow symbols to other tokens."""
        known = {token: s.identity for token, s in self._subscriptions.all.items()}
        by_number = [word for words in self._words.values() for word in words if isinstance(word, int)]
        found = roll(known, self._listing, by_number, self._clock().date())
        self._subscriptions.identify(found.named)
        gone = {*found.expired, *found.moved}
        self._picked = {token: mode for token, mode in self._picked.items() if token not in gone}
        self._meant = {word: token for word, token in self._meant.items() if token not in gone}
        reused = [t for t, was in found.expired.items() if (now := self._who_is(t)) and now.symbol != was.symbol]
        self._applied = {t: mode for t, mode in self._applied.items() if t not in found.moved and t not in reused}
        if found.expired:
            self._note_expired(found.expired.values())
            symbols = [gone.symbol for gone in found.expired.values()]
            self._log_event("expired", {"instruments": list(found.expired), "symbols": symbols})
            self._drop(list(found.expired), desk, "expired")
        arriving: dict[int, Mode] = {}
        for old, new in found.moved.items():
            arriving[new.token] = self._subscriptions.all[old].mode
            self._log_event("token_changed", {"symbol": new.symbol, "from_token": old, "to_token": new.token})
            log.info("%s has another token: %d, was %d", new.symbol, new.token, old)
        # All go before any comes: two may have changed places.
        self._drop(list(found.moved), desk, "their symbols have other tokens now")
        for mode, tokens in by_mode(arriving).items():
            self._take(tokens, mode, desk, history)

    def _note_expired(self, gone: Iterable[Identity]) -> None:
        days = {name: i.expiry for i in gone for name in (i.symbol.upper(), i.symbol.partition(":")[2].upper())}
        for words in self._words.values():
            for word in words:
                if isinstance(word, str) and (day := days.get(word.upper())):
                    self.expired[word] = day

    def _look_up(self, subscribed: Callable[[str], int | None], *, keep_expired: bool = False) -> None:
        """Find out what the words of the settings mean today."""
        self._day = self._clock().date()
        self._named, self._unknown = [], {}
        for mode, words in self._words.items():
            for word in words:
                try:
                    token = self._token(word, subscribed, near=len(self._unknown) < EXPLAINED)
                except SymbolError as error:
                    had = subscribed(str(word)) if keep_expired else self._meant.get(str(word))
                    if isinstance(error, ExpiredError):
                        self.expired[str(word)] = error.day
                    elif had is None and word not in self.expired:
                        self._unknown[str(word)] = str(error)
                    elif had is not None and not keep_expired and (found := self._who_is(had)):
                        # Its instrument is called otherwise now, or another exchange has one of its name.
                        self._unknown[str(word)] = f"{error}; {found.symbol}, which it was, is still recorded"
                    if had is None:
                        continue
                    token = had
                if isinstance(word, str):
                    self._meant[word] = token
                self._named.append((token, mode))

    # Rules.

    def _select(self, rules: Sequence[Rule]) -> None:
        """Look rules up, all of them but where the day's are there; what they pick comes on top of that then."""
        if self._listing is None:
            self._unknown |= {rule.text: NO_LIST.format(rule.text) for rule in rules}
            return
        if not rules:
            return
        picked: dict[int, Mode] = {}
        is_whole = True
        for rule in rules:
            derivatives = self._listing.derivatives(rule.exchange, rule.name)
            spot = underlying(rule, derivatives, self._listing.by_symbol, self._day)
            price = self._price(spot.token) if spot else None
            found = pick(rule, derivatives, price, self._day)
            if spot is not None and rule.kind == "options":
                picked.setdefault(spot.token, "quote")
                self._spots[rule] = (spot.token, price)
                is_whole = is_whole and price is not None
            found.sort(key=lambda i: abs(i.strike - (price or 0)))  # where there is no room for all, for the nearest
            picked |= {i.token: rule.mode for i in found if i.token not in picked}
            self._unknown.pop(rule.text, None)
            self._waiting.pop(rule.text, None)
            if rule.kind == "options" and spot is not None and price is None:
                self._waiting[rule.text] = f"{rule.text}: waits for the first price of {spot.symbol}"
            elif not found:
                self._unknown[rule.text] = f"{rule.text}: {_fault(rule, derivatives, spot)}"
        is_of_today = self._picked_on == self._day
        self._picked = picked if is_whole and not is_of_today else picked | self._picked
        if is_whole:
            self._picked_on = self._day

    def _foreign(self, picked: Iterable[int]) -> set[int]:
        """Return what none of the rules can have picked, as far as the list tells: they were others."""
        if self._listing is None:
            return set()
        known = [found for token in picked if (found := self._listing.by_token(token))]
        spots = [
            underlying(rule, self._listing.derivatives(rule.exchange, rule.name), self._listing.by_symbol, self._day)
            for rule in self._rules
            if rule.kind == "options"
        ]
        return {i.token for i in known if i not in spots and not any(is_of(rule, i) for rule in self._rules)}

    def _price(self, token: int) -> float | None:
        known = self._subscriptions.all.get(token)
        return known.last_price or None if known else None  # 0: it has never traded

    def _has_moved(self, rule: Rule) -> bool:
        token, before = self._spots.get(rule, (0, None))
        price = self._price(token)
        if price is None:
            return False
        return before is None or abs(price - before) >= self._move * abs(before)

    # What comes of it.

    def _apply(self, desk: Desk, history: History) -> None:
        """Subscribe what is wanted and was not, and the reverse."""
        before, now = self._applied, self._all_wanted()
        self._applied = now
        self._refused = {token for token in self._refused if token in now and token not in self._subscriptions.all}
        lost = [token for token in before if token not in now and token in self._subscriptions.all]
        self._drop(lost, desk, "no longer in the universe")
        known = self._subscriptions.all
        other = {t: mode for t, mode in now.items() if t in known and before.get(t, mode) == known[t].mode != mode}
        for mode, tokens in by_mode(other).items():
            self._set_mode(tokens, mode, desk)
        gained = {token: mode for token, mode in now.items() if token not in before or token in self._refused}
        for mode, tokens in by_mode(gained).items():
            self._take(tokens, mode, desk, history)

    def _drop(self, tokens: list[int], desk: Desk, reason: str) -> None:
        if tokens:
            desk.change("unsubscribe", "universe", lambda: self._subscriptions.unsubscribe(tokens), reason=reason)

    def _set_mode(self, tokens: list[int], mode: Mode, desk: Desk) -> None:
        try:
            desk.change(
                "set_mode",
                "universe",
                lambda: self._subscriptions.set_mode(tokens, mode, self._timestamp()),
                tokens=tokens,
                mode=mode,
            )
        except RequestRefusedError as error:
            log.warning("universe: %d instruments stay in the mode they have: %s", len(tokens), error)

    def _take(self, tokens: Iterable[int], mode: Mode, desk: Desk, history: History) -> None:
        refusals: list[Refusal] = []
        new = [token for token in tokens if token not in self._subscriptions.all]

        def subscribe() -> Changed:
            changed, refused = self._subscriptions.subscribe_possible(new, mode, self._timestamp())
            refusals.extend(each for each in refused if each.token not in self._refused)
            self._refused = self._refused.difference(changed.instruments).union(each.token for each in refused)
            return changed

        has_room = self._subscriptions.available(self._subscriptions.connection_for(mode)) > 0
        if new and (has_room or not self._refused.issuperset(new)):
            desk.change("subscribe", "universe", subscribe, mode=mode)
            tell_refusals(refusals, history)

    def _timestamp(self) -> str:
        return self._clock().isoformat(timespec="microseconds")


def _names(identities: Mapping[int, Identity]) -> dict[str, int]:
    """Return tokens by EXCHANGE:SYMBOL, and by a symbol that one alone has, in capitals."""
    whole = {known.symbol.upper(): token for token, known in identities.items()}
    bare = Counter(symbol.partition(":")[2] for symbol in whole)
    return whole | {name: t for symbol, t in whole.items() if bare[name := symbol.partition(":")[2]] == 1}


def _fault(rule: Rule, derivatives: Sequence[Instrument], spot: Instrument | None) -> str:
    """Return why a rule picks nothing."""
    if not derivatives:
        return f"the list of instruments has no derivatives of {rule.name} on {rule.exchange}"
    if rule.kind == "options" and spot is None:
        return f"the list of instruments has no price of {rule.name} to go by"
    return "there is no such expiry"
