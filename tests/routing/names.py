"""A name server that knows one name, as a cluster's knows a headless Service."""

import socket
import struct
import threading
from types import TracebackType

NAME = "pods.test"
PORT = 5353


class Names:
    """Answers with the addresses that are ready; a context manager (RFC 1035, sections 3.2 and 4.1)."""

    def __init__(self, host: str) -> None:
        self.addresses: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, PORT))

    def __enter__(self) -> "Names":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                asked, client = self._socket.recvfrom(4096)
                self._socket.sendto(self._answer(asked), client)
            except OSError:
                return

    def _answer(self, asked: bytes) -> bytes:
        end = asked.index(b"\0", 12) + 5
        question, (kind,) = asked[12:end], struct.unpack(">H", asked[end - 4 : end - 2])
        found = self.addresses if kind == 1 else []
        header = asked[:2] + struct.pack(">HHHHH", 0x8580, 1, len(found), 0, 0)
        records = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(each) for each in found]
        return header + question + b"".join(records)
