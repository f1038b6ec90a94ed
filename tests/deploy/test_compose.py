"""The compose file: its schema, its wiring, and that each program takes the settings it is given there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.deployment import DEPLOY, compose_schema, yaml_style
from trajmon_server.config import Settings, load_settings

COMPOSE = DEPLOY / "compose" / "compose.yaml"
CONTENT: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, Any] = CONTENT["services"]
SECRETS = DEPLOY / "compose" / "make-secrets"
every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_the_schema_is_kept() -> None:
    assert compose_schema() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    mem_limit: 4g\n", "    memory_limit: 4g\n"),
        ("condition: service_healthy", "condition: service_ready"),
        ('cap_drop: ["ALL"]', "cap_drop: ALL"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, old: str, new: str) -> None:
    text = COMPOSE.read_text()
    assert old in text
    broken = tmp_path / "compose.yaml"
    broken.write_text(text.replace(old, new, 1))
    assert compose_schema(broken) != []


def test_a_planted_fault_of_style_is_found(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(COMPOSE.read_text() + "name: trajmon\n")
    assert 'duplication of key "name"' in " ".join(yaml_style(tmp_path))


@every_service
def test_each_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["mem_limit"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "cap_add"} & set(service)


@every_service
def test_each_image_has_a_version(name: str) -> None:
    _, colon, tag = SERVICES[name]["image"].rpartition(":")
    assert colon
    assert tag[-1].isdigit()
    assert tag.count(".") == 2


@every_service
def test_nothing_listens_beyond_loopback(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every_service
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert (COMPOSE.parent / source).exists(), source
            assert mode == ["ro"]
        else:
            assert source in CONTENT["volumes"]
        assert target.startswith("/")


def test_secrets_are_files_that_are_made_and_never_kept_in_git(tmp_path: Path) -> None:
    wanted = {Path(secret["file"]).name for secret in CONTENT["secrets"].values()}
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == wanted == set(CONTENT["secrets"])
    assert "secrets/" in (COMPOSE.parent / ".gitignore").read_text().split()
    folder = tmp_path / "secrets"
    outcome = subprocess.run([SECRETS, folder], capture_output=True, text=True, timeout=60, check=False)
    if os.geteuid() != 0:
        assert outcome.returncode == 1
        assert "run: sudo" in outcome.stderr
        assert list(folder.iterdir()) == []
        return
    assert {path.name for path in folder.iterdir()} == wanted
    users = {"trajmon_token": "server", "grafana_password": "grafana"}
    before = {}
    for path in folder.iterdir():
        uid = int(SERVICES[users[path.name]]["user"].partition(":")[0])
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (uid, 0o600)
        before[path] = path.read_text()
        assert len(before[path]) == 64
    assert len(set(before.values())) == 2
    subprocess.run([SECRETS, folder], check=True, timeout=60)
    assert {path: path.read_text() for path in folder.iterdir()} == before


def test_who_is_not_root_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        return  # the test above has seen it
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and folder != Path(folder.anchor):
            folder.chmod(folder.stat().st_mode | 0o011)
    script = shutil.copy(SECRETS, tmp_path / "make-secrets")
    outcome = subprocess.run(
        ["setpriv", "--reuid=10002", "--regid=10002", "--clear-groups", script, tmp_path / "secrets"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 1
    assert f"only root can give trajmon_token to user 10001; run: sudo {script}" in outcome.stderr
    assert list((tmp_path / "secrets").iterdir()) == []


def test_the_server_takes_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in SERVICES["server"]["environment"].items():
        monkeypatch.setenv(name, value.replace("${TRAJMON_SERVER_TOKENS:-[]}", "[]"))
        assert not name.startswith("TRAJMON_SERVER_") or name[15:].lower() in Settings.model_fields
    settings = load_settings(None, {}, tmp_path)
    assert str(settings.token_file) == "/run/secrets/trajmon_token"
    assert settings.allow_remote_plaintext
    assert settings.http_hosts == ("server",)


def test_prometheus_takes_its_configuration_which_differs_by_names_alone(tmp_path: Path) -> None:
    ours = COMPOSE.parent / "prometheus.yaml"
    text = ours.read_text()
    for name, port in (("alertmanager", 9093), ("server", 9108)):
        assert text.count(f"{name}:{port}") == 1
        text = text.replace(f"{name}:{port}", f"127.0.0.1:{port}")
    assert yaml.safe_load(text) == yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    shutil.copy(ours, tmp_path)
    shutil.copy(DEPLOY / "prometheus" / "trajmon.rules.yaml", tmp_path)
    outcome = subprocess.run(
        ["promtool", "check", "config", tmp_path / ours.name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr


def test_names_in_addresses_are_services_and_their_ports() -> None:
    listens = {"server": {9108, 8080}, "alertmanager": {9093}, "prometheus": {9090}}
    environment = SERVICES["grafana"]["environment"]
    for key in ("PROMETHEUS_URL", "ALERTMANAGER_URL", "TRAJMON_URL"):
        host, _, port = environment[key].removeprefix("http://").partition(":")
        assert int(port) in listens[host]
    used = ["PROMETHEUS_URL", "ALERTMANAGER_URL", "TRAJMON_URL", "TRAJMON_READ_TOKEN"]
    provisioning = "".join(path.read_text() for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yaml"))
    assert [name for name in used if f"${{{name}}}" not in provisioning] == []


def test_grafana_finds_its_dashboards_where_they_are_mounted() -> None:
    (mounted,) = [volume for volume in SERVICES["grafana"]["volumes"] if "/dashboards:" in volume]
    (provider,) = (DEPLOY / "grafana" / "provisioning" / "dashboards").glob("*.yaml")
    wanted = yaml.safe_load(provider.read_text())["providers"][0]["options"]["path"]
    assert mounted.split(":")[1] == wanted
    assert all(
        json.loads(path.read_text())["uid"]
        for path in (COMPOSE.parent / mounted.split(":")[0]).glob("*.json")
    )


def test_alertmanager_is_given_a_file_that_is_there() -> None:
    (option,) = [text for text in SERVICES["alertmanager"]["command"] if text.startswith("--config.file=")]
    assert (DEPLOY / "alertmanager" / Path(option).name).is_file()
