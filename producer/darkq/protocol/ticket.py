"""Tickets: the right to read one job or batch for a limited time. Pages hold them, not API keys.

    darkqt1.<claims: JSON, base64url>.<HMAC-SHA256 of what precedes, base64url>

Anyone can read the claims; only a holder of a secret can sign them. The signature is compared as
text, so a ticket has exactly one spelling.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

LIBRARY = "library"
"""The maker of tickets that `JobHandle.ticket` and `Batch.ticket` make."""

ANONYMOUS = "anonymous"
"""The maker of tickets that a caller without an API key requested from a gateway."""

DEFAULT_TTL_S = 3600.0
MAX_TTL_S = 7 * 24 * 3600.0
MAX_TICKET_CHARS = 4096
_PREFIX = "darkqt1"


class Ticket(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The claims of a ticket. `id` is that of the job or batch.

    `tenant` is whose it must be; unset means any tenant's. `maker` is `LIBRARY`, `ANONYMOUS`, or
    the digest of the API key that requested the ticket, without which the ticket is not valid.
    """

    id: str
    expires_ms: int
    maker: str
    tenant: str | UnsetType | None = UNSET
    cancel: bool = False

    def has_expired(self, now_ms: float) -> bool:
        """Return whether the ticket has expired."""
        return now_ms >= self.expires_ms


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Ticket)


def sign(ticket: Ticket, secret: bytes) -> str:
    """Return a ticket as text."""
    signed = f"{_PREFIX}.{_to_text(_encoder.encode(ticket))}"
    return f"{signed}.{_make_signature(signed, secret)}"


def verify(text: str, secrets: Sequence[bytes]) -> Ticket | None:
    """Return the claims of a ticket that one of the secrets has signed; None for any other text.

    Does not check whether it has expired, or whether its maker is valid.
    """
    if len(text) > MAX_TICKET_CHARS or not text.isascii():
        return None
    signed, _, signature = text.rpartition(".")
    matches = [hmac.compare_digest(_make_signature(signed, each), signature) for each in secrets]
    prefix, _, claims = signed.partition(".")
    if not any(matches) or prefix != _PREFIX:
        return None
    try:
        return _decoder.decode(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    except (msgspec.MsgspecError, ValueError):  # signed by another program with the same secret
        return None


def _make_signature(signed: str, secret: bytes) -> str:
    return _to_text(hmac.digest(secret, signed.encode(), hashlib.sha256))


def _to_text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
