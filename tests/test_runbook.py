"""deploy/RUNBOOK.md names commands, settings and files that there are; its units are units; the backup refuses well."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tests.test_readme import SECTIONS, find

ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "deploy/RUNBOOK.md").read_text(encoding="utf-8")
BACKUP = ROOT / "deploy/backup"
MADE = ("deploy/.env", "deploy/secrets")  # by who installs it
BLOCKS = re.findall(r"^```([a-z]+)\n(.*?)^```$", RUNBOOK, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```$", "", RUNBOOK, flags=re.MULTILINE | re.DOTALL)
QUOTED = [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", PROSE)]


def called():
    """Return the arguments of each `mds` in shell lines and in the prose."""
    lines = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()] + QUOTED
    found = [re.search(r"(?:^|^sudo |^sudo env \S+ )mds ([a-z].*)", line) for line in lines]
    return sorted({match[1] for match in found if match})


@pytest.mark.parametrize("line", called())
def test_a_command_line(line):
    """Its command is there, and takes these options."""
    context, rest = find(shlex.split(line, comments=True))
    options = {name for parameter in context.command.get_params(context) for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= options
    takes_arguments = any(isinstance(p, click.Argument) for p in context.command.get_params(context))
    assert takes_arguments or not rest or rest[0].startswith("-")


def test_settings_are_there():
    """What is written as section.key is one."""
    keys = [match for text in QUOTED for match in re.findall(r"^([a-z]+)\.([a-z_]+)$", text) if match[0] in SECTIONS]
    assert len(keys) > 5
    assert [key for section, key in keys if key not in SECTIONS[section]] == []


def test_files_that_are_named_are_there():
    """In deploy/, in shell lines and in the prose."""
    named = set(re.findall(r"\bdeploy/[A-Za-z0-9_./-]*[A-Za-z0-9]", RUNBOOK))
    assert "deploy/backup" in named
    assert sorted(path for path in named if not path.startswith(MADE) and not (ROOT / path).exists()) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_its_units(tmp_path):
    """systemd has nothing to say against them."""
    service, timer = (text for language, text in BLOCKS if language == "ini")
    (tmp_path / "mds-backup.service").write_text(service.replace("/usr/local/sbin/mds-backup", str(BACKUP)))
    (tmp_path / "mds-backup.timer").write_text(timer)
    done = subprocess.run(
        ["systemd-analyze", "verify", *tmp_path.iterdir()], check=False, capture_output=True, text=True
    )
    # Of the machine's own units there may be something to say.
    assert "mds-backup" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [((), "usage: "), (("to", "nowhere"), "nowhere: no such folder; the second argument names the data folder")],
)
def test_a_backup_that_cannot_be(tmp_path, arguments, told):
    """It says what is wrong, and makes nothing."""
    done = subprocess.run([BACKUP, *arguments], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync")
def test_a_file_that_vanishes_is_no_failure_and_one_that_cannot_be_read_is(tmp_path):
    """What rsync says of the one is passed over, of the other not; what could be copied is."""
    source, copy, stand_in = tmp_path / "from", tmp_path / "to", tmp_path / "bin/rsync"
    source.mkdir()
    (source / "market_data_2025-10-01.jsonl").write_text("{}\n{")
    stand_in.parent.mkdir()
    for code, expected, text in ((24, 0, "{}\n"), (23, 1, "{}\n{")):
        stand_in.write_text(f'#!/bin/sh\n{shutil.which("rsync")} "$@"\nexit {code}\n')
        stand_in.chmod(0o755)
        environment = {"PATH": f"{stand_in.parent}:/usr/bin:/bin"}
        done = subprocess.run([BACKUP, copy, source], check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == expected, done.stderr
        assert (copy / "market_data_2025-10-01.jsonl").read_text() == text
