"""The Kubernetes objects: schemas, wiring between them, and that a real server answers as they expect."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.deployment import DEPLOY, OVERLAYS, generated, kubernetes_core, kubernetes_extensions
from support.haproxy import CONFIG as HAPROXY
from support.kustomize import render
from support.server import ServerProcess
from support.tls import Authority, context_of, get, server_environment
from trajmon_protos.v1 import ingest_pb2, query_pb2
from trajmon_server.config import Settings, load_settings

Object = dict[str, Any]
KUBERNETES = DEPLOY / "kubernetes"
HEADER = "x-trajmon-run"


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Object]:
    return render(KUBERNETES / "overlays" / request.param)


@pytest.fixture
def replicas() -> list[Object]:
    return render(KUBERNETES / "overlays" / "replicas")


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def the(objects: list[Object], kind: str, name: str = "trajmon") -> Object:
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def pod(objects: list[Object]) -> Object:
    template: Object = the(objects, "StatefulSet")["spec"]["template"]
    return template


def server(objects: list[Object]) -> Object:
    (container,) = pod(objects)["spec"]["containers"]
    return container  # type: ignore[no-any-return]


def ports(objects: list[Object]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in server(objects)["ports"]}


def settings(objects: list[Object], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the server makes of the ConfigMap and of its environment."""
    for variable in server(objects)["env"]:
        assert variable["name"].removeprefix("TRAJMON_SERVER_").lower() in Settings.model_fields
        monkeypatch.setenv(variable["name"], variable.get("value", "trajmon-0"))
    path = folder / "server.toml"
    path.write_text(the(objects, "ConfigMap")["data"]["server.toml"])
    return load_settings(path, {}, folder)


# Schemas


def test_kubernetes_and_the_makers_of_extensions_take_every_object(overlay: list[Object]) -> None:
    assert kubernetes_core(overlay) == []
    assert kubernetes_extensions(overlay) == []


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("StatefulSet", ["spec", "replica"], 3),
        ("StatefulSet", ["spec", "template", "spec", "terminationGracePeriodSeconds"], "30s"),
        ("Service", ["spec", "port"], 1),
        ("NetworkPolicy", ["spec", "policyTypes"], "Ingress"),
        ("PodDisruptionBudget", ["spec", "maxUnavailables"], 1),
    ],
)
def test_a_fault_planted_in_a_core_object_is_found(
    replicas: list[Object], kind: str, path: list[str], value: Any
) -> None:
    broken = copy.deepcopy(the(replicas, kind))
    assert kubernetes_core([broken]) == []
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (problem,) = kubernetes_core([broken])
    assert problem.startswith(f"{kind} trajmon: ")


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("ServiceMonitor", "trajmon", ["spec", "endpoints"], {"port": "metrics"}),
        ("ServiceMonitor", "trajmon", ["spec", "selector"], None),
        ("PrometheusRule", "trajmon", ["spec", "groups"], [{"rules": []}]),
        ("GRPCRoute", "trajmon", ["spec", "hostnames"], "example.org"),
        (
            "HTTPRoute",
            "trajmon",
            ["spec", "rules"],
            [{"matches": [{"path": {"type": "Suffix", "value": "/"}}]}],
        ),
        ("Gateway", "trajmon", ["spec", "listeners"], [{"name": "https", "port": "443"}]),
        ("BackendTrafficPolicy", "trajmon-grpc", ["spec", "loadBalancer"], {"type": "Sticky"}),
        ("BackendTLSPolicy", "trajmon", ["spec", "validation"], {}),
        ("Certificate", "trajmon", ["spec", "issuerRef"], None),
    ],
)
def test_a_fault_planted_in_an_extension_is_found(
    replicas: list[Object], kind: str, name: str, path: list[str], value: Any
) -> None:
    broken = copy.deepcopy(the(replicas, kind, name))
    assert kubernetes_extensions([broken]) == []
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert kubernetes_extensions([broken])[0].startswith(f"{kind} {name}: ")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("ServiceMonitor", ["spec", "endpoints", 0, "tlsConfig"]),
        ("PrometheusRule", ["spec", "groups", 0, "rules", 0]),
        ("GRPCRoute", ["spec", "rules", 0]),
        ("ClientTrafficPolicy", ["spec", "timeout", "http"]),
        ("Certificate", ["metadata"]),
    ],
)
def test_a_key_that_is_in_no_schema_is_found(
    replicas: list[Object], kind: str, path: list[str | int]
) -> None:
    broken = copy.deepcopy(the(replicas, kind))
    place: Any = broken
    for key in path:
        place = place[key]
    place["mistyped"] = 1
    where = "/".join(str(key) for key in path)
    assert kubernetes_extensions([broken]) == [f"{kind} trajmon: /{where}/mistyped is in no schema"]


def test_an_extension_without_a_schema_is_found(replicas: list[Object]) -> None:
    stranger = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x"}}
    assert kubernetes_extensions([stranger]) == ["Thing x: no schema for example.org/v1"]
    misnamed = {**the(replicas, "ServiceMonitor"), "kind": "ServiceMonitors"}
    assert kubernetes_extensions([misnamed])[0].startswith("ServiceMonitors trajmon: ")


def test_an_object_that_does_not_fit_is_found() -> None:
    big = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "big"},
        "data": {"a": "x" * (1 << 20)},
    }
    assert kubernetes_core([big]) == ["ConfigMap big: larger than one MiB"]


# Generated files


def generate(deploy: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(deploy / "kubernetes" / "generate.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_generated_files_are_what_they_are_generated_from(tmp_path: Path) -> None:
    assert generated() == []
    rule = the(render(KUBERNETES / "monitoring"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "trajmon.rules.yaml").read_text())
    shown = {
        name: json.loads(text)
        for item in of_kind(render(KUBERNETES / "monitoring"), "ConfigMap")
        for name, text in item["data"].items()
    }
    files = (DEPLOY / "grafana" / "dashboards").glob("*.json")
    assert shown == {path.name: json.loads(path.read_text()) for path in files}


def test_a_change_that_was_not_generated_is_found(tmp_path: Path) -> None:
    for folder in ("prometheus", "grafana/dashboards", "kubernetes/monitoring"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "prometheus" / "trajmon.rules.yaml").write_text("groups:\n  - name: one\n    rules: []\n")
    (tmp_path / "grafana" / "dashboards" / "trajmon-run.json").write_text('{"uid": "x"}')
    (tmp_path / "kubernetes" / "generate.py").write_text((KUBERNETES / "generate.py").read_text())
    assert generate(tmp_path, "--check").returncode == 1
    assert generate(tmp_path).returncode == 0
    assert generate(tmp_path, "--check").returncode == 0
    (tmp_path / "prometheus" / "trajmon.rules.yaml").write_text("groups:\n  - name: two\n    rules: []\n")
    outcome = generate(tmp_path, "--check")
    assert (outcome.returncode, outcome.stderr) == (
        1,
        "prometheusrule.yaml is not what it is generated from; run: make kubernetes-monitoring\n",
    )


def test_the_rules_of_the_object_are_a_file_that_prometheus_takes(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(the(render(KUBERNETES / "monitoring"), "PrometheusRule")["spec"]))
    outcome = subprocess.run(
        ["promtool", "check", "rules", rules], capture_output=True, text=True, timeout=60, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


# Wiring


def test_selectors_meet_the_pods_and_the_pods_alone(overlay: list[Object]) -> None:
    labels = pod(overlay)["metadata"]["labels"].items()
    workload = the(overlay, "StatefulSet")["spec"]
    spread = pod(overlay)["spec"]["topologySpreadConstraints"]
    selectors = [
        workload["selector"]["matchLabels"],
        *(item["spec"]["selector"] for item in of_kind(overlay, "Service")),
        *(item["spec"]["selector"]["matchLabels"] for item in of_kind(overlay, "PodDisruptionBudget")),
        *(item["labelSelector"]["matchLabels"] for item in spread),
        the(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    assert the(overlay, "Service", workload["serviceName"])["spec"]["clusterIP"] == "None"


def test_ports_have_one_meaning(
    overlay: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = settings(overlay, tmp_path, monkeypatch)
    listens = {
        name: int(address.rpartition(":")[2])
        for name, address in (("grpc", taken.grpc), ("web", taken.http), ("metrics", taken.metrics))
    }
    assert ports(overlay) == listens
    for service in of_kind(overlay, "Service"):
        for port in service["spec"]["ports"]:
            assert port["port"] == listens[port["targetPort"]]
    for rule in the(overlay, "NetworkPolicy")["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= set(listens)
        assert rule["from"]
    probes = [server(overlay)[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {"web"}
    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]


def test_what_is_mounted_is_declared_and_settings_point_there(
    overlay: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = pod(overlay)["spec"]
    declared = {volume["name"] for volume in spec["volumes"]}
    declared |= {
        claim["metadata"]["name"] for claim in the(overlay, "StatefulSet")["spec"]["volumeClaimTemplates"]
    }
    containers = spec["containers"] + spec["initContainers"]
    assert {mount["name"] for container in containers for mount in container["volumeMounts"]} == declared
    writable = [m["mountPath"] for m in server(overlay)["volumeMounts"] if not m.get("readOnly")]
    readable = [m["mountPath"] for m in server(overlay)["volumeMounts"]]
    taken = settings(overlay, tmp_path, monkeypatch)
    for path, folders in (
        (taken.data_dir, writable),
        (taken.token_file, writable),
        (taken.announce_file, writable),
        (taken.tls.certificate, readable),
        (taken.tls.key, readable),
    ):
        assert any(str(path).startswith(f"{folder}/") for folder in folders), path
    assert str(taken.token_file) == spec["initContainers"][0]["command"][-1]
    (config,) = [m for m in server(overlay)["volumeMounts"] if m["name"] == "config"]
    assert config["mountPath"] == server(overlay)["args"][-1]
    assert taken.stop_grace_seconds < spec["terminationGracePeriodSeconds"]
    assert taken.replica_id == "trajmon-0"


def test_pods_are_what_the_restricted_standard_asks_for(overlay: list[Object]) -> None:
    spec = pod(overlay)["spec"]
    assert (
        the(overlay, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    )
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"] + spec["initContainers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
    assert spec["automountServiceAccountToken"] is False
    assert the(overlay, "ServiceAccount")["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert the(overlay, "NetworkPolicy", "default-deny")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_prometheus_scrapes_one_service_and_calls_it_trajmon(overlay: list[Object]) -> None:
    monitor = the(overlay, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    (met,) = [item for item in of_kind(overlay, "Service") if wanted <= item["metadata"]["labels"].items()]
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert met["metadata"]["name"] == scrape["job_name"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in met["spec"]["ports"]}
    assert monitor["sampleLimit"] == scrape["sample_limit"]
    certificate = the(overlay, "Certificate")["spec"]
    assert endpoint["tlsConfig"]["serverName"] in certificate["dnsNames"]
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == certificate["secretName"]


def test_one_replica_keeps_its_journal_and_three_share_one(tmp_path: Path) -> None:
    taken = {}
    for name in OVERLAYS:
        objects = render(KUBERNETES / "overlays" / name)
        with pytest.MonkeyPatch.context() as patch:
            taken[name] = (
                settings(objects, tmp_path, patch).journal_url,
                the(objects, "StatefulSet")["spec"]["replicas"],
            )
    assert taken == {"single": ("", 1), "replicas": ("s3://trajmon/journal", 3)}


def test_the_gateway_leads_to_the_server(
    replicas: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = {item["metadata"]["name"]: item for item in of_kind(replicas, "Service")}
    listeners = {item["name"] for item in the(replicas, "Gateway")["spec"]["listeners"]}
    for kind, port in (("GRPCRoute", "grpc"), ("HTTPRoute", "web")):
        route = the(replicas, kind)["spec"]
        assert {parent["sectionName"] for parent in route["parentRefs"]} <= listeners
        (rule,) = route["rules"]
        (backend,) = rule["backendRefs"]
        numbers = {item["name"]: item["port"] for item in services[backend["name"]]["spec"]["ports"]}
        assert backend["port"] == numbers[port]
    served = {
        match["method"]["service"] for match in the(replicas, "GRPCRoute")["spec"]["rules"][0]["matches"]
    }
    assert served == {
        ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name,
        query_pb2.DESCRIPTOR.services_by_name["QueryService"].full_name,
        "grpc.health.v1.Health",
    }
    certificate = the(replicas, "Certificate")["spec"]["dnsNames"]
    assert the(replicas, "BackendTLSPolicy")["spec"]["validation"]["hostname"] in certificate
    names = settings(replicas, tmp_path, monkeypatch).http_hosts
    assert set(the(replicas, "HTTPRoute")["spec"]["hostnames"]) <= set(names)
    for policy in of_kind(replicas, "BackendTrafficPolicy") + of_kind(replicas, "ClientTrafficPolicy"):
        for target in policy["spec"]["targetRefs"]:
            assert the(replicas, target["kind"], target["name"])


def test_calls_are_spread_by_the_header_that_agents_send(replicas: list[Object]) -> None:
    policy = the(replicas, "BackendTrafficPolicy", "trajmon-grpc")["spec"]
    assert policy["loadBalancer"]["consistentHash"]["header"]["name"] == HEADER
    assert f"balance hdr({HEADER})" in HAPROXY.read_text()
    sources = (DEPLOY.parent / "client" / "trajmon" / "agent").rglob("*.py")
    assert any(f'"{HEADER}"' in path.read_text() for path in sources)


# A real server, asked as the kubelet asks


def test_a_real_server_answers_the_probes(overlay: list[Object], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    environment = server_environment(authority.issue("server"))
    started = ServerProcess(tmp_path / "home", environment=environment).start()
    try:
        context = context_of(authority.file)
        for name in ("startup", "liveness", "readiness"):
            probe = server(overlay)[f"{name}Probe"]["httpGet"]
            assert probe["scheme"] == "HTTPS"
            sent = {header["name"]: header["value"] for header in probe["httpHeaders"]}
            assert get(started.addresses["http"], probe["path"], context, **sent).status == 200
            # Without the header the kubelet names the pod's address, which the server does not know.
            assert get(started.addresses["http"], probe["path"], context, Host="10.1.2.3:8080").status == 400
    finally:
        started.stop()
