"""Secrets as files: the name is that of the variable, the content its value.

Service managers provide secrets in this form: systemd's `LoadCredential=`, the volumes of
Kubernetes, the secrets of Compose and Swarm. The folder is `DARKQ_SECRETS_DIR`, or else systemd's.
The environment and `.env` take precedence.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic_settings import BaseSettings, NestedSecretsSettingsSource

from darkq.errors import ConfigurationError

FOLDER = "DARKQ_SECRETS_DIR"
SYSTEMD_FOLDER = "CREDENTIALS_DIRECTORY"
_MAX_BYTES = 1 << 20


class SecretFiles(NestedSecretsSettingsSource):
    """Reads the files whose names begin with `DARKQ_`; an empty file means not set.

    Raises `ConfigurationError` for a missing folder, and for a file that cannot be read.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(
            settings_cls,  # type: ignore[arg-type]  # its source accepts both
            secrets_dir=os.environ.get(FOLDER) or os.environ.get(SYSTEMD_FOLDER),
        )

    def validate_secrets_path(self, path: Path) -> None:
        """Reject a path that is no folder, because its files would be missing."""
        if not path.is_dir():
            raise ConfigurationError(FOLDER, f"is no folder: {path}")

    @classmethod
    def load_secrets(cls, path: Path) -> dict[str, str]:
        """Return the contents of the files, without a newline at the end.

        Files with other names are not opened: they are not darkq's, and may be binary.
        """
        try:
            ours = [file for file in path.iterdir() if file.name.upper().startswith("DARKQ_")]
        except OSError as error:
            raise ConfigurationError(FOLDER, f"cannot be read: {path}: {error.strerror}") from None
        texts = {file.name: _read(file) for file in ours if not file.is_dir()}
        return {name: text for name, text in texts.items() if text}


def _read(file: Path) -> str:
    name = file.name.upper()
    try:
        with file.open("rb") as content:
            data = content.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigurationError(name, f"is longer than {_MAX_BYTES} bytes: {file}")
        return data.decode().strip()
    except OSError as error:
        raise ConfigurationError(name, f"cannot be read: {file}: {error.strerror}") from None
    except UnicodeDecodeError:  # its message would contain a part of the secret
        raise ConfigurationError(name, f"is no text: {file}") from None
