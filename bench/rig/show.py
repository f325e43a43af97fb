"""How benchmarks show what they have found, and on what."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from pipeline.cli import tables

ROOT = Path(__file__).parents[2]

_Item = TypeVar("_Item")


def conditions() -> dict[str, Any]:
    """Return what figures depend on: date, commit, machine, Python, and what else the machine was doing."""
    commit = _git("rev-parse", "--short=10", "HEAD")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit + ("+changes" if commit and _git("status", "--porcelain") else ""),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def show(figures: Mapping[str, Any], text: Sequence[tuple[str, Sequence[Sequence[str]]]], *, as_json: bool) -> None:
    """Print figures: as one JSON object with their `conditions`, or as tables.

    A table is its columns, as `tables.table` takes them, separated by "|", and its rows.
    """
    about = conditions()
    if as_json:
        click.echo(json.dumps({"conditions": about, **figures}))
        return
    console = Console()
    for columns, rows in text:
        table = tables.table(*columns.split("|"))
        for row in rows:
            table.add_row(*row)
        tables.show(console, table)
        console.print()
    told = (f"{about['cores']} cores of {about['processor']}", f"Python {about['python']}", f"load {about['load']}")
    console.print(f"{about['date']}, commit {about['commit'] or 'unknown'}, {', '.join(told)}", highlight=False)


def note(text: str) -> None:
    """Tell on stderr what is being done."""
    click.echo(text, err=True)


def progress(seconds: float, label: str) -> Any:
    """Return a progress bar on stderr, of seconds, for a `with`; `update` it with what has passed."""
    return click.progressbar(length=round(seconds * 10), label=label, file=sys.stderr, width=30)


def counted(items: Sequence[_Item], label: str) -> Any:
    """Return these with a progress bar on stderr, for a `with`."""
    return click.progressbar(items, label=label, file=sys.stderr, show_pos=True)


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607  as found
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
