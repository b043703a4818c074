"""Where the server listens, and how: addresses, Unix sockets, the certificate. What cannot be had is refused by the
name of its setting, before anything else is begun.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aphrodite.config.server import ServerConfig
from aphrodite.errors import UsageError

BACKLOG = 4096  # connections that wait to be accepted
_MOST_PATH_BYTES = 107  # of a Unix socket, by the system
_PROBE_S = 1.0


@dataclass(frozen=True)
class Sockets:
    """Bound and listening; nobody accepts yet.

    admin  the administrator's own, if there is one
    tls    of the public ones; None: they are plain
    """

    public: list[socket.socket]
    admin: socket.socket | None
    tls: ssl.SSLContext | None

    @property
    def addresses(self) -> str:
        """Where clients find it."""
        return ", ".join(_shown(sock, "http" if self.tls is None else "https") for sock in self.public)


@contextlib.contextmanager
def bound(config: ServerConfig) -> Iterator[Sockets]:
    """All that a server listens on. Unix sockets have their files for as long. UsageError if one cannot be had."""
    tls = _certified(config)
    if config.uds is not None and config.admin_uds is not None and _is_same(config.uds, config.admin_uds):
        raise UsageError(
            f"admin_uds {config.admin_uds} is the socket of clients too, uds: choose another path", subject="admin_uds"
        )
    with contextlib.ExitStack() as stack:

        def unix(path: Path, setting: str) -> socket.socket:
            sock = stack.enter_context(_unix_socket(path, setting))
            stack.callback(path.unlink, missing_ok=True)
            return sock

        admin = None if config.admin_uds is None else unix(Path(config.admin_uds), "admin_uds")
        if config.uds is not None:
            public = [unix(Path(config.uds), "uds")]
        else:
            public = [stack.enter_context(sock) for sock in _tcp_sockets(config.host, config.port)]
        yield Sockets(public, admin, tls)


def _tcp_sockets(host: str, port: int) -> list[socket.socket]:
    """One for each address of the host; a name may have several."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no name"
        raise UsageError(
            f"host {host!r} cannot be found: {why}; pass an address of this machine, 127.0.0.1 for this machine alone",
            subject="host",
        ) from None
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    places = dict.fromkeys((family, kind, protocol, address) for family, kind, protocol, _, address in found)
    for family, kind, protocol, address in places:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(places) > 1:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the other address has a socket of its own
            sock.bind(address)
            sock.listen(BACKLOG)  # or two could bind the same, and the second would hear of it too late to say why
            sockets.append(sock)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRNOTAVAIL or len(places) == 1:
                refused = refused or error
    if refused is None and sockets:
        return sockets
    for sock in sockets:
        sock.close()
    if refused is None or refused.errno == errno.EADDRNOTAVAIL:
        raise UsageError(
            f"host {host} is no address of this machine: pass one that is, or 0.0.0.0 for all of them", subject="host"
        )
    raise UsageError(f"cannot listen on {host} port {port}: {refused.strerror}; choose another --port", subject="port")


def _unix_socket(path: Path, setting: str) -> socket.socket:
    """A socket that its owner alone may connect to. The file of a server that is gone is taken over."""
    size = len(os.fsencode(path))
    if size > _MOST_PATH_BYTES:
        raise UsageError(
            f"{setting} {path} must have at most {_MOST_PATH_BYTES} bytes, as the system wants it, got {size}: choose "
            "a shorter path",
            subject=setting,
        )
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        _make_room(path, setting)
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        sock.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{setting} {path} cannot be made: {why}", subject=setting) from None
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _make_room(path: Path, setting: str) -> None:
    """Remove what a server that is gone has left. UsageError if it is anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{setting} {path} exists and is no socket", subject=setting)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_S)
        found = probe.connect_ex(str(path))
    if found == errno.ECONNREFUSED:
        path.unlink()
    elif found in (0, errno.EAGAIN):  # it answers, or has too many to answer
        raise UsageError(
            f"{setting} {path} is in use by another server: choose another path",
            subject=setting,
        )
    elif found != errno.ENOENT:
        raise OSError(found, os.strerror(found))


def _certified(config: ServerConfig) -> ssl.SSLContext | None:
    """What makes connections TLS."""
    if config.ssl_certfile is None or config.ssl_keyfile is None:
        return None
    for setting, path in (("ssl_certfile", config.ssl_certfile), ("ssl_keyfile", config.ssl_keyfile)):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise UsageError(f"{setting} {path} cannot be read: {error.strerror}", subject=setting) from None

    def password() -> str:  # or it would be asked for on the terminal
        raise UsageError(
            f"ssl_keyfile {config.ssl_keyfile} is encrypted: pass one that is not, readable by this user alone",
            subject="ssl_keyfile",
        )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what, why = "do not belong together", "the key is another certificate's"
        else:
            what, why = "cannot be used", f"they are to be in PEM ({error.reason or 'nothing of that is there'})"
        raise UsageError(
            f"ssl_certfile {config.ssl_certfile} and ssl_keyfile {config.ssl_keyfile} {what}: {why}",
            subject="ssl_certfile",
        ) from None
    return context


def _shown(sock: socket.socket, scheme: str) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
