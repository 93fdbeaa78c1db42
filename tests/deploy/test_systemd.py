"""The systemd units: whole, hardened, and in step with the settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from darkq import Settings
from support.deployment import OPERATE, SYSTEMD, need, seconds, unit

WORKER, GATEWAY = SYSTEMD / "darkq-worker@.service", SYSTEMD / "darkq-gateway.service"
UNITS = [WORKER, GATEWAY]
DEFAULTS = Settings.model_fields
MOST_EXPOSED = 1.5
"""Of 10, as `systemd-analyze security` counts; what remains is the network, which they are for."""


@pytest.fixture(params=UNITS, ids=lambda file: file.name)
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as it is installed, with a command that is there."""
    text = request.param.read_text()
    command = re.search(r"^ExecStart=(\S+)", text, re.M)
    assert command is not None
    assert command[1] == "/opt/darkq/bin/darkq"
    file: Path = tmp_path / request.param.name.replace("@.", "@1.")
    file.write_text(text.replace(command[1], sys.executable))
    return file


def analyze(*arguments: str | Path) -> str:
    """What `systemd-analyze` says; it must not complain."""
    program = need("systemd-analyze", "systemd")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    assert analyze("verify", "--man=no", installed) == ""


def test_a_unit_may_do_no_more_than_it_needs(installed: Path) -> None:
    told = analyze("security", "--offline=true", "--no-pager", installed)
    (exposed,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert float(exposed) <= MOST_EXPOSED


@pytest.mark.parametrize(
    ("file", "setting"), [(WORKER, "worker_shutdown_grace_s"), (GATEWAY, "gateway_drain_s")]
)
def test_a_service_may_end_in_order(file: Path, setting: str) -> None:
    told = unit(file)
    grace = seconds(told["Service.TimeoutStopSec"][0])
    assert grace >= DEFAULTS[setting].default + 10
    # The process itself is told to stop; only after the grace is everything killed.
    assert told["Service.KillMode"] == ["mixed"]
    assert told["Service.KillSignal"] == ["SIGTERM"]
    assert f"DARKQ_{setting.upper()}, {DEFAULTS[setting].default:g} by" in re.sub(
        r"\s+#?\s*", " ", file.read_text()
    )


def test_descriptors_suffice_for_the_connections() -> None:
    most = DEFAULTS["gateway_max_connections"].default
    assert int(unit(GATEWAY)["Service.LimitNOFILE"][0]) > most
    jobs, redis = DEFAULTS["worker_jobs"].default, DEFAULTS["redis_connections"].default
    assert int(unit(WORKER)["Service.LimitNOFILE"][0]) > 2 * (jobs + redis)


def test_secrets_get_the_names_of_settings() -> None:
    """`LoadCredential=DARKQ:/folder` names each file `DARKQ_` and its own name."""
    for file, folder in ((WORKER, "worker"), (GATEWAY, "gateway")):
        assert unit(file)["Service.LoadCredential"] == [f"DARKQ:/etc/darkq/{folder}"]
        assert f"/etc/darkq/{folder}/REDIS_URL" in OPERATE.read_text()
    told = re.findall(r"/etc/darkq/(?:worker|gateway)/([A-Z_]+)", OPERATE.read_text())
    for name in told:
        field = name.split("__")[0].lower()
        assert field in DEFAULTS, name


def test_both_units_are_hardened_alike_and_share_a_user() -> None:
    marker = "# Access only to its own folder, the network and its secrets.\n"
    hardening = {file.read_text().split(marker)[1] for file in UNITS}
    assert len(hardening) == 1
    assert "DynamicUser=yes\nUser=darkq\nStateDirectory=darkq\n" in hardening.pop()
