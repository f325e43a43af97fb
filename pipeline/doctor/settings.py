"""Whether the settings can be read, and what runs: the versions of mds and Python."""

import os
import platform
from pathlib import Path

from pipeline import __version__, config
from pipeline.config import Config
from pipeline.doctor.finding import Check, Finding
from pipeline.errors import ConfigError

AREA = "settings"
SETTINGS = Check(AREA, "settings")
VERSION = Check(AREA, "version")


def version() -> Finding:
    """Tell what is installed."""
    return VERSION.ok(
        f"mds {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    )


def read(file: Path | None) -> tuple[Config | None, list[Finding]]:
    """Return the settings with absolute paths, None where they are wrong, and what there is to say of them."""
    path = file or Path(os.environ.get("MDS_CONFIG") or config.DEFAULT_FILE)
    variables = sorted(name for name in os.environ if name.startswith("MDS_") and name != "MDS_CONFIG")
    try:
        settings = config.load(file).resolved()
    except ConfigError as error:
        return None, [judge_fault(line) for line in str(error).splitlines()]
    return settings, [judge(path.absolute(), variables, is_there=path.exists())]


def judge_fault(line: str) -> Finding:
    """Judge what is wrong with one setting."""
    return SETTINGS.failure(line, "with wrong settings mds starts nothing", "correct it, then: mds doctor")


def judge(path: Path, variables: list[str], *, is_there: bool) -> Finding:
    """Judge settings that can be read."""
    over = f", with {', '.join(variables)} of the environment over it" if variables else ""
    if is_there:
        return SETTINGS.ok(f"{path}{over}")
    return SETTINGS.warning(
        f"there is no {path}{over}",
        "the defaults hold: data and run folder are those of the folder that mds is called in, and no instruments are "
        "subscribed at start",
        "call mds where the file is, name it with --config or MDS_CONFIG, or write one with: mds init",
    )
