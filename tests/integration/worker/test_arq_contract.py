"""What we rely on in arq 0.28, so that a new version of it fails here and not in production."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from arq import constants
from arq.jobs import deserialize_job_raw, deserialize_result
from arq.worker import Worker

from darkq.protocol.keys import JobKeys
from darkq_worker.loop.worker import LeasedWorker

KEYS = JobKeys(0, "ab" * 16)


def test_installed_arq_is_0_28() -> None:
    assert version("arq").startswith("0.28.")


@pytest.mark.parametrize(
    ("ours", "prefix"),
    [
        (KEYS.job, constants.job_key_prefix),
        (KEYS.result, constants.result_key_prefix),
        (KEYS.in_progress, constants.in_progress_key_prefix),
        (KEYS.retry, constants.retry_key_prefix),
    ],
)
def test_key_formats_are_those_of_arq(ours: str, prefix: str) -> None:
    assert ours == prefix + KEYS.arq_id


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("main", ["self"]),
        ("_poll_iteration", ["self"]),
        ("handle_sig_wait_for_completion", ["self", "signum"]),
        ("record_health", ["self"]),
        ("_sleep_until_tasks_complete", ["self"]),
        ("close", ["self"]),
    ],
)
def test_overridden_methods_have_the_signature_of_arq(method: str, parameters: list[str]) -> None:
    theirs, ours = getattr(Worker, method), getattr(LeasedWorker, method)
    assert list(inspect.signature(theirs).parameters) == parameters
    assert list(inspect.signature(ours).parameters) == parameters
    assert inspect.iscoroutinefunction(theirs) == inspect.iscoroutinefunction(ours)


@pytest.mark.parametrize("method", ["async_run", "handle_sig", "heart_beat"])
def test_called_methods_exist_in_arq(method: str) -> None:
    assert callable(getattr(Worker, method))


def test_parameters_of_the_arq_worker_exist() -> None:
    taken = set(inspect.signature(Worker).parameters)
    assert taken >= {
        "functions", "queue_name", "redis_pool", "max_jobs", "job_completion_wait",
        "handle_signals", "health_check_interval", "health_check_key", "job_serializer",
        "job_deserializer", "ctx",
    }  # fmt: skip


def test_arq_reads_our_record_fields() -> None:
    """arq reads these fields, and no others, of what a deserializer returns."""
    job = {"t": 1, "f": "generate", "a": (), "k": {}, "et": 1}
    assert deserialize_job_raw(b"", deserializer=lambda _: job) == ("generate", (), {}, 1, 1)
    result = {**job, "s": True, "r": "text", "st": 1, "ft": 2, "q": "queue", "id": "id"}
    assert deserialize_result(b"", deserializer=lambda _: result).result == "text"
