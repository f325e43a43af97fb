"""The packages of the extra `analysis`: what reads ticks as columns needs them, recording does not."""

from importlib.util import find_spec

from pipeline.errors import MdsError

ANALYSIS = ("pandas", "plotly", "polars", "pyarrow")


class MissingExtraError(MdsError, ImportError):
    """Packages that are not part of what recording needs are not installed."""

    exit_code = 2


def require(what: str) -> None:
    """Raise MissingExtraError, naming `what` needs it, where the extra is not installed. Imports nothing."""
    for name in ANALYSIS:
        if find_spec(name) is None:
            raise MissingExtraError(_missing(what, name))


def explain(error: ImportError, what: str) -> ImportError:
    """Return the error to raise where `what` could not be imported: one with a way out if the extra is missing."""
    if (error.name or "").partition(".")[0] not in ANALYSIS:
        return error
    return MissingExtraError(_missing(what, error.name))


def _missing(what: str, name: str | None) -> str:
    return f"{what} needs {name}, which is not installed: pip install 'market-data-service[analysis]'"
