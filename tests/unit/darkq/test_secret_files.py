"""Settings that come as files: from which folder, which of them, and what goes before them."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from darkq.errors import ConfigurationError
from darkq.settings.settings import Settings


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of secrets that is named, in an environment without any other setting."""
    for name in list(os.environ):
        if name.startswith("DARKQ_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("DARKQ_SECRETS_DIR", str(folder))
    return folder


def redis_url() -> str | None:
    url = Settings.load().redis_url
    return url.get_secret_value() if url else None


def test_a_file_is_a_setting_without_its_last_newline(folder: Path) -> None:
    (folder / "DARKQ_REDIS_URL").write_text("redis://:hunter2@h/0\n")
    (folder / "DARKQ_WORKER_JOBS").write_text("7\n")
    settings = Settings.load()
    assert (settings.redis_url, settings.worker_jobs) == (SecretStr("redis://:hunter2@h/0"), 7)


def test_the_key_of_an_upstream_joins_what_the_environment_says_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKQ_UPSTREAMS__OPENAI__URL", "http://127.0.0.1:1/v1")
    (folder / "DARKQ_UPSTREAMS__OPENAI__API_KEY").write_text("hunter2")
    openai = Settings.load().upstreams["openai"]
    assert openai.url == "http://127.0.0.1:1/v1"
    assert openai.api_key == SecretStr("hunter2")


def test_systemd_names_its_folder_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "DARKQ_REDIS_URL").write_text("redis://h/1")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    monkeypatch.delenv("DARKQ_SECRETS_DIR")
    assert redis_url() == "redis://h/1"


def test_a_volume_of_kubernetes_is_read_through_its_links(folder: Path) -> None:
    (folder / "..2026_01_01").mkdir()
    (folder / "..2026_01_01/DARKQ_REDIS_URL").write_text("redis://h/2")
    (folder / "..data").symlink_to("..2026_01_01")
    (folder / "DARKQ_REDIS_URL").symlink_to("..data/DARKQ_REDIS_URL")
    assert redis_url() == "redis://h/2"


def test_the_environment_and_dot_env_go_before_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "DARKQ_REDIS_URL").write_text("redis://file/0")
    (tmp_path / ".env").write_text("DARKQ_REDIS_URL=redis://dotenv/0\n")
    assert redis_url() == "redis://dotenv/0"
    monkeypatch.setenv("DARKQ_REDIS_URL", "redis://environment/0")
    assert redis_url() == "redis://environment/0"


def test_an_empty_file_is_a_setting_that_is_not_set(folder: Path) -> None:
    (folder / "DARKQ_REDIS_URL").write_text("\n")
    (folder / "DARKQ_WORKER_JOBS").write_text("")
    assert Settings.load() == Settings.model_validate({})


def test_what_is_not_ours_stays_closed(folder: Path) -> None:
    (folder / "client.p12").write_bytes(b"\xff\xfe" * 10)
    (folder / "REDIS_URL").write_text("redis://stranger/0")
    (folder / "DARKQ_FOLDER").mkdir()
    assert redis_url() is None


def test_without_a_folder_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARKQ_SECRETS_DIR")
    Path("DARKQ_REDIS_URL").write_text("redis://here/0")
    assert redis_url() is None


def test_a_folder_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKQ_SECRETS_DIR", "/nowhere/at/all")
    with pytest.raises(ConfigurationError, match="DARKQ_SECRETS_DIR: is no folder"):
        Settings.load()


@pytest.mark.parametrize("content", [b"hunter2\xff", b"hunter2" * 200_000, b"redis://hunter2\n\nx"])
def test_a_file_that_is_no_value_is_refused_by_name_and_not_shown(
    folder: Path, content: bytes
) -> None:
    (folder / "DARKQ_WORKER_JOBS").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert str(caught.value).startswith("DARKQ_WORKER_JOBS: ")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_cannot_be_read_is_refused_by_name(folder: Path) -> None:
    (folder / "DARKQ_REDIS_URL").symlink_to("nowhere")
    with pytest.raises(ConfigurationError, match=r"^DARKQ_REDIS_URL: cannot be read: .*No such"):
        Settings.load()
