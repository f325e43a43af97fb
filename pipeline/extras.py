"""The packages of the extra `analysis`: what reads ticks as columns needs them, recording does not."""

from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec

from pipeline.errors import MdsError

ANALYSIS = ("plotly", "polars", "pyarrow")


class MissingExtraError(MdsError, ImportError):
    """Packages that are not part of what recording needs are not installed."""

    exit_code = 2


def require(what: str) -> None:
    """Raise MissingExtraError, saying that `what` needs it, where the extra is not installed. Imports nothing."""
    for name in ANALYSIS:
        if find_spec(name) is None:
            raise MissingExtraError(_missing(what, name))


def explain(error: ImportError, what: str) -> ImportError:
    """Return the error to raise where `what` could not be imported: one with a way out if the extra is missing."""
    if (error.name or "").partition(".")[0] not in ANALYSIS:
        return error
    return MissingExtraError(_missing(what, error.name))


def way_out() -> str:
    """Return the command that installs the extra."""
    return "pip install " + " ".join(f"'{package}'" for package in _packages())


def _missing(what: str, name: str | None) -> str:
    return f"{what} needs {name}, which is not installed: {way_out()}"


def _packages() -> list[str]:
    """Return the packages of the extra with their versions, as they are declared."""
    try:
        declared = requires("market-data-service") or []
    except PackageNotFoundError:  # run from its sources
        declared = []
    pinned = [line.partition(";")[0].strip() for line in declared if 'extra == "analysis"' in line]
    return pinned or list(ANALYSIS)
