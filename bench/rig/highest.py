"""The highest rate that recorders hold, looked for side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.rig.search import search
from bench.rig.show import note
from bench.rig.trial import Feed, Trial, limit, run_trial, why_not_held

PROBE_S = 3.0  # of a short trial


@dataclass
class Highest:
    """What was found for one recorder."""

    held: Trial | None = None  # for the full time; the pipeline's is compared with what was sent, tick for tick
    trials: int = 0
    _failed: list[Trial] = field(default_factory=list)

    def tell(self, trial: Trial, *, is_held: bool, is_full: bool) -> None:
        """Take note of one more trial."""
        self.trials += 1
        if not is_held:
            self._failed.append(trial)
        elif is_full and trial.stretch.rate > self.rate:
            self.held = trial

    @property
    def refused(self) -> Trial | None:
        """The slowest trial above the held rate, and of those at one rate the last; None: no faster one has failed."""
        above = [trial for trial in reversed(self._failed) if trial.stretch.rate > self.rate]
        return min(above, key=lambda trial: trial.stretch.rate, default=None)

    @property
    def rate(self) -> int:
        """The highest rate that was held, in ticks a second; 0: none."""
        return self.held.stretch.rate if self.held else 0

    def figures(self, feed: Feed, cores: int) -> dict[str, Any]:
        """Return all of it, for JSON."""
        found: dict[str, Any] = {"ticks_per_s": self.rate, "trials": self.trials}
        if self.held is not None:
            found |= costs(self.held) | {
                "mb_per_s": round(self.held.mb_per_s, 1),
                "behind_s": round(self.held.stretch.behind_s, 3),
                "drain_s": round(self.held.stretch.drain_s, 3),
            }
        if self.refused is not None:
            why = why_not_held(self.refused, feed)
            found["not_held"] = {"ticks_per_s": self.refused.stretch.rate, "why": why}
            found["limit"] = limit(self.refused, cores)
        return found


def costs(trial: Trial) -> dict[str, Any]:
    """Return what a trial has cost, in all and by role."""
    done = trial.stretch
    roles = {
        role: {"us_per_tick": round(done.us_per_tick(role), 3), "share_of_a_core": round(done.share[role], 3)}
        for role in done.cpu_s
    }
    return {"us_per_tick": round(done.us_per_tick(), 3), "busy_cores": round(trial.busy_cores, 2), "roles": roles}


def highest_rates(
    folder: Path, recorders: Sequence[str], feed: Feed, rungs: Sequence[int], hold_s: float
) -> Mapping[str, Highest]:
    """Search for all of them, one trial of each in turn, so that a machine that is slower for a while is so for all."""
    searches = {name: search(rungs) for name in recorders}
    attempts = {name: next(steps) for name, steps in searches.items()}
    found = {name: Highest() for name in recorders}
    while attempts:
        for name, attempt in list(attempts.items()):
            seconds = hold_s if attempt.is_full else min(PROBE_S, hold_s)
            trial = run_trial(folder, name, feed, attempt.rate, seconds, compares=attempt.is_full)
            why = why_not_held(trial, feed)
            note(f"{feed.mode}, {name}: {attempt.rate:,} ticks/s for {seconds:g} s: {why or 'held'}")
            found[name].tell(trial, is_held=not why, is_full=attempt.is_full)
            try:
                attempts[name] = searches[name].send(not why)
            except StopIteration:
                del attempts[name]
    return found
