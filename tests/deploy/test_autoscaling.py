"""How many workers: KEDA's rule and the plain autoscaler's, which are to be one and the same."""

from __future__ import annotations

import re
from typing import Any

from integration.metrics.test_docs import NAME, exposed
from support.deployment import KUBERNETES, objects, pod


def queries() -> list[tuple[str, str]]:
    """What is asked of Prometheus to know how many workers are wanted."""
    triggers = objects("ScaledObject")["darkq-worker"]["spec"]["triggers"]
    keda = [(each["metricType"], each["metadata"]["query"]) for each in triggers]
    text = (KUBERNETES / "hpa/horizontalpodautoscaler.yaml").read_text()
    described = dict(re.findall(r"as: (\w+)\}\n# +metricsQuery: (.*)$", text, re.M))
    metrics = objects("HorizontalPodAutoscaler")["darkq-worker"]["spec"]["metrics"]
    targets = [(each["external"]["target"], each["external"]["metric"]["name"]) for each in metrics]
    hpa = [(target["type"], described[name]) for target, name in targets]
    assert keda == hpa, "both autoscalers ask the same"
    return keda


def test_scaling_asks_for_metrics_that_are_exported() -> None:
    names = exposed()
    for _, query in queries():
        asked = set(NAME.findall(query))
        assert asked
        assert asked <= names.keys()
        for by, label in re.findall(r"by \((\w+)\)|\{(\w+)=", query):
            assert (by or label) in frozenset.union(*(names[name] for name in asked))
    (age, running) = queries()
    assert age == ("Value", "max(darkq_oldest_waiting_job_seconds)")
    assert running[0] == "AverageValue"


def scaling() -> list[tuple[dict[str, Any], int, int, list[str]]]:
    """Behaviour, least and most workers, targets: KEDA's, and the plain autoscaler's."""
    keda = objects("ScaledObject")["darkq-worker"]["spec"]
    hpa = objects("HorizontalPodAutoscaler")["darkq-worker"]["spec"]
    external = [each["external"]["target"] for each in hpa["metrics"]]
    return [
        (
            keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
            keda["minReplicaCount"],
            keda["maxReplicaCount"],
            [each["metadata"]["threshold"] for each in keda["triggers"]],
        ),
        (
            hpa["behavior"],
            hpa["minReplicas"],
            hpa["maxReplicas"],
            [external[0]["value"], external[1]["averageValue"]],
        ),
    ]


def test_both_autoscalers_do_the_same_and_respect_what_runs() -> None:
    keda, hpa = scaling()
    assert keda == hpa
    behaviour, least, _, (_, running) = keda
    assert least >= 1
    assert int(running) < int(objects("ConfigMap")["darkq-config"]["data"]["DARKQ_WORKER_JOBS"])
    grace_s = pod("Deployment", "darkq-worker")["terminationGracePeriodSeconds"]
    (policy,) = behaviour["scaleDown"]["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    assert policy["periodSeconds"] >= grace_s
    # What the API server allows.
    assert policy["periodSeconds"] <= 1800
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] <= 3600
    # A number in the manifest would be set again by every apply, against the autoscaler.
    assert "replicas" not in objects("Deployment")["darkq-worker"]["spec"]
