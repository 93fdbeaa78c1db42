"""The Kubernetes manifests: whole, in step with the settings and metrics, and hardened.

`make check` holds them against Kubernetes' schemas, which refuse an unknown field. What belongs to
KEDA and to the Prometheus Operator has none in a package that does so: it is looked at here.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from kubernetes_validate import latest_version, validate

from darkq import Settings
from integration.gateway.test_memory import MOST_BYTES
from support.deployment import KUBERNETES, ROOT, container, documents, manifests, objects, pod
from support.repository import files_of

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
WORKLOADS = [
    ("Deployment", "darkq-worker"),
    ("Deployment", "darkq-gateway"),
    ("StatefulSet", "darkq-valkey"),
]
SCHEMALESS = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}
CONFIG = objects("ConfigMap")["darkq-config"]["data"]
KUSTOMIZATIONS = files_of(KUBERNETES, "kustomization.yaml")
SETTINGS = Settings(
    _env_file=None, **{k.removeprefix("DARKQ_").lower(): v for k, v in CONFIG.items()}
)


@pytest.mark.parametrize("file", manifests(), ids=lambda file: file.name)
def test_every_object_has_a_schema_or_is_looked_at_here(file: Path) -> None:
    for each in documents(file):
        assert "namespace" not in each["metadata"], "that is the overlay's"
        if each["kind"] not in SCHEMALESS:
            assert validate(each, latest_version(), strict=True)


@pytest.mark.parametrize("file", KUSTOMIZATIONS, ids=lambda file: file.parent.name)
def test_a_kustomization_names_what_is_there(file: Path) -> None:
    (found,) = documents(file)
    kind = "Kustomization" if file.parent.name in ("base", "example") else "Component"
    version = {"Kustomization": "v1beta1", "Component": "v1alpha1"}[kind]
    assert (found["kind"], found["apiVersion"]) == (kind, f"kustomize.config.k8s.io/{version}")
    for name in found["resources"] + found.get("components", []):
        assert (file.parent / name).exists(), name
    if file.parent.name != "example":
        beside = {each.name for each in files_of(file.parent, "*.yaml")} - {file.name}
        assert set(found["resources"]) == beside


def test_the_example_is_made_of_what_is_there() -> None:
    (example,) = documents(KUBERNETES / "example/kustomization.yaml")
    images = {image["name"]: image for image in example["images"]}
    assert images["darkq"]["newTag"] == VERSION
    named = {container(*workload)["image"] for workload in WORKLOADS}
    # Each can be pinned by its digest in one place, and has its tag there until it is.
    valkey = images["valkey/valkey"]
    assert named == {
        f"darkq:{VERSION}",
        f"valkey/valkey:{valkey['newTag']}@{valkey['digest']}",
    }
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", valkey["digest"])
    assert images.keys() == {image.partition(":")[0] for image in named}
    for patch in example["patches"]:
        assert patch["target"]["name"] in objects(patch["target"]["kind"])
        for change in yaml.safe_load(patch["patch"]):
            field, key = change["path"].removeprefix("/").split("/")
            assert field == "data"
            assert change["op"] == ("replace" if key in CONFIG else "add")
    # Two that scale the same workers would pull at them from two sides.
    assert not {"../keda", "../hpa"} <= set(example["components"])


@pytest.mark.parametrize(("kind", "name"), WORKLOADS)
def test_a_pod_may_do_no_more_than_it_needs(kind: str, name: str) -> None:
    spec, only = pod(kind, name), container(kind, name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["limits"]["memory"]
    assert {"cpu", "memory"} <= only["resources"]["requests"].keys()
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= only.keys()


@pytest.mark.parametrize(("kind", "name"), WORKLOADS[:2])
def test_user_and_version_are_those_of_the_image(kind: str, name: str) -> None:
    (user, group), *_ = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M)
    context = pod(kind, name)["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert container(kind, name)["image"] == f"darkq:{VERSION}"


def test_a_pod_that_is_to_end_has_its_grace() -> None:
    worker, gateway = pod("Deployment", "darkq-worker"), pod("Deployment", "darkq-gateway")
    assert worker["terminationGracePeriodSeconds"] >= SETTINGS.worker_shutdown_grace_s + 15
    command = container("Deployment", "darkq-gateway")["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    first_s = int(command[1])
    assert gateway["terminationGracePeriodSeconds"] >= first_s + SETTINGS.gateway_drain_s + 10


def test_a_pod_is_no_longer_ready_before_its_gateway_stops_listening() -> None:
    command = container("Deployment", "darkq-gateway")["lifecycle"]["preStop"]["exec"]["command"]
    assert 5 <= int(command[1]) < SETTINGS.gateway_drain_s


def test_ports_are_the_one_that_the_gateway_listens_on() -> None:
    gateway = container("Deployment", "darkq-gateway")
    assert gateway["ports"] == [{"name": "http", "containerPort": SETTINGS.gateway_port}]
    for probe in ("startup", "readiness", "liveness"):
        assert gateway[f"{probe}Probe"]["httpGet"]["port"] == "http"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/healthz"
    service = objects("Service")["darkq-gateway"]["spec"]["ports"][0]
    assert (service["port"], service["targetPort"]) == (SETTINGS.gateway_port, "http")
    for name, policy in objects("NetworkPolicy").items():
        if name.startswith("darkq-gateway-from-"):
            (rule,) = policy["spec"]["ingress"]
            assert rule["ports"] == [{"port": SETTINGS.gateway_port}]


def test_every_rule_of_the_network_names_its_peers() -> None:
    """Red when a rule lets in, or out to Redis and names, whoever has the port."""
    labels = objects("Deployment")["darkq-gateway"]["spec"]["template"]["metadata"]["labels"]
    rules = [
        (name, side, rule)
        for name, policy in objects("NetworkPolicy").items()
        for side in ("ingress", "egress")
        for rule in policy["spec"].get(side, ())
    ]
    assert len(rules) >= 9
    for name, side, rule in rules:
        peers, ports = rule["from" if side == "ingress" else "to"], rule["ports"]
        assert peers, name
        assert ports, name
        for peer in peers:
            pods = peer.get("podSelector", {}).get("matchLabels")
            assert pods or "ipBlock" in peer, (name, "every Pod of a namespace")
            if "ipBlock" in peer and peer["ipBlock"]["cidr"] in ("0.0.0.0/0", "::/0"):
                assert ports == [{"port": 443}], name
                assert len(peer["ipBlock"]["except"]) >= 2
    for name in ("darkq-worker", "darkq-gateway"):
        assert objects("NetworkPolicy")[name]["spec"]["ingress"] == []
    for name in ("darkq-to-valkey", "darkq-to-redis"):
        selected = objects("NetworkPolicy")[name]["spec"]["podSelector"]["matchLabels"]
        assert selected.items() <= labels.items()
    (peer,) = objects("NetworkPolicy")["darkq-to-valkey"]["spec"]["egress"][0]["to"]
    valkey = objects("StatefulSet")["darkq-valkey"]["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"] == valkey


def test_a_gateway_may_hold_what_it_was_measured_to() -> None:
    """Tenants and readers; tests/integration/gateway/test_memory.py measures a tenant's share."""
    limit = container("Deployment", "darkq-gateway")["resources"]["limits"]["memory"]
    readers = SETTINGS.gateway_max_readers * (24 << 10)
    assert int(limit.removesuffix("Mi")) << 20 >= MOST_BYTES + readers


def test_the_gateway_knows_itself_by_its_service_its_ingress_and_its_address() -> None:
    environment = {each["name"]: each for each in container("Deployment", "darkq-gateway")["env"]}
    order = list(environment)
    names = environment["DARKQ_GATEWAY_ALLOWED_HOSTS"]["value"]
    for used in re.findall(r"\$\((\w+)\)", names):  # only what stands before is put in
        assert order.index(used) < order.index("DARKQ_GATEWAY_ALLOWED_HOSTS")
    key = environment["GATEWAY_NAMES"]["valueFrom"]["configMapKeyRef"]["key"]
    allowed = CONFIG[key].split(",")
    assert "darkq-gateway" in allowed
    (rule,) = objects("Ingress")["darkq-gateway"]["spec"]["rules"]
    assert rule["host"] in allowed


def test_every_name_that_is_referred_to_is_there() -> None:
    """ConfigMaps, Services and labels; Secrets are made by hand, and listed in docs/operate.md."""
    text = "".join(file.read_text() for file in manifests())
    for workload in ("darkq-worker", "darkq-gateway"):
        labels = objects("Deployment")[workload]["spec"]["template"]["metadata"]["labels"]
        selectors = [
            objects("Deployment")[workload]["spec"]["selector"]["matchLabels"],
            objects("PodDisruptionBudget")[workload]["spec"]["selector"]["matchLabels"],
            objects("NetworkPolicy")[workload]["spec"]["podSelector"]["matchLabels"],
            *(
                each["labelSelector"]["matchLabels"]
                for each in pod("Deployment", workload)["topologySpreadConstraints"]
            ),
        ]
        assert all(selector == labels for selector in selectors)
    assert objects("Service")["darkq-gateway"]["spec"]["selector"] == labels
    monitored = objects("ServiceMonitor")["darkq"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= objects("Service")["darkq-gateway"]["metadata"]["labels"].items()
    (source,) = objects("NetworkPolicy")["darkq-valkey"]["spec"]["ingress"][0]["from"]
    assert source["podSelector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = objects("ServiceMonitor")["darkq"]["spec"]["endpoints"]
    secrets = {
        endpoint["authorization"]["credentials"]["name"],
        *re.findall(r"secretKeyRef:\n\s+name: (\S+)", text),
        *re.findall(r"secretName: (darkq-(?!tls)\S+)", text),
    }
    told = re.findall(r"create secret generic (\S+)", (ROOT / "docs/operate.md").read_text())
    assert secrets == set(told) == {"darkq-worker", "darkq-gateway", "darkq-valkey"}


def test_secrets_are_files_where_darkq_looks_for_them() -> None:
    for name in ("darkq-worker", "darkq-gateway"):
        only = container("Deployment", name)
        environment = {each["name"]: each.get("value") for each in only["env"]}
        (mount,) = (each for each in only["volumeMounts"] if each["name"] == "secrets")
        assert mount["mountPath"] == environment["DARKQ_SECRETS_DIR"]
        assert all("secretRef" not in each for each in only["envFrom"])


def test_the_operators_objects_say_what_theirs_ask_for() -> None:
    keda = objects("ScaledObject")["darkq-worker"]
    assert keda["apiVersion"] == "keda.sh/v1alpha1"
    assert keda["spec"].keys() == {
        *("scaleTargetRef", "pollingInterval", "minReplicaCount", "maxReplicaCount"),
        *("triggers", "advanced"),
    }
    assert keda["spec"]["scaleTargetRef"]["name"] in objects("Deployment")
    for trigger in keda["spec"]["triggers"]:
        assert trigger.keys() == {"type", "metricType", "metadata"}
        assert trigger["metadata"].keys() == {
            *("serverAddress", "query", "threshold", "ignoreNullValues")
        }
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
    monitor = objects("ServiceMonitor")["darkq"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint.keys() == {"port", "path", "interval", "scrapeTimeout", "authorization"}
    assert endpoint["authorization"]["credentials"]["key"] == "DARKQ_GATEWAY_METRICS_TOKEN"


def test_the_rules_are_those_of_the_document() -> None:
    rule = objects("PrometheusRule")["darkq"]
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["spec"] == yaml.safe_load((ROOT / "docs/alerts.yaml").read_text())
