"""What a check says: how it is, why that matters, and what to do. Pure."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from pipeline import readable
from pipeline.log import redact

Status = Literal["skipped", "ok", "warning", "failure"]
STATUSES: tuple[Status, ...] = get_args(Status)  # the worst last


class Finding(NamedTuple):
    """The outcome of one check. `why` and `todo` are empty where nothing is wrong."""

    area: str
    check: str
    status: Status
    what: str
    why: str = ""
    todo: str = ""


class Check(NamedTuple):
    """Something that is looked at; its methods make the findings."""

    area: str
    name: str

    def ok(self, what: str) -> Finding:
        """Return that it is as it should be."""
        return Finding(*self, "ok", what)

    def skipped(self, what: str) -> Finding:
        """Return that it was not looked at, and why not."""
        return Finding(*self, "skipped", what)

    def warning(self, what: str, why: str, todo: str) -> Finding:
        """Return that all is recorded, but may not be for long, or not as well as it could."""
        return Finding(*self, "warning", what, why, todo)

    def failure(self, what: str, why: str, todo: str) -> Finding:
        """Return that something is not recorded, or will not be."""
        return Finding(*self, "failure", what, why, todo)


def is_well(findings: Iterable[Finding]) -> bool:
    """Tell whether there is no failure."""
    return all(finding.status != "failure" for finding in findings)


def cleaned(finding: Finding, secrets: Sequence[str]) -> Finding:
    """Return a finding without secrets, and without what a terminal would obey: parts of it are the words of others."""
    what, why, todo = (readable.printable(redact(text, secrets)) for text in finding[3:])
    return finding._replace(what=what, why=why, todo=todo)


def sort_by_area(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings of each area together, in the order in which the areas come first."""
    listed = list(findings)
    areas = list(dict.fromkeys(finding.area for finding in listed))
    return sorted(listed, key=lambda finding: areas.index(finding.area))
