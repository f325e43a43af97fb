"""`mds init`: what it writes is what was answered, and explains every setting; nothing is written over."""

import io
import os
import re
import sys
import tomllib
from datetime import time
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline import config
from pipeline.cli import template
from pipeline.cli.init import Answers, opening_hours, parse_full, parse_words, settings

pytestmark = pytest.mark.usefixtures("no_settings")

MDS = str(Path(sys.executable).with_name("mds"))
DEADLINE_S = 30
TEMPLATE = template.TEMPLATE.read_text(encoding="utf-8")
# Without a default of their own: what the template shows for each.
EXAMPLES = {
    ("kite", "access_token_file"): Path("~/.config/mds/access_token.json"),
    ("storage", "spool_dir"): Path("market_data/spool"),
    ("market", "connect"): time(8, 55),
    ("market", "disconnect"): time(15, 35),
    ("log", "file"): Path("mds.log"),
    ("simulator", "record"): Path("sent"),
}
SECTIONS = {
    name: field.annotation
    for name, field in config.Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys_of(text):
    """Return section and key of each line that is a setting, behind a # or not."""
    section, keys = "", []
    for line in text.split("\n"):
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif key := re.match(r"#?(\w+) = ", line):
            keys.append((section, key[1]))
    return keys


def taken(text):
    """Return the template with the # of every setting taken away."""
    return re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)


# The template.


def test_the_template_has_every_key_once():
    """Every section and key of the settings is in it, in the section where it belongs, and nothing else."""
    expected = [(name, key) for name, model in SECTIONS.items() for key in model.model_fields]
    assert sorted(keys_of(TEMPLATE)) == sorted(expected)
    assert re.findall(r"^\[(\w+)\]$", TEMPLATE, re.MULTILINE) == list(dict.fromkeys(s for s, _ in keys_of(TEMPLATE)))


def test_the_template_shows_the_defaults(folder):
    """As it is it changes nothing; taken at its word it says the defaults, and examples where there is none."""
    (folder / "mds.toml").write_text(TEMPLATE)
    assert config.load() == config.Config()
    (folder / "mds.toml").write_text(taken(TEMPLATE))
    shown = config.load()
    for name, model in SECTIONS.items():
        for key, field in model.model_fields.items():
            expected = EXAMPLES.get((name, key), getattr(getattr(config.Config(), name), key))
            assert getattr(getattr(shown, name), key) == expected, f"{name}.{key}"
            assert (field.default is None) == ((name, key) in EXAMPLES), f"{name}.{key}"
    assert shown.spool_dir == config.Config().spool_dir


def test_the_template_explains_each_key():
    """Prose goes before every setting, or before the first of those that belong together; lines are not long."""
    for block in re.split(r"^\[\w+\]$", TEMPLATE, flags=re.MULTILINE)[1:]:
        assert block.lstrip("\n").startswith("# ")
    assert max(map(len, TEMPLATE.splitlines())) <= 120
    assert all(line == "" or line[0] in "#[" for line in TEMPLATE.splitlines())


def test_only_known_keys_are_filled_in():
    """A setting that the template has not is a mistake of ours."""
    with pytest.raises(KeyError):
        template.fill(TEMPLATE, {("storage", "primary"): (1,)})


# What is written is what was answered.

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
tokens = st.integers(min_value=1, max_value=2**32 - 1)
symbols = st.from_regex(r"[A-Z]{2,5}:[^\s:\x00][^:\x00]{0,30}", fullmatch=True).filter(lambda s: s.isprintable())
words = st.lists(tokens | symbols, unique=True, max_size=40).map(tuple)
hours = st.none() | st.sampled_from([("08:55", "15:35"), ("08:55", "23:59")])


@given(st.builds(Answers, names.map(Path), words, words, hours))
def test_the_file_says_what_was_answered(tmp_path_factory, answers):
    """The written file loads, and differs from the defaults in the answers alone."""
    file = tmp_path_factory.getbasetemp() / "answered.toml"
    text = template.fill(TEMPLATE, settings(answers))
    file.write_text(text, encoding="utf-8")
    opens, closes = map(time.fromisoformat, answers.hours) if answers.hours else (None, None)
    assert config.load(file) == config.Config().with_changes(
        storage={"data_dir": answers.data_dir},
        universe={"primary": answers.quote, "secondary": answers.full},
        market={"connect": opens, "disconnect": closes},
    )
    assert sorted(keys_of(text)) == sorted(keys_of(TEMPLATE))


@given(st.lists(tokens | st.from_regex(r"[A-Z]{2,5}:[A-Z][A-Z0-9&-]{0,30}", fullmatch=True), unique=True).map(tuple))
def test_words_are_read_as_they_are_shown(several):
    """Words with commas between them are those words, whatever blanks are around."""
    assert parse_words(" ,, ".join(map(str, several))) == several


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        (" , ,", ()),
        ("NSE:INFY,408065", ("NSE:INFY", 408065)),
        ("NSE:INFY NSE:TCS 408065 738561", ("NSE:INFY", "NSE:TCS", 408065, 738561)),
        ("NSE:NIFTY 50, NSE:NIFTY MIDSML 400 NSE:M&M", ("NSE:NIFTY 50", "NSE:NIFTY MIDSML 400", "NSE:M&M")),
        ("INFY, 0408065, 408065", ("INFY", 408065)),
    ],
)
def test_words_as_people_type_them(text, expected):
    """Commas stand between words; blanks do where what follows can only be another word."""
    assert parse_words(text) == expected


@pytest.mark.parametrize("text", ["0", "4294967296", "NSE:", ":INFY", "NSE:A:B", "INFY, 0", "9" * 4000, "A" * 65])
def test_words_that_are_none(text):
    """The first wrong one is named."""
    with pytest.raises(Exception, match=re.escape(repr(text.split(", ")[-1]))):
        parse_words(text)


def test_what_is_recorded_in_full_mode():
    """Some of the instruments, by any case, or all; another one is named."""
    among = ("NSE:INFY", 408065, "NSE:NIFTY 50")
    assert parse_full("", among) == ()
    assert parse_full(" ALL ", among) == among
    assert parse_full("nse:nifty 50, 408065,408065", among) == ("NSE:NIFTY 50", 408065)
    with pytest.raises(Exception, match="'NSE:INFI' is not among them: NSE:INFY, 408065"):
        parse_full("NSE:INFY, NSE:INFI", among)


@pytest.mark.parametrize(
    ("recorded", "until"),
    [
        (("NSE:INFY", "INFY", 408065, 256265), "15:35"),
        (("NSE:INFY", "CDS:USDINR25OCTFUT"), "17:05"),
        (
            (
                408065,
                412675,
            ),
            "17:05",
        ),
        (("NSE:INFY", "CDS:USDINR25OCTFUT", "mcx:GOLD25OCTFUT"), "23:59"),
        ((408065, 112129 * 256 + 7), "23:59"),
    ],
)
def test_until_when_it_is_connected(recorded, until):
    """Until the last of what is recorded has closed."""
    assert opening_hours(recorded) == ("08:55", until)


# The command.


class Terminal(io.StringIO):
    """A standard input with somebody before it."""

    def isatty(self):
        return True


@pytest.fixture
def answer(run_mds, monkeypatch):
    """Runs `mds init` with these lines typed."""

    def run(*lines, options=()):
        monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))
        return run_mds("init", *options)

    return run


@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_without_a_terminal(run_mds, monkeypatch, folder, options):
    """Nothing is asked; the file has the defaults, and what comes next is said."""
    monkeypatch.setattr(sys, "stdin", Terminal("elsewhere\n") if options else io.StringIO("elsewhere\n"))
    code, out, error = run_mds("init", *options)
    assert (code, error) == (0, "")
    assert out.startswith("Wrote mds.toml, which explains every setting. To be recorded: nothing yet.\n")
    assert re.findall(r"^  (mds .*?) {2,}", out, re.MULTILINE) == ["mds login", "mds doctor", "mds run"]
    assert "mds subscribe NSE:INFY" in out
    assert (folder / "mds.toml").read_text() == TEMPLATE


def test_no_standard_input_at_all(run_mds, monkeypatch, folder):
    """As with a pipe: the defaults."""
    monkeypatch.setattr(sys, "stdin", None)
    assert run_mds("init")[0] == 0
    assert (folder / "mds.toml").read_text() == TEMPLATE


def test_all_questions(answer, folder):
    """The answers are in the file, and in the words on what comes next is the file's name."""
    lines = ('/data/"kite" \\ größe', "NSE:INFY, NSE:NIFTY 50, 408065, MCX:GOLD25OCTFUT", "nse:infy", "y")
    code, out, error = answer(*lines, options=("--config", "my settings.toml"))
    assert code == 0
    assert "To be recorded: 3 instruments in quote mode and 1 instrument in full mode.\n" in out
    assert "mds run --config 'my settings.toml'" in out
    assert "from 08:55 to 23:59 on trading days only?" in error
    loaded = config.load(folder / "my settings.toml")
    assert loaded.storage.data_dir == Path('/data/"kite" \\ größe')
    assert loaded.universe.primary == ("NSE:NIFTY 50", 408065, "MCX:GOLD25OCTFUT")
    assert loaded.universe.secondary == ("NSE:INFY",)
    assert (loaded.market.connect, loaded.market.disconnect) == (time(8, 55), time(23, 59))


def test_enter_is_the_default(answer, folder):
    """Who only presses Enter gets what --yes writes."""
    assert answer("", "")[0] == 0
    assert (folder / "mds.toml").read_text() == TEMPLATE
    (folder / "mds.toml").unlink()
    assert answer("", "NSE:INFY", "", "")[0] == 0
    assert config.load() == config.Config().with_changes(universe={"primary": ("NSE:INFY",)})


def test_a_wrong_answer_is_asked_again(answer, folder, monkeypatch):
    """What is wrong is said, and the question comes again."""
    monkeypatch.setenv("HOME", "/home/me")
    (folder / "file").touch()
    pasted = "NSE:INFY, " * 500
    lines = (
        "file",
        "~nobody-of-this-name/x",
        "a\0b",
        "\x1b[A",
        "x" * 300,
        "~/kite",
        pasted,
        "NSE:INFY, NSE:",
        "INFY",
        "TCS",
        "all",
        "no",
    )
    code, _, error = answer(*lines)
    assert code == 0
    for said in (
        "Error: file is a file, not a folder",
        "Error: this cannot be a folder: Could not determine home",
        "Error: this cannot be a folder: File name too long",
        "Error: there are characters in it that cannot be seen",
        "Error: this is as much as a terminal takes at once",
        "Error: 'NSE:': a symbol is written \"NSE:INFY\"",
        "Error: 'TCS' is not among them: INFY",
    ):
        assert said in error
    assert config.load() == config.Config().with_changes(
        storage={"data_dir": Path("/home/me/kite")}, universe={"secondary": ("INFY",)}
    )


def test_the_input_ends(answer, folder):
    """Ctrl-D at a question writes nothing."""
    code, out, error = answer("", "NSE:INFY")
    assert (code, out) == (1, "")
    assert error.endswith("Aborted!\n")
    assert list(folder.iterdir()) == []


def test_input_that_is_no_text(run_mds, monkeypatch, folder):
    """One line says so, and nothing is written."""

    class Bytes(io.TextIOWrapper):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Bytes(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8"))
    code, out, error = run_mds("init")
    assert (code, out) == (2, "")
    assert error.endswith("mds: standard input: not text (UTF-8); nothing was written\n")
    assert list(folder.iterdir()) == []


def test_what_is_there_is_left_alone(answer, run_mds, monkeypatch, folder):
    """A file, a folder and a link that leads nowhere: nothing is asked, nothing is changed."""
    (folder / "mds.toml").write_text("[kite]\n")
    (folder / "link.toml").symlink_to("nowhere.toml")
    for options in ((), ("--yes",), ("--config", "link.toml")):
        code, out, error = answer("elsewhere", options=options)
        name = options[1] if len(options) > 1 else "mds.toml"
        assert (code, out) == (2, "")
        assert (
            error
            == f"mds: {name} is there already and was left as it is: edit it, or name another file with --config\n"
        )
    monkeypatch.setenv("MDS_CONFIG", "mds.toml")
    assert answer(options=("--config", "other.toml", "--yes"))[0] == 0
    (folder / "other.toml").unlink()
    assert answer("elsewhere")[0] == 2
    assert (folder / "mds.toml").read_text() == "[kite]\n"
    assert sorted(path.name for path in folder.iterdir()) == ["link.toml", "mds.toml"]
    assert run_mds("init", "--config", str(folder))[0] == 2


def test_a_file_that_comes_meanwhile_is_left_alone(run_mds, monkeypatch, folder):
    """Whoever was first has written the file; the other is told."""

    class Slow(Terminal):
        def readline(self, *_):
            (folder / "mds.toml").write_text("[kite]\n")
            return "\n"

    monkeypatch.setattr(sys, "stdin", Slow())
    code, _, error = run_mds("init")
    assert code == 2
    assert "mds: mds.toml is there already" in error
    assert (folder / "mds.toml").read_text() == "[kite]\n"


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("none/mds.toml", "there is no folder none: make it first"),
        ("file/mds.toml", "there is no folder file: make it first"),
        ("/proc/mds.toml", "cannot be written: "),
        ("x" * 300, "cannot be written: File name too long"),
    ],
)
def test_places_that_take_no_file(run_mds, folder, path, cause):
    """One line says why and what to do; exit code 2."""
    (folder / "file").touch()
    code, out, error = run_mds("init", "--yes", "--config", path)
    assert (code, out) == (2, "")
    assert error.startswith(f"mds: {path}: {cause}")
    assert error.count("\n") == 1
    assert [entry.name for entry in folder.iterdir()] == ["file"]


def test_a_full_disk(run_mds, monkeypatch, folder):
    """What cannot be written whole is not written at all."""
    full = os.strerror(28)
    monkeypatch.setattr(os, "write", lambda _fd, data: len(data) // 2)
    code, out, error = run_mds("init", "--yes")
    assert (code, out) == (2, "")
    assert error == f"mds: mds.toml: cannot be written: {full}; name another file with --config\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("end", ["answers", "ctrl-c"])
def test_on_a_terminal(folder, end):
    """The real command on a real terminal: questions, answers, the file; at Ctrl-C none."""
    environment = dict(os.environ, COLUMNS="100")
    child = pexpect.spawn(MDS, ["init"], cwd=folder, env=environment, timeout=DEADLINE_S, encoding="utf-8")
    child.expect_exact("Folder [market_data]:")
    child.sendline("")
    child.expect_exact("Instruments:")
    child.sendline("NSE:INFY, NSE:TCS")
    child.expect_exact("In full mode:")
    if end == "ctrl-c":
        child.sendintr()
    else:
        child.sendline("NSE:TCS")
        child.expect_exact("on trading days only? [y/N]:")
        child.sendline("y")
        child.expect_exact("mds login")
    child.expect(pexpect.EOF)
    child.close()
    if end == "ctrl-c":
        assert (child.exitstatus, list(folder.iterdir())) == (1, [])
        return
    assert child.exitstatus == 0
    written = tomllib.loads((folder / "mds.toml").read_text())
    assert {name: section for name, section in written.items() if section} == {
        "universe": {"primary": ["NSE:INFY"], "secondary": ["NSE:TCS"]},
        "market": {"connect": "08:55", "disconnect": "15:35"},
    }
