"""Settings: from variables and `.env`, with errors that name the variable and not its value."""

from __future__ import annotations

import json
import os
import re
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest

from darkq.errors import ConfigurationError
from darkq.settings.private_files import socket_path, socket_url
from darkq.settings.settings import Settings

ROOT = Path(__file__).parents[3]
EXAMPLE = (ROOT / ".env.example").read_text()
FIELDS = list(Settings.model_fields)

# A value of each setting that is not its default.
CHANGED: dict[str, Any] = {
    "redis_url": "redis://:hunter2@host:1/2",
    "redis_connections": 3,
    "redis_timeout_s": 1.5,
    "redis_patience_s": 2.5,
    "redis_wait_replicas": 1,
    "state_dir": "/somewhere/else",
    "partitions": 8,
    "job_ttl_s": 61.5,
    "result_ttl_s": 62.0,
    "failed_ttl_s": 62.5,
    "queue_max_jobs": 9,
    "job_timeout_s": 63.0,
    "job_tries": 4,
    "max_prompt_bytes": 99,
    "max_result_chars": 100,
    "results_keep_prompts": True,
    "worker_partitions": "0-3,7",
    "worker_jobs": 5,
    "worker_reserved_interactive": 0,
    "worker_lease_s": 1.0,
    "worker_poll_s": 0.1,
    "worker_shutdown_grace_s": 0.0,
    "worker_max_lost_leases": 6,
    "worker_linger_s": 0.005,
    "worker_max_event_chars": 1000,
    "worker_buffer_chars": 1024,
    "worker_log_level": "DEBUG",
    "retry_base_s": 0.5,
    "retry_max_s": 7.0,
    "darkai_url": "http://127.0.0.1:1/chat",
    "darkai_proxy": "http://user:hunter2@proxy:8080",
    "darkai_timeout_s": 8.0,
    "darkai_idle_timeout_s": 9.0,
    "darkai_limits": "5/1,20/6.5",
    "darkai_concurrency": 2,
    "darkai_sends_trace": True,
    "upstreams": '{"ollama": {"url": "http://127.0.0.1:1/v1", "api_key": "hunter2"}}',
    "default_upstream": "ollama",
    "breaker_failures": 7,
    "breaker_cooldown_s": 11.0,
    "breaker_cooldown_max_s": 12.0,
    "files_url": "s3://bucket/prefix",
    "files_max_bytes": 1000,
    "files_max_lines": 10,
    "files_max_count": 11,
    "files_max_total_bytes": 12,
    "files_ttl_s": 63.5,
    "ticket_secrets": f"hunter2{'x' * 40}, hunter2{'y' * 40}",
    "gateway_cancel_grace_s": 1.5,
    "gateway_host": "0.0.0.0",
    "gateway_port": 0,
    "gateway_allowed_hosts": "darkq.example",
    "gateway_cors_origins": "https://app.example",
    "gateway_operators": "ops",
    "gateway_board_prompts": False,
    "gateway_ignore_unsupported": True,
    "gateway_max_connections": 21,
    "gateway_max_readers": 22,
    "gateway_max_body_bytes": 2048,
    "gateway_read_timeout_s": 23.0,
    "gateway_min_upload_bytes_per_s": 1,
    "gateway_write_timeout_s": 24.0,
    "gateway_heartbeat_s": 25.0,
    "gateway_drain_s": 0.0,
    "gateway_metrics_token": "hunter2-hunter2-hunter2",
    "log_format": "json",
    "local_model": "markov",
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory without a `.env`, and an environment without us."""
    for name in list(os.environ):
        if name.startswith("DARKQ_") or name == "XDG_STATE_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain(value: Any) -> Any:
    """A setting's value as it would stand in a file."""
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()
    if isinstance(value, dict):
        fields = {name: each.model_dump(exclude_unset=True) for name, each in value.items()}
        return json.dumps(fields, default=plain)
    return str(value) if isinstance(value, Path) else value


def variable(field: str) -> str:
    return f"DARKQ_{field.upper()}"


class TestExample:
    """`.env.example` says what `Settings` says."""

    assignments = re.findall(r"^#(DARKQ_\w+)=(.*)$", EXAMPLE, re.MULTILINE)

    def test_it_lists_every_setting_once_and_in_order(self) -> None:
        assert [name for name, _ in self.assignments] == [variable(field) for field in FIELDS]

    def test_as_it_stands_it_sets_nothing(self) -> None:
        assert all(line.startswith("#") for line in EXAMPLE.splitlines() if line)

    def test_uncommented_it_changes_nothing(self, bare: Path) -> None:
        defaults = Settings.load()
        lines = [f"{name}={value}\n" for name, value in self.assignments]
        (bare / ".env").write_text("".join(lines))
        assert Settings.load() == defaults
        for name, value in self.assignments:
            default = plain(getattr(defaults, name.removeprefix("DARKQ_").lower()))
            assert (value == "") == (default in (None, ""))

    def test_every_setting_has_a_line_of_meaning(self) -> None:
        for name, _ in self.assignments:
            (meaning,) = re.findall(rf"\n\n((?:# .*\n)+)#{name}=", EXAMPLE)
            assert re.fullmatch(r"# [A-Z](.|\n)*\.\n", meaning), name

    def test_its_groups_are_those_of_the_class(self) -> None:
        source = (ROOT / "producer/darkq/settings/settings.py").read_text()
        pattern = r"^    # (.*)$|^    (\w+): .*=.*$"
        in_class = [name or field for name, field in re.findall(pattern, source, re.MULTILINE)]
        in_class = [name for name in in_class if name[0].isupper() or name in FIELDS]
        in_file = [
            group or name.removeprefix("DARKQ_").lower()
            for group, name in re.findall(r"^# --- (.*) ---$|^#(DARKQ_\w+)=", EXAMPLE, re.MULTILINE)
        ]
        assert in_file == in_class


def test_the_test_knows_every_setting() -> None:
    assert CHANGED.keys() == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_setting_comes_from_the_environment(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = plain(getattr(Settings.load(), field))
    monkeypatch.setenv(variable(field), str(CHANGED[field]))
    assert plain(getattr(Settings.load(), field)) == CHANGED[field] != default


def test_all_settings_come_from_a_file_too(bare: Path) -> None:
    lines = [f"{variable(field)}={value}\n" for field, value in CHANGED.items()]
    (bare / ".env").write_text("# a comment\nUNRELATED=1\n" + "".join(lines))
    settings = Settings.load()
    assert {field: plain(getattr(settings, field)) for field in FIELDS} == CHANGED


def test_the_environment_goes_before_the_file(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / ".env").write_text("DARKQ_WORKER_JOBS=5\n")
    monkeypatch.setenv("DARKQ_WORKER_JOBS", "6")
    assert Settings.load().worker_jobs == 6


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in FIELDS:
        monkeypatch.setenv(variable(field), "")
    assert Settings.load() == Settings.model_validate({})


def test_numbers_have_their_unit_in_their_name() -> None:
    counts = ("connections", "partitions", "_tries", "_jobs", "_leases", "_interactive",
              "_concurrency", "_failures", "_lines", "_port",
              "_readers", "_replicas", "_count", "_per_s")  # fmt: skip
    defaults = Settings.load()
    for field in FIELDS:
        value = getattr(defaults, field)
        if isinstance(value, float):
            assert field.endswith("_s"), field
        elif isinstance(value, int) and not isinstance(value, bool):
            assert field.endswith(("_chars", "_bytes", *counts)), field


OPEN = {
    "redis_url",
    "state_dir",
    "darkai_url",
    "darkai_proxy",
    "default_upstream",
    "gateway_host",
    "gateway_allowed_hosts",
    "gateway_operators",
}
"""Any string will do, as far as `Settings` can tell."""


@pytest.mark.parametrize("value", ["hunter2", "nan", "-1", "inf", "1e99", "hunter2\nINFO"])
@pytest.mark.parametrize("field", [field for field in FIELDS if field not in OPEN])
def test_a_wrong_value_is_refused_by_name_and_not_shown(
    field: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable(field), value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert caught.value.setting == variable(field)
    assert str(caught.value).startswith(f"{variable(field)}: ")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, "0") for field in FIELDS if field.endswith(("_s", "_chars", "_tries", "_jobs"))),
        ("redis_connections", "0"),
        ("partitions", "0"),
        ("partitions", "4097"),
        ("worker_shutdown_grace_s", "-1"),
        ("worker_lease_s", "0.5"),
        ("worker_buffer_chars", "1023"),
    ],
)
def test_a_value_out_of_bounds_is_refused(
    field: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = (
        *("worker_shutdown_grace_s", "worker_linger_s"),
        *("gateway_drain_s", "gateway_cancel_grace_s"),
    )
    if value == "0" and field in none:
        return  # no grace at all is a choice
    monkeypatch.setenv(variable(field), value)
    with pytest.raises(ConfigurationError, match=variable(field)):
        Settings.load()


def test_secrets_are_not_shown() -> None:
    settings = Settings.model_validate({**CHANGED, "upstreams": json.loads(CHANGED["upstreams"])})
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
    assert "hunter2" not in settings.model_dump_json()


@pytest.mark.parametrize("spelling", ["~/q", "/home/somebody/q"])
def test_a_tilde_is_the_home_directory(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody expands it in a `.env`."""
    monkeypatch.setenv("DARKQ_STATE_DIR", spelling)
    assert Settings.load().state_dir == Path("/home/somebody/q")


def test_the_state_directory_follows_the_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().state_dir == Path("/home/somebody/.local/state/darkq")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert Settings.load().state_dir == Path("/state/darkq")


class TestFindRedisUrl:
    def test_what_is_configured_goes_first(self) -> None:
        assert Settings.model_validate({"redis_url": "redis://h"}).find_redis_url() == "redis://h"

    def test_without_any_it_says_what_to_do(self, bare: Path) -> None:
        with pytest.raises(ConfigurationError, match="darkq up") as caught:
            Settings.model_validate({"state_dir": bare / "state"}).find_redis_url()
        assert caught.value.setting == "DARKQ_REDIS_URL"

    def test_an_embedded_server_is_found(self, bare: Path) -> None:
        state = bare / "state"
        settings = Settings.model_validate({"state_dir": state})
        path = socket_path(state)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            try:
                assert settings.find_redis_url() == socket_url(path)
            finally:
                path.unlink()

    def test_a_plain_file_in_its_place_is_none(self, bare: Path) -> None:
        state = bare / "state"
        path = socket_path(state)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text("")
        try:
            with pytest.raises(ConfigurationError):
                Settings.model_validate({"state_dir": state}).find_redis_url()
        finally:
            path.unlink()
