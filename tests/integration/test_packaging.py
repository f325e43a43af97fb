"""The distributions: what is in them, and that they are the same to the byte wherever they are built."""

import os
import shutil
import subprocess
import sys
import tarfile
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest
from readme_renderer import markdown

import pipeline
from tests.integration.wheels import ROOT, build, copy_source

NAME = f"market_data_service-{pipeline.__version__}"
OLD_S = 1_577_836_800  # a time that is long ago


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheel and the source distribution, built of a checkout."""
    source = copy_source(tmp_path_factory.mktemp("packaging") / "checkout")
    (source / "notes.txt").write_text("not of the project")
    if shutil.which("git"):
        names = [str(path.relative_to(ROOT)) for path in ROOT.iterdir() if (source / path.name).exists()]
        subprocess.run(["git", "init", "--quiet"], cwd=source, check=True)
        subprocess.run(["git", "add", *names], cwd=source, check=True)
    else:
        (source / "notes.txt").unlink()
    return build(source)


def test_they_are_the_same_wherever_they_are_built(built: list[Path], tmp_path: Path) -> None:
    """Of an unpacked source distribution, elsewhere, with other permissions and times, in isolation, as by default."""
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path / "deep" / "er", filter="data")
    source = tmp_path / "deep" / "er" / NAME
    for path in source.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & 0o700)
            os.utime(path, (OLD_S, OLD_S))
    for name in ("mds.toml", "market_data/events_2025-10-01.jsonl", "deploy/secrets/http_token", "deploy/.env"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()  # of somebody who uses it there
    (source / "build" / "lib" / "pipeline").mkdir(parents=True)
    (source / "build" / "lib" / "pipeline" / "gone.py").touch()  # as an older build has left it
    constraint = tmp_path / "constraint.txt"
    constraint.write_text(f"setuptools=={version('setuptools')}\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PIP_CONSTRAINT": str(constraint)}
    subprocess.run(
        [sys.executable, "-c", "import os, runpy; os.umask(0o077); runpy.run_module('build', run_name='__main__')"],
        cwd=source, check=True, timeout=100, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    again = sorted((source / "dist").iterdir())
    assert (
        [path.name for path in again] == [path.name for path in built] == [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"]
    )
    for one, other in zip(built, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name

    (source / "build" / "lib" / "pipeline").mkdir(parents=True, exist_ok=True)
    (source / "build" / "lib" / "pipeline" / "gone.py").touch()
    shutil.rmtree(source / "dist")
    (wheel,) = build(source, "--wheel")  # not by way of a source distribution
    assert wheel.read_bytes() == built[0].read_bytes()


def test_the_wheel_has_the_package_and_nothing_else(built: list[Path]) -> None:
    """With the files that are no modules."""
    with ZipFile(built[0]) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"pipeline", f"{NAME}.dist-info"}
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "pipeline").rglob("*.*") if "__pycache__" not in path.parts}
    assert {name for name in names if name.startswith("pipeline/")} == ours
    assert f"{NAME}.dist-info/licenses/LICENSE" in names


def test_the_source_distribution_has_all_that_belongs_to_the_project(built: list[Path]) -> None:
    """Tests, deployment and the recordings of older versions: whoever packages it can test it."""
    with tarfile.open(built[1]) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    assert {"PKG-INFO", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "deploy/packaging/backend.py"} <= names
    assert "tests/recordings/0.1.0/market_data/.mds/checkpoint.json" in names
    assert "notes.txt" not in names
    assert not [name for name in names if name.endswith(".pyc") or ".egg-info" in name or name.startswith(".git/")]


def test_what_it_says_of_itself(built: list[Path]) -> None:
    """The README is what an index shows, and it can be shown."""
    with ZipFile(built[0]) as wheel:
        metadata = message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))
    assert (metadata["Version"], metadata["License"]) == (pipeline.__version__, "MIT")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert markdown.render(str(metadata.get_payload()))
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert changes.index("## [Unreleased]") < changes.index(f"## [{pipeline.__version__}] - ")
