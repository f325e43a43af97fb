"""Dockerfile and compose.yaml: strictly read, and true to the recorder. `integration.test_container` runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import config
from pipeline.config import HTTP_TOKEN_VARIABLE, SECRET_VARIABLES
from pipeline.supervisor import supervisor
from pipeline.web.guard import PROBE
from tests import compose
from tests.compose import DEPLOY
from tests.integration import image
from tests.integration.machine import SUITE

DOCKERFILE = DEPLOY / "Dockerfile"
IGNORE = DEPLOY / "Dockerfile.dockerignore"
OURS = "market-data-service:local"
SECRETS = {*SECRET_VARIABLES, HTTP_TOKEN_VARIABLE}
HADOLINT = Path(sys.executable).with_name("hadolint")
STEPS = image.instructions(DOCKERFILE)
HEADER = compose.FILE.read_text().partition("\nname:")[0]
SERVICES = compose.load(compose.demo())["services"]
each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def step(instruction):
    """Return what the last of these instructions is given."""
    return [value for name, value in STEPS if name == instruction][-1]


# The image.


def test_dockerfile_is_linted():
    """Hadolint has nothing to say."""
    linter = shutil.which("hadolint") or HADOLINT
    if not Path(linter).exists():
        pytest.skip("needs hadolint, of the extra dev")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_pinned():
    """Each stage begins with the same release of Python, to the patch, on the Debian that the tests have."""
    (default,) = [value for name, value in STEPS[:1] if name == "ARG"]
    assert re.fullmatch(rf"PYTHON=3\.\d+\.\d+-slim-{SUITE}", default)
    assert {value.partition(" AS ")[0] for name, value in STEPS if name == "FROM"} == {"python:${PYTHON}"}


def test_user_has_no_name():
    """The user is a number, by which an orchestrator sees that it is not root; nothing is done after it as root."""
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", step("USER"))
    names = [name for name, _ in STEPS]
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])


def test_it_runs_without_a_shell():
    """Signals reach `mds` itself."""
    assert [json.loads(step(name)) for name in ("ENTRYPOINT", "CMD")] == [["mds"], ["run"]]
    assert step("STOPSIGNAL") == "SIGTERM"
    options, _, command = step("HEALTHCHECK").partition("CMD")
    assert "--timeout=" in options
    assert f"'127.0.0.1', {step('EXPOSE')}" in json.loads(command)[-1]
    assert f"'{PROBE}'" in json.loads(command)[-1]


def test_all_that_it_keeps_is_in_the_volume():
    """The folder that it runs in, and the access token; its user's alone."""
    assert step("VOLUME") == step("WORKDIR") == "/data"
    assert SERVICES["mds"]["volumes"] == ["data:/data"]
    (made,) = re.findall(r"install --directory .*", step("RUN"))
    assert made == "install --directory --owner mds --group mds --mode 0700 /data"


def test_no_secret_is_in_a_layer():
    """Whoever has the image can read its variables and arguments."""
    names = {name for kind, value in STEPS if kind in ("ARG", "ENV") for name in image.pairs(value)}
    assert not {name for name in names if re.search("KEY|SECRET|TOKEN|PASS", name) and not name.endswith("_FILE")}


def test_context():
    """The steps see what the wheel is made of, and nothing else, whatever lies around."""
    files = image.context_files(image.ROOT, IGNORE)
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "pipeline"],
        cwd=image.ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    rest = {path for path in files if not path.startswith(("pipeline/", "deploy/packaging/"))}
    assert rest == {"LICENSE", "README.md", "pyproject.toml", "setup.cfg"}
    assert set(tracked) <= set(files)
    assert not [path for path in files if "__pycache__" in path]


def test_ignored(tmp_path):
    """What holds secrets or recordings is in no layer, were it below a folder of the project, too."""
    ignored = ["mds.toml", "deploy/.env", "deploy/secrets/http_token", "market_data/x.jsonl", "tests/pipeline/x.py"]
    kept = ["pipeline/web/page/dashboard.js", "pipeline/cli/mds.toml"]
    for path in (*ignored, *kept, "pipeline/store/__pycache__/x.pyc", ".git/config"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert image.context_files(tmp_path, IGNORE) == sorted(kept)


# The services.


def test_compose_is_strictly_read():
    """It is what the specification of Compose has, with no key that it does not know."""
    compose_spec = pytest.importorskip("compose_spec", reason="needs compose-spec, of the extra dev")
    text, options = compose.FILE.read_text(), compose_spec.PyOptions(apply_merge=True)
    read = options.from_yaml(text)
    read.validate()
    assert set(read.service_names()) == set(SERVICES)
    with pytest.raises(ValueError, match="read_onyl"):
        options.from_yaml(text.replace("read_only", "read_onyl", 1))


def docker_compose(*arguments):
    """Run it, to its end."""
    return subprocess.run(["docker", "compose", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("profiles", [[], ["--profile", "demo"]], ids=["without", "with"])
def test_compose_itself_reads_it(profiles):
    """Docker Compose makes of it what the tests here do."""
    options = ["-f", compose.FILE, "--env-file", DEPLOY / "demo.env", *profiles]
    if not shutil.which("docker") or docker_compose("version").returncode:
        pytest.skip("needs docker with its plugin compose")
    done = docker_compose(*options, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["name"] == "mds-demo"
    assert set(read["services"]) == {name for name, each in SERVICES.items() if profiles or "profiles" not in each}
    assert read["services"]["mds"]["environment"] == compose.environment(SERVICES["mds"], compose.demo())


def test_what_is_missing_is_said():
    """Without a token there is no start, and a word about what to do."""
    with pytest.raises(compose.MissingVariableError, match=r"HTTP_TOKEN_FILE: .*top of deploy/compose.yaml.*demo\.env"):
        compose.load({})


def test_variables_are_explained():
    """Each that counts is named at the top of the file, and all that demo.env sets count."""
    asked = set(re.findall(r"\$\{(\w+)", compose.FILE.read_text()))
    passed = {
        name for service in SERVICES.values() for name, value in service.get("environment", {}).items() if value is None
    }
    assert {name for name in asked | passed if not re.search(rf"\b{name}\b", HEADER)} == set()
    assert set(compose.demo()) <= asked | passed | {"COMPOSE_PROJECT_NAME"}


def test_no_secret():
    """The files have no secret in them, and none reaches a container by its environment but where it is made up."""
    for service in SERVICES.values():
        assert not {name for name, value in service.get("environment", {}).items() if value and name in SECRETS}
    assert {value for name, value in compose.demo().items() if name in SECRETS} == {"made-up-key", "made-up-token"}
    assert "everybody-knows" in (DEPLOY / compose.demo()["HTTP_TOKEN_FILE"]).read_text()


def test_demo_is_by_itself():
    """What is made up is not stored beside what is recorded."""
    name = yaml.safe_load(compose.FILE.read_text())["name"]
    assert compose.demo()["COMPOSE_PROJECT_NAME"] not in ("", name)


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("name", ["mds", "simulator"])
def test_settings_are_real(name, monkeypatch, tmp_path):
    """The environment of a container, secrets and all, is one that the recorder begins with."""
    loaded = compose.load(compose.demo())
    service = loaded["services"][name]
    given = image.pairs(step("ENV")) | compose.environment(service, compose.demo())
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for target, source in (compose.secrets(loaded, service) if "secrets" in service else {}).items():
        (tmp_path / target).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    found = config.load(need_credentials=name == "mds")
    assert found.token_file == Path("/data/access_token.json")
    if name == "mds":
        assert found.http.token.get_secret_value() == (DEPLOY / "demo.token").read_text().strip()
        assert found.universe.primary
        assert not found.http.is_local
        assert "mds" in found.http.hosts
        assert found.market.calendar == ""  # the simulator trades day and night
        port = SERVICES["simulator"]["environment"]["MDS_SIMULATOR__PORT"]
        assert (found.kite.ws_url, found.kite.api_url) == (f"ws://simulator:{port}", f"http://simulator:{port}")
    else:
        assert found.simulator.port == 9000


@each_service
def test_service_has_no_rights(service):
    """Each is held to its volumes, cannot become more than it is, and does not fill the disk with its log."""
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & service.keys()


@each_service
def test_nobody_else_reaches_it(service):
    """Ports are open on this machine only."""
    assert service["ports"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@each_service
def test_images_are_pinned(service):
    """An image of others has its whole version, our own is made here."""
    if "build" in service:
        assert service["image"] == OURS
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DOCKERFILE)
    else:
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


@each_service
def test_what_is_mounted_is_there(service):
    """Files and folders come from here, read-only; all else is a volume of the file."""
    volumes = yaml.safe_load(compose.FILE.read_text())["volumes"]
    for source, _, mode in (volume.partition(":") for volume in service.get("volumes", ())):
        if source.startswith("./"):
            assert (DEPLOY / source).exists()
            assert mode.endswith(":ro")
        else:
            assert source in volumes


@each_service
def test_service_comes_back(service):
    """After a death, and after a restart of the machine, unless it was stopped by hand."""
    assert service["restart"] == "unless-stopped"


def test_recorder_waits_for_the_simulator():
    """Until it answers, where it is started at all."""
    assert SERVICES["mds"]["depends_on"] == {"simulator": {"condition": "service_healthy", "required": False}}
    assert SERVICES["simulator"]["profiles"] == ["demo"]
    assert f":{SERVICES['simulator']['environment']['MDS_SIMULATOR__PORT']}:" in SERVICES["simulator"]["ports"][0]


def test_it_has_time_to_end():
    """All that it waits for at its end fits into what Docker gives it."""
    longest_s = sum(
        (
            supervisor.WORKERS_END_S,
            supervisor.WRITER_END_S,
            supervisor.SIMULATOR_END_S,
            supervisor.OWN_EVENTS_S,
            supervisor.LAST_WORDS_S,
        )
    )
    assert float(SERVICES["mds"]["stop_grace_period"].removesuffix("s")) > 2 * longest_s


def test_healthcheck_asks_where_it_listens():
    """The port is the same inside, outside and in the image."""
    port = step("EXPOSE")
    assert SERVICES["mds"]["environment"]["MDS_HTTP__LISTEN"] == f"0.0.0.0:{port}"
    assert SERVICES["mds"]["ports"] == [f"127.0.0.1:{port}:{port}"]


# Prometheus.


def test_prometheus_scrapes_the_recorder():
    """It differs from the one beside a recorder without a container in whom it asks, and with which token."""
    inside, beside = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text()) for name in ("compose.yml", "prometheus.yml")
    )
    (job,) = inside["scrape_configs"]
    assert job.pop("static_configs") == [{"targets": [f"mds:{step('EXPOSE')}"]}]
    assert job.pop("authorization") == {"credentials_file": f"/run/secrets/{SERVICES['prometheus']['secrets'][0]}"}
    (other,) = beside.pop("scrape_configs")
    other.pop("static_configs")
    assert job == other
    assert inside | {"scrape_configs": None} == beside | {"scrape_configs": None}


def mounted(name):
    """Return what is mounted in a service, by where it is there."""
    volumes = (volume.split(":") for volume in SERVICES[name]["volumes"])
    return {target: source for source, target, *_ in volumes}


def test_prometheus_finds_its_files():
    """Settings and rules are where it looks for them, and what it stores is in a volume."""
    options = dict(option.removeprefix("--").split("=", 1) for option in SERVICES["prometheus"]["command"])
    found, file = mounted("prometheus"), options["config.file"]
    assert found[file] == "./prometheus/compose.yml"
    for name in yaml.safe_load((DEPLOY / found[file]).read_text())["rule_files"]:
        assert found[str(Path(file).parent / name)] == "./prometheus/rules.yml"
    assert found[options["storage.tsdb.path"]] == "prometheus"


def test_prometheus_reads_it():
    """Its own tool finds nothing wrong."""
    if not shutil.which("promtool"):
        pytest.skip("needs promtool, of the Debian package prometheus")
    command = ["promtool", "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "compose.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Grafana.


def test_grafana_finds_its_files():
    """Data source and dashboards are where it looks for them, and the dashboard is what it begins with."""
    settings, found = SERVICES["grafana"]["environment"], mounted("grafana")
    assert found["/etc/grafana/provisioning"] == "./grafana/provisioning"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/mds.yaml").read_text())["providers"]
    assert found[provider["options"]["path"]] == "./grafana/dashboards"
    home = Path(settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (DEPLOY / found[str(home.parent)] / home.name).exists()
    assert settings["PROMETHEUS_URL"] == f"http://prometheus:{SERVICES['prometheus']['ports'][0].rpartition(':')[2]}"


def test_grafana_is_for_looking_only():
    """It knows no password, and so nobody who may change anything."""
    expected = {
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_AUTH_BASIC_ENABLED": "false",
        "GF_AUTH_DISABLE_LOGIN_FORM": "true",
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
    }
    assert expected.items() <= SERVICES["grafana"]["environment"].items()
