"""HTTP that ends: no answer is longer than expected, and none takes longer than its deadline.

requests has a timeout for each read from the network, and none for the whole: a server that sends one byte
every two seconds, or that never ends, would keep a program waiting for ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import InsecureRequestWarning

RETRIES = 3
BACKOFF = 0.5
"""Seconds before the first retry; doubled for each further one."""
TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
MAX_PAGE = 64 << 20
"""The largest page of an index, in bytes; the largest pages of public indexes have a tenth of it."""
CHUNK = 8192
TIMEOUT = 60.0
"""Seconds that a server may be silent."""


class TooSlow(Exception):  # noqa: N818 - the state of a session, which its user turns into an error
    """The deadline of a session has passed."""


class TooLarge(requests.exceptions.RequestException):
    """An answer is longer than any page of an index."""


class Session(requests.Session):
    """A session with an overall deadline, limits of size, and retries with growing pauses.

    Args:
        trusted: hosts whose certificates are not checked: ``HOST`` or ``HOST:PORT``
        certificates: the file that certificates are checked with; None for the default of requests, which
            REQUESTS_CA_BUNDLE may name. As ``Session.verify``, the file would count less than that variable.
    """

    def __init__(self, trusted: frozenset[str] = frozenset(), certificates: str | None = None) -> None:
        super().__init__()
        self.trusted = trusted
        self.certificates = certificates
        self.late = threading.Event()
        """Set when the deadline has passed: every connection is cut, and none is opened any more."""
        self._sockets: list[tuple[int, int]] = []  # descriptor and inode
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(self))

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Ends everything that the block asks for after ``seconds``.

        Raises:
            TooSlow: the deadline has passed.
        """
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except requests.exceptions.RequestException:
            if not self.late.is_set():
                raise
        finally:
            timer.cancel()
        if self.late.is_set():
            raise TooSlow

    def pause(self, number: int) -> None:
        """Waits before retry ``number``, from 0.

        Raises:
            TooSlow: the deadline has passed.
        """
        if self.late.wait(BACKOFF * 2**number):
            raise TooSlow

    def opened(self, connected: socket.socket) -> None:
        """Remembers a connection, to cut it at the deadline.

        Raises:
            TooSlow: the deadline has passed.
        """
        if self.late.is_set():
            connected.close()
            raise TooSlow
        self._sockets.append((connected.fileno(), os.fstat(connected.fileno()).st_ino))

    def _cut(self) -> None:
        self.late.set()
        for descriptor, inode in self._sockets:
            # TLS takes the descriptor over from the socket; the inode tells whether it is still the same.
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_ino == inode:
                    with socket.socket(fileno=os.dup(descriptor)) as connection:
                        connection.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for bytes


class _Adapter(HTTPAdapter):
    """Watches connections, retries, checks certificates as the session says, and reads every answer that is
    not streamed, up to MAX_PAGE."""

    def __init__(self, session: Session) -> None:
        self._pools = _pools(session)
        self._session = session
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, stream: bool = False, **options: Any
    ) -> requests.Response:
        if self._session.certificates is not None:
            options["verify"] = self._session.certificates
        if _is_trusted(request.url or "", self._session.trusted):
            options["verify"] = False
        for number in range(RETRIES + 1):
            last = number == RETRIES
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", InsecureRequestWarning)
                    answer = super().send(request, stream=stream, **options)
                if answer.status_code in TRY_AGAIN and not last:
                    answer.close()
                else:
                    if not stream or answer.is_redirect:
                        _read(answer)
                    return answer
            except requests.exceptions.SSLError:
                raise
            except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError):
                if last or self._session.late.is_set():
                    raise
            self._session.pause(number)
        raise AssertionError("unreachable")


def _is_trusted(url: str, trusted: frozenset[str]) -> bool:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return bool(trusted & {host, f"{host}:{parts.port or 443}"})


def _read(answer: requests.Response) -> None:
    """Reads an answer whole.

    Raises:
        TooLarge: it is longer than MAX_PAGE.
    """
    body = bytearray()
    for chunk in answer.iter_content(CHUNK):
        body += chunk
        if len(body) > MAX_PAGE:
            answer.close()
            raise TooLarge(f"an answer of more than {MAX_PAGE >> 20} MiB")
    answer._content = bytes(body)  # the value of Response.content


def _pools(session: Session) -> dict[str, Any]:
    """urllib3's pools, with connections that report to ``session``."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            session.opened(connected)
            return connected

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            session.opened(connected)
            return connected

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
