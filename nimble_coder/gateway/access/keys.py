"""API keys: who may call, checked in constant time, rotated by changing a file."""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from nimble_coder.gateway.access.file_version import version_of
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.settings import is_sendable

logger = logging.getLogger(__name__)

COMMENT = re.compile(r"(?:^|\s)#")
"""Not within a key."""
RETRY_SECONDS = 1.0
"""Between two looks at a file that cannot be read and has not changed."""


class ApiKeys:
    """The clients' keys and the administrator's. Only their digests are kept."""

    def __init__(
        self,
        keys: list[str],
        file: Path | None = None,
        admin_key: str = "",
        on_unreadable: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises `ValueError` where the file cannot be read: a service meant to be closed must not start open.

        `on_unreadable` is called for each later version of it that cannot be.
        """
        self._fixed = [digest(key) for key in keys]
        self._admin = digest(admin_key) if admin_key else None
        self._file = file
        self._on_unreadable = on_unreadable
        self._version: tuple[tuple[int, ...], ...] = ()
        """Of the file when it was last read; empty where it was not there."""
        self._fault: tuple[object, str] | None = None
        """The version that cannot be read, and why."""
        self._again = 0.0
        """When that is tried again."""
        self._from_file: list[bytes] = []
        if file is not None:
            try:
                self._version, self._from_file = version_of(file), read_keys(file)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise ValueError(f"NIMBLE_API_KEYS_FILE {file} cannot be read: {reason}") from None
            if not (self._fixed or self._from_file):
                logger.warning("NIMBLE_API_KEYS_FILE %s holds no key: nobody has access until it does", file)

    @property
    def required(self) -> bool:
        """False where no key is configured at all: then the service is open."""
        return bool(self._fixed or self._file)

    @property
    def are_several(self) -> bool:
        """Whether there is more than one client's key, so that one can be in another's way."""
        return len({*self._fixed, *self._from_file}) > 1

    def check(self, authorization: str | None, x_api_key: str | None = None) -> str:
        """The caller's name for limits and logs (never the key); raises `ApiError` 401 for a wrong or absent key."""
        if not self.required:
            return ""
        given = presented(authorization, x_api_key)
        found = digest(given) if given else b""
        if not given or not self._known(found):
            what = "the API key is not valid" if given else "there is no API key"
            raise ApiError(401, f"{what}: send it as 'Authorization: Bearer KEY'", "invalid_api_key")
        return found.hex()[:12]

    def check_admin(self, authorization: str | None, x_api_key: str | None = None) -> None:
        """Raises `ApiError` 403 unless the caller has the administrator's key."""
        given = presented(authorization, x_api_key)
        if self._admin is None or not given or not hmac.compare_digest(digest(given), self._admin):
            raise ApiError(403, "this call is administrative: it needs the key set as NIMBLE_ADMIN_KEY", "admin_only")

    def _known(self, found: bytes) -> bool:
        if self._file is not None:
            self._refresh(self._file)
        keys = [*self._fixed, *self._from_file, *([self._admin] if self._admin else [])]
        # Every key is compared, so that the time does not tell which one was close.
        return sum(hmac.compare_digest(found, key) for key in keys) > 0

    def _refresh(self, file: Path) -> None:
        version = version_of(file)
        is_refused = self._fault is not None and self._fault[0] == version and time.monotonic() < self._again
        if version == self._version or is_refused:
            return
        try:
            keys = read_keys(file)
        except (OSError, ValueError) as error:
            # Kubernetes swaps mounted secrets in two steps, and a file may be written while we look. Or this machine
            # could not read it just now, as where no file can be opened: the version may be a good one.
            self._again = time.monotonic() + RETRY_SECONDS
            self._refuse(file, version, str(error.strerror if isinstance(error, OSError) else error))
            return
        self._version, self._fault, self._from_file = version, None, keys
        if not (self._fixed or keys):
            logger.warning("%s holds no key any more: nobody has access until it does", file)

    def _refuse(self, file: Path, version: object, reason: str) -> None:
        """Says it once, however often it is tried."""
        if self._fault == (version, reason):
            return
        self._fault = version, reason
        logger.warning("%s cannot be read (%s); the keys read before stay valid", file, reason)
        self._on_unreadable()


def read_keys(file: Path) -> list[bytes]:
    """The digests of a file's keys; raises `OSError`, and `ValueError` for what holds no keys, which says where."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text: {error.reason} at byte {error.start}") from None
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if key := COMMENT.split(line, 1)[0].strip():
            if not is_sendable(key):
                raise ValueError(f"the key in line {number} has characters that no header holds: choose one of ASCII")
            keys.append(digest(key))
    return keys


def presented(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key of a request: a bearer token, or the `x-api-key` header."""
    if authorization and authorization[:7].lower() == "bearer ":
        return authorization[7:].strip() or None
    return x_api_key or None


def digest(key: str) -> bytes:
    """SHA-256, which makes keys of different lengths comparable in constant time."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
