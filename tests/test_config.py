"""The settings: file, environment, and every way to get them wrong."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.config import CHILD_VARIABLE, MAX_INSTRUMENTS, Config, from_child, load
from pipeline.credentials import StoredToken, TokenFile
from pipeline.errors import ConfigError

DEADLINE_S = 20
EVERYTHING = """
[kite]
ws_url = "wss://ws.kite.trade"
api_url = "https://api.kite.trade"
max_connections = 3
[storage]
data_dir = "market_data"
timezone = "Asia/Kolkata"
commit_interval_ms = 50
[runtime]
run_dir = "run"
[universe]
primary = [408065]
secondary = [738561]
[failover]
[http]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, and an environment without settings."""
    for variable in list(os.environ):
        if variable.startswith(("MDS_", "KITE_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults():
    """Without a file and variables everything has its documented value."""
    config = load()
    assert config == Config()
    assert config.kite.ws_url == "wss://ws.kite.trade"
    assert config.storage.timezone == "Asia/Kolkata"
    assert config.storage.commit_interval_ms == 50
    assert config.spool_dir == Path("market_data/spool")


def test_every_documented_key_is_read(folder):
    """The documented file is understood whole, and says what the defaults say, the universe aside."""
    (folder / "mds.toml").write_text(EVERYTHING)
    config = load()
    assert config.universe.primary == (408065,)
    assert config.universe.secondary == (738561,)
    assert config.with_changes(universe={"primary": (), "secondary": ()}) == Config()


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("MDS_KITE__WS_URL", "ws://127.0.0.1:9", lambda c: c.kite.ws_url == "ws://127.0.0.1:9"),
        ("MDS_KITE__API_URL", "http://127.0.0.1:9", lambda c: c.kite.api_url == "http://127.0.0.1:9"),
        ("MDS_KITE__MAX_CONNECTIONS", "1", lambda c: c.kite.max_connections == 1),
        ("MDS_KITE__ACCESS_TOKEN_FILE", "/a/token", lambda c: c.token_file == Path("/a/token")),
        ("MDS_STORAGE__DATA_DIR", "elsewhere", lambda c: c.storage.data_dir == Path("elsewhere")),
        ("MDS_STORAGE__TIMEZONE", "UTC", lambda c: c.storage.timezone == "UTC"),
        ("MDS_STORAGE__COMMIT_INTERVAL_MS", "0", lambda c: c.storage.commit_interval_ms == 0),
        ("MDS_STORAGE__SPOOL_DIR", "/queue", lambda c: c.spool_dir == Path("/queue")),
        ("MDS_STORAGE__RESERVE_MB", "1", lambda c: c.storage.reserve_mb == 1),
        ("MDS_RUNTIME__RUN_DIR", "/somewhere", lambda c: c.runtime.run_dir == Path("/somewhere")),
        ("MDS_UNIVERSE__PRIMARY", "[1, 2]", lambda c: c.universe.primary == (1, 2)),
        ("MDS_UNIVERSE__SECONDARY", "[]", lambda c: c.universe.secondary == ()),
        ("MDS_UNIVERSE__OVERFLOW", "spill", lambda c: c.universe.overflow == "spill"),
        ("KITE_API_KEY", "k", lambda c: c.api_key.get_secret_value() == "k"),
        ("KITE_ACCESS_TOKEN", "t", lambda c: c.access_token.get_secret_value() == "t"),
    ],
)
def test_the_environment_wins_over_the_file(folder, monkeypatch, variable, value, read):
    """Each setting can come from a variable, which leaves the file's other keys as they are."""
    (folder / "mds.toml").write_text(EVERYTHING)
    monkeypatch.setenv(variable, value)
    config = load()
    assert read(config)
    assert config.universe.primary == (408065,) or variable == "MDS_UNIVERSE__PRIMARY"


def test_which_file_is_read(folder, monkeypatch):
    """The option wins over MDS_CONFIG, and that over mds.toml."""
    for number, name in enumerate(("mds.toml", "variable.toml", "option.toml"), start=1):
        (folder / name).write_text(f"[storage]\ncommit_interval_ms = {number}")
    assert load().storage.commit_interval_ms == 1
    monkeypatch.setenv("MDS_CONFIG", "variable.toml")
    assert load().storage.commit_interval_ms == 2
    assert load(Path("option.toml")).storage.commit_interval_ms == 3


TOO_MANY = list(range(1, MAX_INSTRUMENTS + 2))

WRONG_FILES = {
    "unknown section": ("[nonsense]\n", r"mds\.toml: nonsense: unknown section, known are kite, storage"),
    "key outside of sections": ("ws_url = 'ws://h'", r"mds\.toml: ws_url: unknown section"),
    "section that is a value": ("kite = 3", r"mds\.toml: kite: is a section, written as \[kite\]"),
    "section that is a list": ("[[kite]]\nws_url = 'ws://h'", r"mds\.toml: kite: is a section"),
    "unknown key": ("[kite]\nws_ulr = 'ws://h'", r"mds\.toml: kite\.ws_ulr: unknown key"),
    "text for a number": ("[storage]\ncommit_interval_ms = '50'", r"mds\.toml: storage\.commit_interval_ms: .*integer"),
    "truth for a number": ("[kite]\nmax_connections = true", r"mds\.toml: kite\.max_connections: .*integer"),
    "float for a number": ("[kite]\nmax_connections = 2.0", r"mds\.toml: kite\.max_connections: .*integer"),
    "infinity": ("[kite]\nmax_connections = inf", r"mds\.toml: kite\.max_connections: "),
    "number for text": ("[storage]\ntimezone = 5", r"mds\.toml: storage\.timezone: .*string"),
    "number for a path": ("[runtime]\nrun_dir = 5", r"mds\.toml: runtime\.run_dir: "),
    "too many connections": ("[kite]\nmax_connections = 4", r"mds\.toml: kite\.max_connections: .*\(it is 4\)"),
    "no connections": ("[kite]\nmax_connections = 0", r"mds\.toml: kite\.max_connections: "),
    "negative interval": ("[storage]\ncommit_interval_ms = -1", r"mds\.toml: storage\.commit_interval_ms: "),
    "time zone": ("[storage]\ntimezone = 'Asia/Bombay2'", r"storage\.timezone: no time zone is called 'Asia/Bombay2'"),
    "time zone that is a folder": ("[storage]\ntimezone = 'Asia'", r"storage\.timezone: no time zone is called"),
    "time zone outside": ("[storage]\ntimezone = '../../etc/passwd'", r"storage\.timezone: no time zone is called"),
    "empty time zone": ("[storage]\ntimezone = ''", r"storage\.timezone: no time zone is called"),
    "scheme": ("[kite]\nws_url = 'https://h'", r"kite\.ws_url: must be a ws or wss URL with a host"),
    "no host": ("[kite]\napi_url = 'https://'", r"kite\.api_url: must be a http or https URL with a host"),
    "port": ("[kite]\nws_url = 'ws://h:99999'", r"kite\.ws_url: must be a ws or wss URL"),
    "no URL": ("[kite]\nws_url = ''", r"kite\.ws_url: must be a ws or wss URL"),
    "token file without a name": ("[kite]\naccess_token_file = ''", r"kite\.access_token_file: names no file"),
    "token file that is a number": ("[kite]\naccess_token_file = 5", r"mds\.toml: kite\.access_token_file: "),
    "one token": ("[universe]\nprimary = 408065", r"mds\.toml: universe\.primary: "),
    "token 0": ("[universe]\nprimary = [1, 0]", r"mds\.toml: universe\.primary\.1: .*greater than 0"),
    "token below 0": ("[universe]\nprimary = [-5]", r"mds\.toml: universe\.primary\.0: "),
    "token 2**32": (f"[universe]\nsecondary = [{2**32}]", r"mds\.toml: universe\.secondary\.0: .*less than 4294967296"),
    "huge token": (f"[universe]\nsecondary = [{2**70}]", r"mds\.toml: universe\.secondary\.0: "),
    "token as text": ("[universe]\nprimary = ['408065']", r"mds\.toml: universe\.primary\.0: .*integer"),
    "token as float": ("[universe]\nprimary = [408065.0]", r"mds\.toml: universe\.primary\.0: .*integer"),
    "token as truth": ("[universe]\nprimary = [true]", r"mds\.toml: universe\.primary\.0: .*integer"),
    "too many tokens": (f"[universe]\nprimary = {TOO_MANY}", r"universe\.primary: 3001 instruments, .* holds 3000"),
    "unknown overflow": ("[universe]\noverflow = 'drop'", r"mds\.toml: universe\.overflow: .*'refuse' or 'spill'"),
    "overflow that is none": ("[universe]\noverflow = true", r"mds\.toml: universe\.overflow: .*'refuse' or 'spill'"),
    "too many tokens for one connection": (
        f"[universe]\nsecondary = {TOO_MANY}\noverflow = 'refuse'",
        r"universe\.secondary: 3001 instruments, one connection holds 3000",
    ),
    "too many tokens for two connections": (
        f"[universe]\noverflow = 'spill'\nsecondary = {list(range(1, 2 * MAX_INSTRUMENTS + 2))}",
        r"universe\.secondary: 6001 instruments, two connections hold 6000",
    ),
    "no port": ("[http]\nlisten = '127.0.0.1'", r"mds\.toml: http\.listen: must be \"host:port\""),
    "port 0": ("[http]\nlisten = '127.0.0.1:0'", r"mds\.toml: http\.listen: must be"),
    "IPv6 without brackets": ("[http]\nlisten = '::1:8080'", r"mds\.toml: http\.listen: must be"),
    "brackets around a name": ("[http]\nlisten = '[localhost]:8080'", r"mds\.toml: http\.listen: must be"),
    "a name with an empty label": ("[http]\nlisten = 'a..b:8080'", r"mds\.toml: http\.listen: must be"),
    "a name with a zero in it": ('[http]\nlisten = "a\\u0000:8080"', r"mds\.toml: http\.listen: must be"),
    "open to all": ("[http]\nlisten = '0.0.0.0:8080'", r"mds\.toml: http: others can reach .*: set http\.token"),
    "open to some": ("[http]\nlisten = 'recorder.local:80'", r"mds\.toml: http: others can reach .*: set http\.token"),
    "token with a blank": ("[http]\ntoken = 's3cret t'", r"mds\.toml: http\.token: must be printable ASCII"),
    "token as number": ("[http]\ntoken = 5", r"mds\.toml: http\.token: "),
    "open, and a secret elsewhere": ("[http]\nlisten = '[::]:80'\nhosts = ['s3cret']", r"http: others can reach"),
    "quote that does not end": ('[notify]\ncommand = "a \'b"', r"notify\.command: cannot be split"),
    "no time at all": ("[notify]\ntimeout_s = 0", r"mds\.toml: notify\.timeout_s: "),
    "secret at the top": ("api_key = 's3cret'", r"mds\.toml: api_key: secrets are not read from this file"),
    "API secret": ("[kite]\napi_secret = 's3cret'", r"kite\.api_secret: secrets are not read from this"),
    "API secret by its variable": ("KITE_API_SECRET = 's3cret'", r"KITE_API_SECRET: secrets are not read from this"),
    "secret by its variable": ("KITE_ACCESS_TOKEN = 's3cret'", r"KITE_ACCESS_TOKEN: secrets are not read from this"),
    "secret in a section": ("[kite]\naccess_token = 's3cret'", r"kite\.access_token: .*secrets are not read"),
    "not TOML": ("[kite\n", r"mds\.toml: not valid TOML: .*line 1"),
    "not text": (b"\xff\xfe\x00", r"mds\.toml: not valid TOML: "),
    "key twice": ("[kite]\n[kite]\n", r"mds\.toml: not valid TOML: "),
}


@pytest.mark.parametrize(("content", "line"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_what_is_wrong_in_the_file(folder, content, line):
    """One line names the file and the key, and says what is wrong; no secret is repeated."""
    (folder / "mds.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=line) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value)) < 300


WRONG_VARIABLES = {
    "unknown section": ("MDS_NONSENSE__KEY", "1", r"^MDS_NONSENSE__KEY: unknown variable"),
    "unknown key": ("MDS_KITE__NONSENSE", "1", r"^MDS_KITE__NONSENSE: kite\.nonsense: unknown key"),
    "no key": ("MDS_KITE", "{}", r"^MDS_KITE: unknown variable, they are called MDS_<SECTION>__<KEY>"),
    "small letters": ("mds_kite__ws_url", "ws://h", r"^mds_kite__ws_url: unknown variable"),
    "wrong type": ("MDS_KITE__MAX_CONNECTIONS", "many", r"^MDS_KITE__MAX_CONNECTIONS: kite\.max_connections: "),
    "empty": ("MDS_KITE__MAX_CONNECTIONS", "", r"^MDS_KITE__MAX_CONNECTIONS: kite\.max_connections: "),
    "time zone": ("MDS_STORAGE__TIMEZONE", "Mars", r"^MDS_STORAGE__TIMEZONE: storage\.timezone: "),
    "overflow": ("MDS_UNIVERSE__OVERFLOW", "drop", r"^MDS_UNIVERSE__OVERFLOW: universe\.overflow: .*'spill'"),
    "list that is none": ("MDS_UNIVERSE__PRIMARY", "1,2", r"universe.*MDS_UNIVERSE__PRIMARY=\[408065\]"),
    "token": ("MDS_UNIVERSE__PRIMARY", "[0]", r"^MDS_UNIVERSE__PRIMARY: universe\.primary\.0: "),
    "file that is not there": (
        "MDS_CONFIG",
        "none.toml",
        r"^none\.toml: no such file; MDS_CONFIG or --config names it",
    ),
    "file that is a folder": ("MDS_CONFIG", ".", r"^\.: Is a directory"),
}


@pytest.mark.parametrize(("variable", "value", "line"), WRONG_VARIABLES.values(), ids=WRONG_VARIABLES.keys())
def test_what_is_wrong_in_the_environment(monkeypatch, variable, value, line):
    """One line names the variable and says what is wrong with it."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=line) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_each_wrong_key_has_its_line(folder):
    """Two mistakes are told at once, a line each."""
    (folder / "mds.toml").write_text("[kite]\nws_ulr = 1\nmax_connections = 7\n")
    with pytest.raises(ConfigError) as caught:
        load()
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["kite.max_connections", "kite.ws_ulr"]


@pytest.mark.parametrize("given", ["KITE_API_KEY", "KITE_ACCESS_TOKEN"])
def test_missing_credentials(monkeypatch, given):
    """The one that is missing is named, and the way to do without; only commands that need them ask."""
    monkeypatch.setenv(given, "value")
    missing = ({"KITE_API_KEY", "KITE_ACCESS_TOKEN"} - {given}).pop()
    with pytest.raises(ConfigError, match=rf"^{missing} is not set: .* mds run --simulate$"):
        load(need_credentials=True)
    monkeypatch.setenv(missing, "")
    with pytest.raises(ConfigError, match=f"^{missing} is not set"):
        load(need_credentials=True)
    load()


@pytest.mark.parametrize("variable", ["KITE_API_KEY", "KITE_ACCESS_TOKEN"])
@pytest.mark.parametrize("value", ["canary-v4lue\r", "canary v4lue", "canary-v\u00e4lue"])
def test_credentials_that_cannot_be_any(monkeypatch, variable, value):
    """With what files of other systems have at a line's end Kite could not be asked: it is named, and not shown."""
    for name in ("KITE_API_KEY", "KITE_ACCESS_TOKEN"):
        monkeypatch.setenv(name, "k")
    assert load(need_credentials=True).api_key.get_secret_value() == "k"
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{variable} cannot be used: it has ") as error:
        load(need_credentials=True)
    assert "canary" not in str(error.value)
    load()


def stored_in(path, token):
    """Return the path, which has this token."""
    TokenFile(path).write(SecretStr(token))
    return path


def test_the_stored_token_is_for_where_none_is_given(folder, monkeypatch):
    """Commands that need credentials take the token file's where the environment has none; an empty one is none."""
    monkeypatch.setenv("KITE_API_KEY", "k")
    with pytest.raises(
        ConfigError,
        match=rf"nor is there a token in {folder}/config/mds/access_token\.json; log in with: mds login; or",
    ):
        load(need_credentials=True)
    stored_in(folder / "config" / "mds" / "access_token.json", "the_stored_one")
    assert load(need_credentials=True).access_token.get_secret_value() == "the_stored_one"
    assert "the_stored_one" in load(need_credentials=True).secrets
    assert load().access_token.get_secret_value() == ""
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "")
    assert load(need_credentials=True).access_token.get_secret_value() == "the_stored_one"
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "the_given_one")
    assert load(need_credentials=True).access_token.get_secret_value() == "the_given_one"
    monkeypatch.delenv("KITE_ACCESS_TOKEN")
    monkeypatch.setenv("MDS_KITE__ACCESS_TOKEN_FILE", str(stored_in(folder / "other", "another")))
    assert load(need_credentials=True).access_token.get_secret_value() == "another"


def test_the_stored_key_is_for_where_none_is_given(folder, monkeypatch):
    """After a login no variable is needed; a token of another app than the given key's is refused, not used."""
    file = TokenFile(folder / "config" / "mds" / "access_token.json")
    file.write(SecretStr("the_stored_one"), api_key=SecretStr("the_k3y"), user_id="AB1234")
    loaded = load(need_credentials=True)
    assert (loaded.api_key.get_secret_value(), loaded.access_token.get_secret_value()) == ("the_k3y", "the_stored_one")
    assert {"the_k3y", "the_stored_one"} <= {*loaded.secrets}
    monkeypatch.setenv("KITE_API_KEY", "the_k3y")
    assert load(need_credentials=True).access_token.get_secret_value() == "the_stored_one"
    monkeypatch.setenv("KITE_API_KEY", "an0ther_key")
    with pytest.raises(
        ConfigError, match=rf"^{file.path}: this token was made for another API key .* mds login"
    ) as caught:
        load(need_credentials=True)
    assert "k3y" not in str(caught.value)
    assert "an0ther" not in str(caught.value)
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "the_given_one")
    assert load(need_credentials=True).api_key.get_secret_value() == "an0ther_key"
    monkeypatch.delenv("KITE_API_KEY")
    loaded = load(need_credentials=True)
    assert (loaded.api_key.get_secret_value(), loaded.access_token.get_secret_value()) == ("the_k3y", "the_given_one")
    assert load().api_key.get_secret_value() == ""


def test_a_token_that_is_stored_later(monkeypatch):
    """It goes before what there was, with the key that it was made for; without one the key stays."""
    monkeypatch.setenv("KITE_API_KEY", "the_k3y")
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "the_t0ken")
    now = datetime.now(UTC)
    config = load(need_credentials=True)
    later = config.with_stored(StoredToken(access_token=SecretStr("later"), stored_at=now))
    assert (later.api_key.get_secret_value(), later.access_token.get_secret_value()) == ("the_k3y", "later")
    assert later.hash == config.hash
    later = later.with_stored(StoredToken(access_token=SecretStr("latest"), stored_at=now, api_key=SecretStr("other")))
    assert (later.api_key.get_secret_value(), later.access_token.get_secret_value()) == ("other", "latest")


def test_a_token_file_that_cannot_be_used(folder, monkeypatch):
    """It is named, unless the token comes from elsewhere or is not needed: then nobody looks."""
    stored_in(folder / "config" / "mds" / "access_token.json", "s3cret").chmod(0o644)
    monkeypatch.setenv("KITE_API_KEY", "k")
    with pytest.raises(
        ConfigError, match=rf"^{folder}/config/mds/access_token\.json: is open to other users"
    ) as caught:
        load(need_credentials=True)
    assert "s3cret" not in str(caught.value)
    load()
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "t")
    load(need_credentials=True)


def test_where_the_token_file_is(folder, monkeypatch):
    """By default in the user's config folder, as the XDG specification has it; a relative one there does not count."""
    (folder / "mds.toml").write_text("")
    assert load().token_file == folder / "config" / "mds" / "access_token.json"
    monkeypatch.setenv("HOME", str(folder / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert load().token_file == folder / "home" / ".config" / "mds" / "access_token.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert load().token_file == folder / "home" / ".config" / "mds" / "access_token.json"
    for given, path in (("~/t", folder / "home" / "t"), ("t", folder / "t"), ("/t", Path("/t"))):
        (folder / "mds.toml").write_text(f"[kite]\naccess_token_file = '{given}'")
        assert load().resolved().token_file == path


def test_nobody_has_a_home(folder, monkeypatch):
    """Where no home folder is found, the setting is named; with the setting none is needed."""

    def find_nobody(_):
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", find_nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    with pytest.raises(ConfigError, match=r"^kite\.access_token_file: ~/\.config/mds/access_token\.json: .*home"):
        load().resolved()
    monkeypatch.setenv("MDS_KITE__ACCESS_TOKEN_FILE", "t")
    assert load().resolved().token_file == folder / "t"


def test_repeated_tokens_are_one_instrument(folder):
    """Repeats do not count against the limit: the list is taken, and the instrument subscribed once."""
    tokens = list(range(1, MAX_INSTRUMENTS + 1))
    (folder / "mds.toml").write_text(f"[universe]\nprimary = {[*tokens, *tokens]}")
    assert len(set(load().universe.primary)) == MAX_INSTRUMENTS


def test_what_overflows_is_refused_unless_it_may_spill(folder):
    """One connection is the limit of a list by default; with "spill" it is two, wherever in the section that stands."""
    assert load().universe.overflow == "refuse"
    for content in (f"overflow = 'spill'\nprimary = {TOO_MANY}", f"primary = {TOO_MANY}\noverflow = 'spill'"):
        (folder / "mds.toml").write_text(f"[universe]\n{content}")
        assert len(load().universe.primary) == MAX_INSTRUMENTS + 1
        assert load().universe.overflow == "spill"


def test_the_limit_of_a_list_is_that_of_the_setting_that_counts(folder, monkeypatch):
    """A variable that lets the file's list spill, or no longer, wins over what the file says of it."""
    (folder / "mds.toml").write_text(f"[universe]\nprimary = {TOO_MANY}\noverflow = 'spill'")
    monkeypatch.setenv("MDS_UNIVERSE__OVERFLOW", "refuse")
    with pytest.raises(ConfigError, match=r"universe\.primary: 3001 instruments, one connection holds 3000"):
        load()
    (folder / "mds.toml").write_text(f"[universe]\nprimary = {TOO_MANY}")
    monkeypatch.setenv("MDS_UNIVERSE__OVERFLOW", "spill")
    assert len(load().universe.primary) == MAX_INSTRUMENTS + 1


def test_a_child_gets_the_same_configuration(folder, monkeypatch):
    """What goes to a child comes back equal, secrets included, and these are not in the JSON."""
    monkeypatch.setenv("KITE_API_KEY", "the_k3y")
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "the_t0ken")
    (folder / "mds.toml").write_text(EVERYTHING)
    config = load().resolved()
    environment = config.to_child()
    assert from_child(environment) == config
    assert from_child(environment).hash == config.hash
    assert from_child(environment).token_file == folder / "config" / "mds" / "access_token.json"
    assert from_child(environment).secrets == ("the_k3y", "the_t0ken")
    assert "the_k3y" not in environment[CHILD_VARIABLE]
    assert "the_t0ken" not in environment[CHILD_VARIABLE]
    for shown in (repr(config), str(config), config.model_dump_json()):
        assert "the_k3y" not in shown
        assert "the_t0ken" not in shown


def test_a_child_without_a_supervisor():
    """Starting a role by hand says who starts it."""
    with pytest.raises(ConfigError, match="started by `mds run`, not by hand"):
        from_child({})


def test_resolved_paths_are_absolute(folder):
    """A process with another working folder finds the same files."""
    config = load().resolved()
    assert config.storage.data_dir == folder / "market_data"
    assert config.spool_dir == folder / "market_data" / "spool"
    assert config.state_dir.parent == folder / "market_data"
    assert config.runtime.run_dir == folder / "run"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MDS_KITE__WS_URL", "ws://h"),
        ("MDS_KITE__MAX_CONNECTIONS", "2"),
        ("MDS_KITE__ACCESS_TOKEN_FILE", "/t"),
        ("MDS_STORAGE__TIMEZONE", "UTC"),
        ("MDS_STORAGE__DATA_DIR", "d"),
        ("MDS_RUNTIME__RUN_DIR", "r"),
        ("MDS_UNIVERSE__SECONDARY", "[5]"),
        ("MDS_UNIVERSE__OVERFLOW", "spill"),
        ("MDS_SIMULATOR__SEED", "5"),
        ("KITE_API_KEY", "k"),
        ("MDS_HTTP__LISTEN", ""),
        ("MDS_HTTP__TOKEN", "t"),
        ("MDS_NOTIFY__COMMAND", "c"),
        ("MDS_LOG__LEVEL", "debug"),
        ("MDS_STORAGE__COMPACT", "true"),
        ("MDS_INSTRUMENTS__SYNC", "false"),
        ("MDS_MARKET__CALENDAR", ""),
    ],
)
def test_the_hash_tells_every_change(monkeypatch, variable, value):
    """Any setting changes the hash, reading it again or another access token does not; it shows nothing of a secret.

    Recording does not rest on who looks on, what is logged, or what becomes of days that are over.
    """
    others = ("MDS_HTTP", "MDS_NOTIFY", "MDS_LOG", "MDS_STORAGE__COMPACT", "MDS_INSTRUMENTS", "MDS_MARKET")
    looks_on = variable.startswith(others)
    before = (load().hash, load().http_hash)
    assert (load().hash, load().http_hash) == before
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "t")
    assert (load().hash, load().http_hash) == before
    monkeypatch.setenv(variable, value)
    assert (load().hash == before[0]) == looks_on
    assert load().http_hash != before[1]
    assert re.fullmatch("[0-9a-f]{16}", load().hash)


@pytest.mark.parametrize("level", ["debug", "INFO", "Warning", "eRROR"])
def test_a_log_level_in_any_case(monkeypatch, folder, level):
    """It is written as anyone likes, in file and environment."""
    (folder / "mds.toml").write_text(f'[log]\nlevel = "{level}"\n')
    assert load().log.level == level.lower()
    monkeypatch.setenv("MDS_LOG__LEVEL", level.swapcase())
    assert load().log.level == level.lower()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('level = "loud"', "log.level: input should be 'debug', 'info', 'warning' or 'error' (it is 'loud')"),
        ('format = "xml"', "log.format: input should be 'text' or 'json' (it is 'xml')"),
        ('file = ""', "log.file: names no file"),
        ("max_mb = 0", "log.max_mb: input should be greater than or equal to 1 (it is 0)"),
        ("keep = 0", "log.keep: input should be greater than or equal to 1 (it is 0)"),
        ("level = 10", "log.level: input should be 'debug', 'info', 'warning' or 'error' (it is 10)"),
        ("colour = true", "log.colour: unknown key"),
    ],
)
def test_wrong_log_settings(folder, line, told):
    """One line names the key."""
    (folder / "mds.toml").write_text(f"[log]\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        load()
    assert str(raised.value).startswith(f"mds.toml: {told}")
    assert "\n" not in str(raised.value)


def test_the_log_file_is_where_mds_run_was_started(folder):
    """Its path does not change with the working folder; none stays none."""
    assert load().resolved().log.file is None
    (folder / "mds.toml").write_text('[log]\nfile = "logs/mds.log"\n')
    assert load().resolved().log.file == folder / "logs" / "mds.log"


@pytest.mark.parametrize(
    ("listen", "address", "is_local"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080), True),
        ("127.9.9.9:1", ("127.9.9.9", 1), True),
        ("localhost:80", ("localhost", 80), True),
        ("[::1]:65535", ("::1", 65535), True),
        ("0.0.0.0:8080", ("0.0.0.0", 8080), False),  # noqa: S104  nothing is bound
        ("[::]:8080", ("::", 8080), False),
        ("recorder.local:8080", ("recorder.local", 8080), False),
        ("", None, True),
    ],
)
def test_where_the_status_pages_are(folder, monkeypatch, listen, address, is_local):
    """Only what this machine alone can reach needs no token; the token is in nothing that is shown or written."""
    (folder / "mds.toml").write_text(f"[http]\nlisten = '{listen}'")
    if not is_local:
        with pytest.raises(ConfigError, match=r"set http\.token"):
            load()
    monkeypatch.setenv("MDS_HTTP__TOKEN", "s3cret-t0ken")
    config = load()
    assert (config.http.address, config.http.is_local) == (address, is_local)
    environment = config.to_child()
    assert "s3cret" not in environment[CHILD_VARIABLE] + repr(config) + config.model_dump_json()
    assert "s3cret-t0ken" in config.secrets
    monkeypatch.delenv("MDS_HTTP__TOKEN")
    (folder / "mds.toml").unlink()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    child = from_child()
    assert child.http.token.get_secret_value() == "s3cret-t0ken"
    assert (child.hash, child.http_hash) == (config.hash, config.http_hash)


@pytest.mark.parametrize(
    ("command", "argv"), [("", []), ("notify", ["notify"]), ("a 'b c' \"d\"", ["a", "b c", "d"]), ("  ", [])]
)
def test_a_command_is_split_as_a_shell_does(monkeypatch, command, argv):
    """Program and arguments, for nothing is run by a shell."""
    monkeypatch.setenv("MDS_NOTIFY__COMMAND", command)
    assert load().notify.argv == argv


@pytest.mark.parametrize(
    ("arguments", "content", "variables", "line"),
    [
        ([], None, {}, "KITE_API_KEY is not set"),
        ([], None, {"KITE_API_KEY": "k"}, "KITE_ACCESS_TOKEN is not set"),
        ([], "[nonsense]", {"KITE_API_KEY": "k", "KITE_ACCESS_TOKEN": "t"}, "mds.toml: nonsense: unknown section"),
        (["--simulate"], "[universe]\nprimary = [0]", {}, "universe.primary.0: "),
        (["--simulate"], None, {"MDS_KITE__NONSENSE": "1"}, "MDS_KITE__NONSENSE: kite.nonsense: unknown key"),
        (["--simulate"], "[kite", {}, "mds.toml: not valid TOML"),
        (["--simulate"], None, {"MDS_CONFIG": "none.toml"}, "none.toml: no such file"),
    ],
)
def test_nothing_is_started_or_made(folder, arguments, content, variables, line):
    """`mds run` with a wrong configuration prints one line, exits with 2, and leaves the folder as it was."""
    if content:
        (folder / "mds.toml").write_text(content)
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-m", "pipeline", "run", *arguments, "--duration", "1"]
    environment = os.environ | variables | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mds: ")
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before
