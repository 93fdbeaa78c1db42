"""All settings: environment variables `DARKQ_…`, lines of `.env`, or secret files.

The unit of a setting is in its name. The environment and `.env` take precedence over secret files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from darkq.errors import ConfigurationError
from darkq.protocol.keys import MAX_PARTITIONS
from darkq.protocol.prompt import MAX_PROMPT_BYTES
from darkq.settings.parsing import (
    Window,
    parse_partitions,
    parse_ticket_secrets,
    parse_windows,
    parses,
)
from darkq.settings.private_files import is_ours_alone, socket_path, socket_url
from darkq.settings.upstreams import UpstreamSettings, check_name

Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]
Count = Annotated[int, Field(ge=1)]
UpstreamName = Annotated[str, AfterValidator(check_name)]

_PREFIX = "DARKQ_"
SECRETS_FOLDER = "DARKQ_SECRETS_DIR"
SYSTEMD_FOLDER = "CREDENTIALS_DIRECTORY"
_MAX_SECRET_BYTES = 1 << 20
_PUBLIC_DARKAI_HOST = "darkai.foundation"
_PUBLIC_DARKAI_LIMITS = "4/60,30/1800,80/21600"
_ORIGINS = r"^( *https?://[A-Za-z0-9._:\[\]-]+ *(,|$))*$"


def _check_url(text: str) -> str:
    if not urlsplit(text).scheme or not text.isprintable():
        raise ValueError("must be a URL like s3://bucket/prefix")
    return text


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "darkq"


def _has_our_variables(source: PydanticBaseSettingsSource) -> bool:
    names = source.env_vars if isinstance(source, EnvSettingsSource) else ()
    return any(name.startswith(_PREFIX.lower()) for name in names)


class Settings(BaseSettings):
    """The settings of producers, workers, gateways and the command."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    # Redis
    redis_url: SecretStr | None = None
    redis_connections: Count = 16
    redis_timeout_s: Seconds = 10.0
    redis_patience_s: Seconds = 5.0
    redis_wait_replicas: Annotated[int, Field(ge=0, le=100)] = 0
    state_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        default_factory=_default_state_dir
    )

    # Jobs
    partitions: Annotated[int, Field(ge=1, le=MAX_PARTITIONS)] = 1
    job_ttl_s: Seconds = 7 * 24 * 3600.0
    result_ttl_s: Seconds = 24 * 3600.0
    failed_ttl_s: Seconds = 7 * 24 * 3600.0
    queue_max_jobs: Count = 1_000_000
    job_timeout_s: Seconds = 600.0
    job_tries: Count = 3
    max_prompt_bytes: Annotated[int, Field(ge=1, le=MAX_PROMPT_BYTES)] = 8 << 20
    max_result_chars: Annotated[int, Field(ge=1)] = 4 << 20
    results_keep_prompts: bool = False

    # Workers
    worker_partitions: Annotated[str, parses(parse_partitions)] | None = None
    worker_jobs: Count = 100
    worker_reserved_interactive: Annotated[int, Field(ge=0)] = 10
    worker_lease_s: Annotated[float, Field(ge=1, le=3600)] = 15.0
    worker_poll_s: Annotated[float, Field(gt=0, le=60)] = 0.5
    worker_shutdown_grace_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    worker_max_lost_leases: Count = 3
    worker_linger_s: Annotated[float, Field(ge=0, le=1)] = 0.0
    worker_max_event_chars: Annotated[int, Field(ge=1, le=1 << 20)] = 64 << 10
    worker_buffer_chars: Annotated[int, Field(ge=1024)] = 16 << 20
    worker_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    retry_base_s: Seconds = 1.0
    retry_max_s: Seconds = 60.0

    # Upstreams
    darkai_url: str = "https://darkai.foundation/chat"
    darkai_proxy: SecretStr | None = None
    darkai_timeout_s: Seconds = 600.0
    darkai_idle_timeout_s: Seconds = 120.0
    darkai_limits: Annotated[str, parses(parse_windows)] | None = None
    darkai_concurrency: Annotated[int, Field(ge=0)] = 0
    darkai_sends_trace: bool = False
    upstreams: dict[UpstreamName, UpstreamSettings] = {}
    default_upstream: str | None = None
    breaker_failures: Count = 10
    breaker_cooldown_s: Seconds = 5.0
    breaker_cooldown_max_s: Seconds = 300.0

    # Files
    files_url: Annotated[str, AfterValidator(_check_url)] | None = None
    files_max_bytes: Annotated[int, Field(ge=1)] = 200 << 20
    files_max_lines: Count = 50_000
    files_max_count: Count = 10_000
    files_max_total_bytes: Count = 10 << 30
    files_ttl_s: Seconds = 30 * 24 * 3600.0

    # Tickets
    ticket_secrets: Annotated[SecretStr, parses(parse_ticket_secrets)] | None = None

    # The gateway
    gateway_host: str = "127.0.0.1"
    gateway_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    gateway_allowed_hosts: str = ""
    gateway_cors_origins: Annotated[str, Field(pattern=_ORIGINS)] = ""
    gateway_operators: str = ""
    gateway_board_prompts: bool = True
    gateway_ignore_unsupported: bool = False
    gateway_max_connections: Count = 10_000
    gateway_max_readers: Count = 5_000
    gateway_max_body_bytes: Annotated[int, Field(ge=1024)] = 12 << 20
    gateway_read_timeout_s: Seconds = 30.0
    gateway_min_upload_bytes_per_s: Count = 16 << 10
    gateway_write_timeout_s: Seconds = 30.0
    gateway_heartbeat_s: Seconds = 15.0
    gateway_cancel_grace_s: Annotated[float, Field(ge=0, le=600)] = 2.0
    gateway_drain_s: Annotated[float, Field(ge=0, le=3600)] = 20.0
    gateway_metrics_token: Annotated[SecretStr, Field(min_length=16)] | None = None

    # Logs
    log_format: Literal["console", "json"] = "console"

    # The local DarkAI
    local_model: Literal["smollm2", "markov"] = "smollm2"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings, highest precedence first.

        A source without any of our variables is left out, because asking it for each setting takes
        a millisecond.
        """
        stored = env_settings, dotenv_settings, SecretFiles(settings_cls)
        return init_settings, *filter(_has_our_variables, stored)

    @classmethod
    def load(cls) -> Settings:
        """Read the environment, `.env` and secret files.

        Raises `ConfigurationError` naming the variable.
        """
        try:
            return cls()
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            path = [str(part) for part in first["loc"] if part != "[key]"]
            raise ConfigurationError(f"DARKQ_{'__'.join(path).upper()}", first["msg"]) from None
        except SettingsError:  # drop the cause: it contains the value
            raise ConfigurationError("DARKQ_UPSTREAMS", "is not JSON; see .env.example") from None

    @property
    def uses_darkai(self) -> bool:
        """Whether DarkAI is one of the upstreams."""
        return self.darkai_url.lower() != "none"

    def find_worker_partitions(self) -> tuple[int, ...]:
        """Return the partitions whose jobs a worker claims. Raises `ConfigurationError`."""
        if self.worker_partitions is None:
            return tuple(range(self.partitions))
        found = parse_partitions(self.worker_partitions)
        if found[-1] >= self.partitions:
            reason = f"contains partition {found[-1]}, but DARKQ_PARTITIONS is {self.partitions}"
            raise ConfigurationError("DARKQ_WORKER_PARTITIONS", reason)
        return found

    def find_darkai_windows(self) -> tuple[Window, ...]:
        """Return the limits of DarkAI: the configured ones, else those of the public service.

        The public service counts calls by client address, and blocks clients that often exceed
        them. Another host has no default limits.
        """
        if self.darkai_limits is not None:
            return parse_windows(self.darkai_limits)
        host = urlsplit(self.darkai_url).hostname or ""
        is_public = host == _PUBLIC_DARKAI_HOST or host.endswith(f".{_PUBLIC_DARKAI_HOST}")
        return parse_windows(_PUBLIC_DARKAI_LIMITS) if is_public else ()

    def find_redis_url(self) -> str:
        """Return the configured URL, or that of the running embedded server.

        Raises `ConfigurationError` if there is neither.
        """
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        socket = socket_path(self.state_dir)
        if socket.is_socket() and is_ours_alone(socket.parent):
            return socket_url(socket)
        raise ConfigurationError(
            "DARKQ_REDIS_URL",
            "is not set and no embedded server is running; set it, or start one: darkq up",
        )


class SecretFiles(NestedSecretsSettingsSource):
    """Secrets as files: the name is that of the variable, the content its value.

    Service managers provide secrets in this form: systemd's `LoadCredential=`, the volumes of
    Kubernetes, the secrets of Compose and Swarm. Reads the files of `DARKQ_SECRETS_DIR`, or else of
    systemd's folder, whose names begin with `DARKQ_`; an empty file means not set.

    Raises `ConfigurationError` for a missing folder, and for a file that cannot be read.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(
            settings_cls,  # type: ignore[arg-type]  # its source accepts both
            secrets_dir=os.environ.get(SECRETS_FOLDER) or os.environ.get(SYSTEMD_FOLDER),
        )

    def validate_secrets_path(self, path: Path) -> None:
        """Reject a path that is no folder, because its files would be missing."""
        if not path.is_dir():
            raise ConfigurationError(SECRETS_FOLDER, f"is no folder: {path}")

    @classmethod
    def load_secrets(cls, path: Path) -> dict[str, str]:
        """Return the contents of the files, without a newline at the end.

        Files with other names are not opened: they are not darkq's, and may be binary.
        """
        try:
            ours = [file for file in path.iterdir() if file.name.upper().startswith("DARKQ_")]
        except OSError as error:
            raise ConfigurationError(
                SECRETS_FOLDER, f"cannot be read: {path}: {error.strerror}"
            ) from None
        texts = {file.name: _read_secret(file) for file in ours if not file.is_dir()}
        return {name: text for name, text in texts.items() if text}


def _read_secret(file: Path) -> str:
    name = file.name.upper()
    try:
        with file.open("rb") as content:
            data = content.read(_MAX_SECRET_BYTES + 1)
        if len(data) > _MAX_SECRET_BYTES:
            raise ConfigurationError(name, f"is longer than {_MAX_SECRET_BYTES} bytes: {file}")
        return data.decode().strip()
    except OSError as error:
        raise ConfigurationError(name, f"cannot be read: {file}: {error.strerror}") from None
    except UnicodeDecodeError:  # its message would contain a part of the secret
        raise ConfigurationError(name, f"is no text: {file}") from None
