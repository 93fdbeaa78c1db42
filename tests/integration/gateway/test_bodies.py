"""Bodies of requests that mean harm: compressed, slow, endless, malformed."""

from __future__ import annotations

import asyncio
import io
import json
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from darkq import Settings
from darkq_gateway import app as app_module
from darkq_gateway.http.bodies import MAX_JSON_VALUES
from darkq_gateway.http.multipart import MAX_OVERHEAD_BYTES
from support.attacks import FILE, PART, UPLOADS, bomb, bomb_request, request, upload_request
from support.http_api import Api

ROUTES = sorted({(each.method, each.path) for each in app_module.ROUTES})
END = b"\r\n--BBB--\r\n"


def files_below(settings: Settings) -> list[Path]:
    return [path for path in settings.state_dir.rglob("*") if path.is_file()]


def status_of(answer: bytes) -> int:
    return int(answer.split()[1])


async def cost(api: Api, sent: bytes) -> tuple[float, bytes]:
    """Return the CPU time that a request takes here, where the gateway runs, and its answer."""
    began_s = time.process_time()
    answer = await api.bare(sent, timeout_s=60)
    return time.process_time() - began_s, answer


async def test_no_route_takes_a_compressed_body(api: Api) -> None:
    """Red without `refuse_encoded` among the middlewares, or with it behind a handler."""
    headers = {"Content-Encoding": "gzip"}
    for method, path in ROUTES:
        target = path.replace("{", "").replace("}", "")
        answer = await api.bare(request(method, target, b"\x1f\x8b", **headers))
        assert status_of(answer) == 415, (method, path, answer)
        assert b"unsupported_encoding" in answer
        assert b"Accept-Encoding: identity" in answer


@pytest.mark.parametrize(
    ("encoding", "status"),
    [
        ("gzip", 415), ("deflate", 415), ("br", 415), ("zstd", 415), ("X-GZIP", 415), ("xyz", 415),
        ("identity, gzip", 415), ("identity\r\nContent-Encoding: gzip", 415),
        ("identity", 201), ("Identity", 201), ("", 201),
    ],
)  # fmt: skip
async def test_only_identity_is_an_encoding(api: Api, encoding: str, status: int) -> None:
    """Red if only the first header, or only the word gzip, is looked at."""
    headers = {
        "Content-Type": "application/json",
        "Content-Encoding": encoding,
    }
    answer = await api.bare(request("POST", "/jobs", b'{"prompt":"x"}', **headers))
    assert status_of(answer) == status, answer


@pytest.mark.parametrize("path", ["/jobs", "/v1/responses", "/healthz", "/nothing"])
async def test_a_bomb_is_not_unpacked(api: Api, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red with `auto_decompress=True`: 4 GiB take seconds of CPU, after the answer too."""
    unpacker = Mock(wraps=zlib.decompressobj)
    monkeypatch.setattr(zlib, "decompressobj", unpacker)
    answer = await api.bare(bomb_request(bomb(4 << 30), path=path))
    assert status_of(answer) == 415
    unpacker.assert_not_called()


async def test_the_rest_of_a_body_is_not_waited_for(
    api: Api, make_key: Callable[..., Awaitable[str]]
) -> None:
    """Red with aiohttp's `lingering_time` of 10 s."""
    await make_key()
    head = request("POST", "/jobs", b"", **{"Content-Type": "application/json"})
    sent = head.replace(b"Length: 0", b"Length: 999999999") + b"{"
    async with asyncio.timeout(9):  # of this event loop, which is the gateway's too
        answer = await api.bare(sent, timeout_s=60)
    assert status_of(answer) == 401


async def test_a_client_is_asked_for_its_body_once_it_is_wanted(
    api: Api, make_key: Callable[..., Awaitable[str]]
) -> None:
    """Red with aiohttp's own expect handler: it asks before the key is looked at."""
    key = await make_key()
    body = b'{"prompt":"x"}'
    headers = {
        "Content-Type": "application/json",
        "Expect": "100-continue",
    }
    assert (await api.bare(request("POST", "/jobs", body, **headers))).startswith(b"HTTP/1.1 401")
    encoded = headers | {"Content-Encoding": "gzip"}
    answer = await api.bare(request("POST", "/jobs", body, key, **encoded))
    assert answer.startswith(b"HTTP/1.1 415")
    answer = await api.bare(request("POST", "/jobs", body, key, **headers))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201")
    upload = {"Content-Type": "multipart/form-data; boundary=BBB"}
    whole = PART % b"purpose" + b"batch\r\n" + FILE + b"x" + END
    answer = await api.bare(request("POST", "/v1/files", whole, key, **headers | upload))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    answer = await api.bare(request("POST", "/jobs", body, key, **headers | {"Expect": "tea"}))
    assert status_of(answer) == 417
    assert b'"expectation_failed"' in answer
    assert b"tea" not in answer


@pytest.mark.parametrize("name", UPLOADS)
async def test_a_hostile_upload_is_refused_at_little_cost(
    api: Api, settings: Settings, name: str
) -> None:
    """Red with aiohttp's reader (a preamble of 16 MB takes 20 s of CPU), and without each bound."""
    hostile = UPLOADS[name]() + END
    harmless = FILE + b"x" * (len(hostile) - len(FILE))
    usual_s, _ = await cost(api, upload_request(harmless))
    took_s, answer = await cost(api, upload_request(hostile))
    assert status_of(answer) in (400, 413), answer
    assert answer.count(b"HTTP/") == 1
    assert took_s < 10 * usual_s
    assert files_below(settings) == []


@pytest.mark.parametrize(
    ("form", "status"),
    [
        (b"\r\n" + FILE + b"x" + END, 400),
        (b"preamble\r\n" + FILE + b"x" + END, 400),
        ((PART % b"purpose" + b"batch\r\n") * 17 + END, 413),
        (b"--BBB\r\n" + b"X: y\r\n" * 9 + FILE[7:] + b"x" + END, 400),
        (FILE[:-2] + b"X: " + b"y" * 2048 + b"\r\n\r\nx" + END, 400),
        (FILE[:-2] + b"Content-Encoding: gzip\r\n\r\nx" + END, 400),
        (FILE[:-2] + b"Content-Transfer-Encoding: base64\r\n\r\nx" + END, 400),
        (FILE.replace(b"form-data", b"attachment") + b"x" + END, 400),
        (FILE.replace(b'"f"', b'"f"' + b";" * 65) + b"x" + END, 400),
        (PART % b"purpose" + b"b" * 4097 + END, 413),
        (FILE + b"x" + END + b"e" * MAX_OVERHEAD_BYTES, 413),
    ],
)
async def test_a_form_out_of_bounds_is_refused(
    api: Api, settings: Settings, form: bytes, status: int
) -> None:
    """Red without the bound or the rule that each of them is about."""
    purpose = PART % b"purpose" + b"batch"
    headers = {"Content-Type": "multipart/form-data; boundary=BBB"}
    answer = await api(
        "POST", "/v1/files", data=form.replace(END, b"\r\n" + purpose + END), headers=headers
    )
    assert answer.status == status, answer
    assert answer.code in ("invalid_body", "body_too_large", "field_too_large")
    assert files_below(settings) == []


@pytest.mark.parametrize(
    "begun",
    [
        b"", b"--B", b"--BBB\r\n", b"--BBB\r\nContent-Dispos",
        b"--BBB\r\nContent-Disposition: form-", PART % b"purpose" + b"bat", FILE, FILE + b"x",
        FILE + b"x\r\n--BB", FILE + b"x" + END, PART % b"purpose" + b"batch" + END,
    ],
)  # fmt: skip
async def test_an_upload_that_does_not_go_on_is_ended(
    start_gateway: Callable[..., Awaitable[Api]], settings: Settings, begun: bytes
) -> None:
    """Red without a deadline for what is not the file."""
    api = await start_gateway(gateway_read_timeout_s=0.2)
    whole = upload_request(begun + b"?" * 1000)[:-1000]
    answer = await api.bare(whole, timeout_s=60)
    assert status_of(answer) == 408
    assert b"DARKQ_GATEWAY_MIN_UPLOAD_BYTES_PER_S" in answer
    assert files_below(settings) == []


async def send_slowly(api: Api, data: bytes, every: int, pause_s: float) -> bytes:
    """Send a request's body in pieces; return the head of the answer, early or not."""
    head, end, data = data.partition(b"\r\n\r\n")
    port = int(api.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + end)
    answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    try:
        for at in range(0, len(data), every):
            if answer.done():
                break
            writer.write(data[at : at + every])
            await asyncio.sleep(pause_s)
        return await asyncio.wait_for(answer, 10)
    finally:
        answer.cancel()
        writer.close()


async def test_a_file_below_the_least_rate_is_ended(
    start_gateway: Callable[..., Awaitable[Api]], settings: Settings
) -> None:
    """Red with a timeout per piece: a byte now and then is progress to that."""
    api = await start_gateway(gateway_read_timeout_s=0.3, gateway_min_upload_bytes_per_s=100_000)
    upload = upload_request(FILE + b"x" * 1000 + END)
    assert status_of(await send_slowly(api, upload, 5, 0.02)) == 408
    assert files_below(settings) == []


async def test_a_file_may_take_longer_than_everything_else(
    start_gateway: Callable[..., Awaitable[Api]],
) -> None:
    """Red with one deadline for all of a request."""
    api = await start_gateway(gateway_read_timeout_s=0.6, gateway_min_upload_bytes_per_s=1000)
    form = PART % b"purpose" + b"batch\r\n" + FILE + b"x" * 4000 + END
    assert status_of(await send_slowly(api, upload_request(form), 500, 0.2)) == 200


@pytest.mark.parametrize(
    "name", ["_charset_", "expires_at", "expires_after", "expires_after[x]", "model", "metadata[a]"]
)
async def test_a_field_that_cannot_be_honoured_is_named(api: Api, name: str) -> None:
    """Red if only identifiers are named."""
    form = PART % name.encode() + b"x" * 99 + b"\r\n" + FILE + b"x" + END
    headers = {"Content-Type": "multipart/form-data; boundary=BBB"}
    answer = await api("POST", "/v1/files", data=form, headers=headers)
    assert (answer.status, answer.code) == (400, "unsupported_parameter")
    assert answer.json["error"]["param"] == name
    assert name in answer.json["error"]["message"]


async def test_a_name_that_may_be_a_text_is_not_quoted(api: Api) -> None:
    """Red if any name is quoted."""
    for name in (b"my secret prompt", b"x" * 65, b"\xff", "ключ".encode()):
        form = PART % name + b"x\r\n" + FILE + b"x" + END
        headers = {"Content-Type": "multipart/form-data; boundary=BBB"}
        answer = await api("POST", "/v1/files", data=form, headers=headers)
        assert (answer.status, answer.json["error"]["param"]) == (400, None)
        assert name.decode(errors="replace") not in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("form", "param"),
    [
        (FILE + b"x\r\n" + FILE + b"x" + END, "file"),
        (PART % b"purpose" + b"batch\r\n" + PART % b"purpose" + b"batch" + END, "purpose"),
        (PART % b"expires_after[seconds]" + b"3600\r\n" + FILE + b"x" + END, "purpose"),
    ],
)
async def test_a_form_that_says_it_twice_or_not_at_all(
    api: Api, settings: Settings, form: bytes, param: str
) -> None:
    """Red if the last of two fields wins, or if a file is kept whose form is wrong."""
    headers = {"Content-Type": "multipart/form-data; boundary=BBB"}
    answer = await api("POST", "/v1/files", data=form, headers=headers)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert files_below(settings) == []


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/batches", "/jobs", "/jobs:batch"]
)
async def test_a_body_of_very_many_values_is_not_decoded(api: Api, path: str) -> None:
    """Red without the bound: 8 MB of `[]` take more than a second of the event loop."""
    headers = {"Content-Type": "application/json"}
    for value in (b"[],", b"{},", b"[", b'{"a":', b'{"a":1},', b'"a":"",', b'"",', b"1,"):
        body = io.BytesIO(b'{"input":[' + value * (MAX_JSON_VALUES + 1))
        answer = await api("POST", path, data=body, headers=headers)
        assert (answer.status, answer.code) == (413, "body_too_complex")


async def test_texts_may_hold_very_many_brackets(api: Api) -> None:
    """Red where the characters of texts count: prompts are code and JSON, too."""
    text = r'[{"a":"\\"},' + "\\"  # escapes in the last place, too
    jobs = [{"prompt": text * 3000} for _ in range(40)]
    body = io.BytesIO(json.dumps({"jobs": jobs}).encode())
    headers = {"Content-Type": "application/json"}
    assert (await api("POST", "/jobs:batch", data=body, headers=headers)).status == 201


NUMBERS: dict[str, tuple[str, int]] = {
    "/v1/files?limit=": ("limit", 400),
    "/v1/batches?limit=": ("limit", 400),
    "/jobs?limit=": ("limit", 422),
    "/jobs/x/result?wait_s=": ("wait_s", 422),
    "/v1/responses/resp_0-00000000000000000000000000000000?starting_after=": (
        "starting_after",
        400,
    ),
}


NO_NUMBERS = [
    *("", "-1", "+1", "%201", "1_0", "0x1", "1e400", "nan", "inf", "%D9%A3", "%C2%B2", "1.5.5"),
    *("00000000199999999", "9" * 16, "9" * 5000, "0" * 5000 + "1", "1" + "0" * 400),
]


@pytest.mark.parametrize("target", NUMBERS)
async def test_what_is_no_bounded_number_is_refused_by_name(api: Api, target: str) -> None:
    """Red if digits are converted before they are counted, or a prefix of them is checked."""
    name, status = NUMBERS[target]
    for number in NO_NUMBERS:
        answer = await api("GET", target + number)
        assert answer.status == status, (number[:20], answer)
        error = answer.json["error"]
        assert error.get("param", error.get("field")) == name


async def test_a_number_may_have_leading_zeros(api: Api) -> None:
    """Red if the parser refuses what it used to take."""
    for target in ("/v1/files?limit=007", "/v1/batches?limit=1", "/jobs?limit=0200"):
        assert (await api("GET", target)).status == 200


@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/files", "multipart/form-data"), ("/jobs", "application/json")]
)
async def test_a_content_type_costs_little(api: Api, path: str, kind: str) -> None:
    """Red with `request.content_type`: 7 KB of semicolons are seconds of the event loop."""

    async def measure(more: str) -> float:
        sent = request("POST", path, FILE + b"x" + END, **{"Content-Type": kind + more})
        took_s, answer = await cost(api, sent)
        assert status_of(answer) in (400, 415), answer
        return took_s

    usual_s = max([await measure("; a=" + "b" * 6990) for _ in range(5)])
    for more in (";" * 7000, '";' * 3500, "; a*0=x" * 900, "; a=b" * 1300, "; a*=" + "'" * 7000):
        took_s = min([await measure(more) for _ in range(3)])
        assert took_s < 20 * usual_s, more[:9]


async def test_a_form_without_a_usable_boundary_is_refused(api: Api) -> None:
    """Red if the parser's own error comes out."""
    for more in ("", "; boundary=" + "B" * 300, "; boundary=", "; boundary", '; boundary=""'):
        headers = {"Content-Type": f"multipart/form-data{more}"}
        answer = await api.bare(request("POST", "/v1/files", FILE + b"x" + END, **headers))
        assert status_of(answer) == 400, answer
