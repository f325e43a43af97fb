"""The README names commands, options and settings that there are."""

import re
import shlex
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from pipeline import config
from pipeline.cli import cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
# In backticks, on one line; in a table a bar is escaped.
QUOTED = [" ".join(text.replace("\\|", "|").split()) for text in re.findall(r"`([^`]+)`", PROSE)]
SECTIONS = {
    name: field.annotation.model_fields
    for name, field in config.Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def blocks(language):
    """Return what is in code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def typed():
    """Return what is typed in the examples, after the `mds`, as the shell understands it."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [shlex.split(line[6:], comments=True) for line in lines if line.startswith("$ mds ")]


def named():
    """Return the command lines in the text; in tables the `mds` before them is left out."""
    commands = cli.list_commands(click.Context(cli))
    lines = [text.removeprefix("mds ") for text in QUOTED if text.startswith("mds ") or text.split()[0] in commands]
    return [shlex.split(line) for line in lines]


def find(words):
    """Return the context of the command and what comes after its name; a group's where that takes no subcommand."""
    context = click.Context(cli)
    while isinstance(context.command, click.Group) and words and not words[0].startswith("-"):
        found = context.command.get_command(context, words[0])
        if found is None and context.command.invoke_without_command:
            break
        assert found, f"mds{context.command_path} has no {words[0]!r}"
        context, words = click.Context(found, parent=context, info_name=words[0]), words[1:]
    return context, words


@pytest.mark.parametrize("words", typed() + named(), ids=" ".join)
def test_a_command_line(words):
    """Its command is there, down to the last subcommand, and has its options and arguments."""
    context, rest = find(words)
    parameters = context.command.get_params(context)
    options = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", " ".join(rest))) <= options
    takes_arguments = any(isinstance(parameter, click.Argument) for parameter in parameters)
    assert takes_arguments or not rest or rest[0].startswith(("-", "["))


@pytest.mark.parametrize("words", typed(), ids=" ".join)
def test_an_example_is_understood(words):
    """What can be copied is taken by its command as it stands; it is not run."""
    context, rest = find(words)
    assert context.command.make_context(context.info_name, rest, parent=context.parent)


def test_settings_are_there():
    """What is written as section.key is a setting, and so is what comes after a section in brackets."""
    keys = [match for text in QUOTED for match in re.findall(r"^([a-z]+)\.([a-z_]+)$", text) if match[0] in SECTIONS]
    keys += [match for text in QUOTED for match in re.findall(r"^\[([a-z]+)\] ([a-z_]+)", text)]
    keys += [(section.lower(), key.lower()) for section, key in re.findall(r"\bMDS_([A-Z]+)__([A-Z_]+)", README)]
    assert [f"{section}.{key}" for section, key in keys if key not in SECTIONS.get(section, {})] == []
    assert len(keys) > 15
    assert {section for text in QUOTED for section in re.findall(r"^\[([a-z]+)\]", text)} <= set(SECTIONS)


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("text", blocks("toml"))
def test_examples_of_settings_are_read(tmp_path, text):
    """Each is a settings file that is understood."""
    (tmp_path / "mds.toml").write_text(text, encoding="utf-8")
    assert config.load(tmp_path / "mds.toml") != config.Config()


@pytest.mark.usefixtures("no_settings", "in_tmp_path")
def test_what_the_doctor_says(run_mds, monkeypatch, tmp_path):
    """The example is what it says where nobody has logged in."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    area, *finding = next(text for text in blocks("") if "why:" in text).splitlines()
    code, told, _ = run_mds("doctor", "--offline")
    assert code == 1
    assert area in told.splitlines()
    assert "\n".join(finding).replace("/home/you/.config", str(tmp_path)) in told
