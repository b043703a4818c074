"""Where a server listens is settled before anything else, and each thing that cannot be had is named."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path

import pytest

from aphrodite.config.server import ServerConfig
from aphrodite.errors import UsageError
from aphrodite.server import sockets
from aphrodite.server.sockets import bound
from tests.server.certificates import self_signed


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A folder whose sockets have short enough names."""
    assert len(os.fsencode(tmp_path)) < 90
    return tmp_path


def refusal(**settings: object) -> UsageError:
    with pytest.raises(UsageError) as caught, bound(ServerConfig(**settings)):  # type: ignore[arg-type]
        pass
    return caught.value


def test_unix_sockets_are_their_owners_and_gone_at_the_end(short: Path) -> None:
    path, admin = short / "s", short / "a"
    with bound(ServerConfig(uds=str(path), admin_uds=str(admin))) as found:
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(admin.stat().st_mode) == 0o600
        assert found.addresses == f"unix:{path}" and found.admin is not None
    assert not path.exists() and not admin.exists()


def test_what_a_dead_server_has_left_is_taken_over_and_nothing_else_is(short: Path) -> None:
    path = short / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bound(ServerConfig(uds=str(path))) as found:
        found.public[0].listen()
        error = refusal(uds=str(path))
        assert "in use by another server" in str(error) and error.subject == "uds"
    path.write_text("mine")
    assert "exists and is no socket" in str(refusal(uds=str(path))) and path.read_text() == "mine"
    path.unlink()
    path.symlink_to(short / "nowhere")
    assert "exists and is no socket" in str(refusal(uds=str(path)))


def test_a_socket_whose_state_cannot_be_known_stays(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = short / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, address: 13)
    error = refusal(uds=str(path))
    assert "cannot be made: Permission denied" in str(error) and path.exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("x" * 108, "at most 107 bytes.*got"),
        ("nowhere/s", "No such file"),
        ("file/s", "Not a directory"),
        ("a\0b", "null"),
    ],
)
def test_a_path_that_cannot_be_one_is_named(
    short: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.chdir(short)
    (short / "file").touch()
    for setting in ("uds", "admin_uds"):
        error = refusal(**{setting: path})
        assert error.subject == setting and str(error).startswith(f"{setting} ")
        with pytest.raises(UsageError, match=words):
            raise error


def test_the_administrators_socket_is_not_the_clients(short: Path) -> None:
    (short / "sub").mkdir()
    error = refusal(uds=str(short / "s"), admin_uds=str(short / "sub" / ".." / "s"))
    assert error.subject == "admin_uds" and "the socket of clients too" in str(error)


def test_nothing_is_left_of_a_start_that_fails_later(short: Path) -> None:
    error = refusal(uds=str(short / "no" / "s"), admin_uds=str(short / "a"))
    assert error.subject == "uds" and not (short / "a").exists()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "x" * 64 + ".de", "1.2.3.4.5", ""])
def test_a_host_that_is_none_is_named(host: str) -> None:
    error = refusal(host=host)
    assert error.subject == "host" and repr(host) in str(error)


def test_an_address_of_another_machine_is_named() -> None:
    error = refusal(host="192.0.2.1")  # for documentation: nobody has it
    assert error.subject == "host" and "192.0.2.1 is no address of this machine" in str(error)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = refusal(port=port)
        assert error.subject == "port" and str(port) in str(error) and "--port" in str(error)


def test_of_two_servers_that_start_at_once_one_has_the_port() -> None:
    with bound(ServerConfig(port=0)) as sockets:
        port = sockets.public[0].getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}: Address already in use"), bound(ServerConfig(port=port)):
            pass


def test_a_name_with_several_addresses_is_served_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(sockets.socket, "getaddrinfo", lambda *given, **named: both)
    with bound(ServerConfig(host="localhost")) as found:
        names = {sock.getsockname()[0] for sock in found.public}
        assert "127.0.0.1" in names and names <= {"::1", "127.0.0.1"}


def test_keys_and_certificates_that_do_not_do_are_named(tmp_path: Path) -> None:
    key, found = map(str, self_signed(tmp_path, "one"))
    other = str(self_signed(tmp_path, "two")[0])
    locked, of_locked = map(str, self_signed(tmp_path, "three", "-passout", "pass:secret"))
    with bound(ServerConfig(port=0, ssl_keyfile=key, ssl_certfile=found)) as good:
        assert isinstance(good.tls, ssl.SSLContext) and good.addresses.startswith("https://")
    for keyfile, certfile, subject, words in (
        (other, found, "ssl_certfile", "do not belong together: the key is another certificate's"),
        (locked, of_locked, "ssl_keyfile", "is encrypted"),
        (str(tmp_path / "absent"), found, "ssl_keyfile", "absent cannot be read: No such file"),
        (key, str(tmp_path), "ssl_certfile", "cannot be read: Is a directory"),
        (key, key, "ssl_certfile", "are to be in PEM"),
        (found, found, "ssl_certfile", "are to be in PEM"),
    ):
        error = refusal(port=0, ssl_keyfile=keyfile, ssl_certfile=certfile)
        assert error.subject == subject and words in str(error) and "secret" not in str(error)
