"""Tickets as text: what is signed, what is refused, and the secrets that sign."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from darkq.protocol.ticket import LIBRARY, MAX_TICKET_CHARS, Ticket, sign, verify
from darkq.settings.parsing import parse_ticket_secrets

SECRET, OTHER = b"s" * 32, b"o" * 32
TICKET = Ticket(id="0-" + "a" * 32, expires_ms=1, maker=LIBRARY, tenant="alice", cancel=True)


@given(
    tenant=st.one_of(st.none(), st.text(min_size=1, max_size=200), st.just(UNSET)),
    cancel=st.booleans(),
    expires_ms=st.integers(0, 1 << 50),
)
def test_a_signed_ticket_is_read_as_it_was_made(
    tenant: str | None, cancel: bool, expires_ms: int
) -> None:
    """Red when "any tenant" and "no tenant" have the same text."""
    made = Ticket(
        id="0-" + "a" * 32, expires_ms=expires_ms, maker="f" * 64, tenant=tenant, cancel=cancel
    )
    text = sign(made, SECRET)
    assert verify(text, [SECRET]) == made
    assert len(text) <= MAX_TICKET_CHARS


def test_the_signature_is_hmac_sha256_of_what_precedes_it() -> None:
    signed, _, signature = sign(TICKET, SECRET).rpartition(".")
    mac = hmac.new(SECRET, signed.encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == mac


@pytest.mark.parametrize("position", range(len(sign(TICKET, SECRET))))
def test_a_ticket_with_another_character_anywhere_is_refused(position: int) -> None:
    """Red when any part is not signed, or when two texts stand for one signature."""
    text = sign(TICKET, SECRET)
    for character in "AB-._=é ":
        if character != text[position]:
            changed = text[:position] + character + text[position + 1 :]
            assert verify(changed, [SECRET]) is None, changed


@pytest.mark.parametrize("text", ["", ".", "..", "darkqt1", "darkqt1..", "x" * 9000, "é.é.é"])
def test_what_is_no_ticket_is_refused(text: str) -> None:
    assert verify(text, [SECRET]) is None
    assert verify(sign(TICKET, SECRET) + "=", [SECRET]) is None
    assert verify("x" + sign(TICKET, SECRET), [SECRET]) is None


def test_text_that_another_program_signed_is_refused() -> None:
    """Red when the prefix is not compared, or when claims of another shape raise."""
    for signed in ("darkqt2.e30", "darkqt1.e30", "darkqt1.!!!", "darkqt1.AAA"):
        mac = hmac.digest(SECRET, signed.encode(), "sha256")
        text = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        assert verify(text, [SECRET]) is None


def test_all_secrets_verify_and_a_removed_one_does_not() -> None:
    text = sign(TICKET, SECRET)
    assert verify(text, [OTHER, SECRET]) == TICKET
    assert verify(text, [OTHER]) is None
    assert verify(text, []) is None


def test_claims_contain_what_the_documents_say_and_no_more() -> None:
    claims = sign(TICKET, SECRET).split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))) == {
        "id": TICKET.id,
        "expires_ms": 1,
        "maker": "library",
        "tenant": "alice",
        "cancel": True,
    }


def test_secrets_are_a_list() -> None:
    one, two = "a" * 32, "b" * 33
    assert parse_ticket_secrets(f"{one}, {two}\n") == (one.encode(), two.encode())
    for wrong in ("", " , ", "a" * 31, f"{one},short", ",".join([one] * 17)):
        with pytest.raises(ValueError, match="must be"):
            parse_ticket_secrets(wrong)
