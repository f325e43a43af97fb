"""The packages of the extra `analysis`: what reads ticks as columns needs them, recording does not."""

from pipeline.errors import MdsError

ANALYSIS = ("pandas", "plotly", "polars", "pyarrow")


class MissingExtraError(MdsError, ImportError):
    """Packages that are not part of what recording needs are not installed."""

    exit_code = 2


def explain(error: ImportError, what: str) -> ImportError:
    """Return the error to raise where `what` could not be imported: one with a way out if the extra is missing."""
    if (error.name or "").partition(".")[0] not in ANALYSIS:
        return error
    return MissingExtraError(
        f"{what} needs {error.name}, which is not installed: pip install 'market-data-service[analysis]'"
    )
