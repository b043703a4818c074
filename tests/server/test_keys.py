"""Who may call what. The routes are those of the live application, whatever they are."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aphrodite.errors import UsageError
from aphrodite.server.dialect import Access
from aphrodite.server.keys import Keys, read_keys
from tests.server.serving import Serving, serving

KEY, ADMIN = "sk-right-key", "sk-admin-key"
OPEN = {("GET", "/health"), ("GET", "/ready")}


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving(
        folder, keys=(KEY, "sk-other"), admin_keys=(ADMIN,), app={"allowed_origins": ("https://ok",)}
    ) as found:
        yield found


def test_every_route_but_two_refuses_without_a_key(server: Serving) -> None:
    routes = [(route.method, route.path) for route, _ in server.site.routes]
    assert {(r.method, r.path) for r, _ in server.site.routes if r.access == Access.OPEN} == OPEN
    bodies = set()
    with httpx.Client() as client:
        for _, path in routes:
            url = server.url + path.replace("{name:path}", "x").replace("{id}", "x")
            for other in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"):
                answer = client.request(other, url)
                if (other, path) in OPEN:
                    assert answer.status_code == 200
                    continue
                assert answer.status_code == 401, (other, path)
                bodies.add(answer.content if other != "HEAD" else b"")
        for path in ("/", "/docs", "//v1/models", "/v1/models/", "/v1/%2e%2e/metrics", "/nothing"):
            assert client.get(server.url + path).status_code == 401, path
    words = {re.sub(rb'"[0-9a-f]{32}"', b"", body) for body in bodies} - {b""}
    assert len(words) <= len({dialect.name for _, dialect in server.site.routes})  # one for each dialect's form
    assert not server.engine.added


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {KEY}x")],
        [("authorization", f"Bearer {KEY[:-1]}")],
        [("authorization", "Bearer")],
        [("authorization", KEY)],
        [("authorization", f"Basic {KEY}")],
        [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer wrong")],
        [("authorization", f"Bearer {KEY}"), ("x-api-key", "wrong")],
        [("x-api-key", "")],
        [("authorization", "Bearer " + "x" * 8000)],
        [("cookie", f"key={KEY}")],
        [("x-http-method-override", "GET")],
    ],
    ids=repr,
)
def test_what_is_no_key_is_refused(server: Serving, headers: list[tuple[str, str]]) -> None:
    answer = httpx.get(f"{server.url}/v1/models?key={KEY}&api_key={KEY}", headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


def test_a_key_that_is_no_ascii_is_refused(server: Serving) -> None:
    raw = b"GET /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer \xff\xfe\xc3\xa9\r\nconnection: close\r\n\r\n"
    assert server.raw(raw).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}]
)
def test_a_key_is_shown_as_a_bearer_or_in_a_header_of_its_own(server: Serving, headers: dict[str, str]) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_a_preflight_of_an_allowed_origin_needs_no_key(server: Serving) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    answer = httpx.options(f"{server.url}/v1/completions", headers={"origin": "https://ok", **asked})
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://ok"
    assert httpx.options(f"{server.url}/v1/completions", headers={"origin": "https://no", **asked}).status_code == 401
    answer = httpx.get(f"{server.url}/v1/models", headers={"origin": "https://ok", "x-api-key": KEY})
    assert answer.headers["access-control-allow-origin"] == "https://ok"


def test_a_websocket_is_refused_like_the_rest(server: Serving) -> None:
    raw = (
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(raw)
        assert sock.recv(65536).startswith(b"HTTP/1.1 401")


def test_a_wrong_key_takes_as_long_as_a_right_one() -> None:
    keys = Keys([KEY])
    times: dict[bytes, list[float]] = {KEY.encode(): [], b"x" * len(KEY): [], b"sk-right-kez": [], b"x" * 8000: []}
    for _ in range(2000):
        for key, found in times.items():
            began = time.perf_counter()
            keys.hold(key)
            found.append(time.perf_counter() - began)
    middle = [statistics.median(found) for found in times.values()]
    assert max(middle) - min(middle) < 1e-4


def test_keys_come_from_a_list_or_a_file_and_are_never_shown(tmp_path: Path) -> None:
    assert read_keys("a, b", "api_keys") == ["a", "b"]
    path = tmp_path / "keys"
    path.write_text("# ours\nsk-one\n\nsk-two\n")
    assert read_keys(f"@{path}", "api_keys") == ["sk-one", "sk-two"]
    for wrong in ("@/nowhere", "sk secret", ",", "sk-s\u00e9cret"):
        with pytest.raises(UsageError) as raised:
            read_keys(wrong, "api_keys")
        assert "secret" not in str(raised.value) and "cret" not in str(raised.value)
    assert "sk-one" not in repr(vars(Keys(["sk-one"])))


def test_a_request_id_that_could_forge_a_line_is_replaced(server: Serving) -> None:
    with httpx.Client(headers={"x-api-key": KEY}) as client:
        fit = client.get(f"{server.url}/v1/models", headers={"x-request-id": "job-7.a:b_c"})
        assert fit.headers["x-request-id"] == "job-7.a:b_c"
        for unfit in ("a b", "x" * 10_000, "a[31m", "<script>"):
            answer = client.get(f"{server.url}/v1/models", headers={"x-request-id": unfit})
            assert len(answer.headers["x-request-id"]) == 32
