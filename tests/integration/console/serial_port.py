"""A serial port as QEMU has it: a UNIX socket that serves one visitor, and keeps the next one waiting unanswered."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SerialPort:
    """`heard` is what was typed. What is said while nobody is there is lost, as QEMU loses it."""

    def __init__(self, path: str) -> None:
        self.heard = bytearray()
        self.visits = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._visitor: socket.socket | None = None
        self._over = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def has_visitor(self) -> bool:
        return self._visitor is not None

    def say(self, words: bytes) -> None:
        """Waits for a visitor who does not read, as a guest waits that prints."""
        visitor = self._visitor
        if visitor is not None:
            with contextlib.suppress(OSError):
                visitor.sendall(words)

    def close(self) -> None:
        """The machine ends."""
        self._over = True
        for end in (self._listener, self._visitor):
            with contextlib.suppress(OSError):
                if end is not None:
                    end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._over:
            try:
                visitor, _address = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            with visitor:
                self._visitor = visitor
                with contextlib.suppress(OSError):
                    while piece := visitor.recv(4096):
                        self.heard += piece
                self._visitor = None


@contextmanager
def serial_port(path: str) -> Iterator[SerialPort]:
    port = SerialPort(path)
    try:
        yield port
    finally:
        port.close()
