"""As much of an RFB client as it takes to ask a VNC server for its authentication."""

from __future__ import annotations

import socket

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from workers.hypervisor.types import ConsoleEndpoint

VNC_AUTH = 2


def offered_security(sock: socket.socket) -> list[int]:
    """Greet the server; the security types that it offers."""
    sock.settimeout(10)
    greeting = receive(sock, 12)
    assert greeting.startswith(b"RFB 003."), greeting
    sock.sendall(greeting)
    return list(receive(sock, receive(sock, 1)[0]))


def password_is_taken(endpoint: ConsoleEndpoint, password: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(endpoint.socket_path)
        assert offered_security(sock) == [VNC_AUTH]
        sock.sendall(bytes([VNC_AUTH]))
        sock.sendall(encrypt(receive(sock, 16), password))
        return receive(sock, 4) == bytes(4)


def encrypt(challenge: bytes, password: str) -> bytes:
    """VNC's DES takes each key byte's bits in reverse. Single DES is triple DES with the same key three times."""
    key = password.encode("ascii")[:8].ljust(8, b"\0")
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    encryptor = Cipher(TripleDES(mirrored * 3), modes.ECB()).encryptor()  # noqa: S305 - the protocol's, not ours.
    return encryptor.update(challenge) + encryptor.finalize()


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"closed after {data!r}"
        data += piece
    return data
