"""The build backend: setuptools', but what it makes is the same to the byte, wherever and whenever it is made.

setuptools takes times, owners and permissions of the files as they are. Here every member of an archive has the same
time and one of two modes. A source distribution is what git has of the checkout, with PKG-INFO: tests, deploy and all.
"""

import gzip
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.build_meta import build_wheel as _build_wheel

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive knows
TIME_S = 315_532_800  # the same in Unix seconds
LEFTOVERS = ("*.egg-info", "*.pyc", "__pycache__", "build", "dist", ".venv")  # of building and testing

Settings = Mapping[str, Any] | None


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build the wheel into a folder; return its name."""
    shutil.rmtree("build/lib", ignore_errors=True)  # modules that an older version had would get into it
    name: str = _build_wheel(wheel_directory, config_settings, metadata_directory)
    path = Path(wheel_directory, name)
    with ZipFile(path) as wheel:
        members = {member.filename: wheel.read(member) for member in wheel.infolist()}
    with ZipFile(path, "w") as wheel:
        for member, content in members.items():
            info = ZipInfo(member, TIME)
            info.external_attr = 0o100644 << 16
            wheel.writestr(info, content, ZIP_DEFLATED)
    return name


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Build the source distribution into a folder; return its name."""
    with tempfile.TemporaryDirectory() as folder:
        info = prepare_metadata_for_build_wheel(folder, config_settings)
        metadata = Path(folder, info, "METADATA").read_bytes()
    name = info.removesuffix(".dist-info")
    path = Path(sdist_directory, f"{name}.tar.gz")
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", 9, file, TIME_S) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for source in sorted(_sources()):
            _add(archive, f"{name}/{source}", source.read_bytes(), is_program=bool(source.stat().st_mode & 0o100))
        _add(archive, f"{name}/PKG-INFO", metadata)
    return path.name


def _sources() -> Iterator[Path]:
    """Yield the files of this folder: those that git has; in an unpacked sdist, without git, all that it would have."""
    if Path(".git").exists():
        listing = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
        names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")
        yield from (path for name in names if name and (path := Path(name)).is_file())
        return
    rules = Path(".gitignore")  # what was recorded here, and secrets
    ignored = (*LEFTOVERS, *(rules.read_text().split() if rules.exists() else ()))
    for path in Path().rglob("*"):
        if path.is_file() and path != Path("PKG-INFO") and not any(_fits(path, pattern) for pattern in ignored):
            yield path


def _fits(path: Path, pattern: str) -> bool:
    """Tell whether a line of .gitignore is about a file: one path, or a name that it or a folder of it has."""
    if pattern.startswith("/"):
        return path.is_relative_to(pattern.strip("/"))
    return any(Path(part).match(pattern.strip("/")) for part in path.parts)


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, is_program: bool = False) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), TIME_S
    member.mode = 0o755 if is_program else 0o644
    archive.addfile(member, io.BytesIO(content))
