"""Pins the Dockerfile's base images to what their tags mean today, for `scripts/lock`.

    python3 requirements/bases.py Dockerfile

Every `ARG ...BASE_IMAGE=NAME:TAG` becomes `NAME:TAG@sha256:...`: the digest that the registry tells of the tag, which
names one list of images for all platforms for ever. Only the standard library; registries are asked without a password
(https://github.com/opencontainers/distribution-spec, "Pulling manifests", and
https://distribution.github.io/distribution/spec/auth/token/).
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

BASE = re.compile(r"^(ARG \w*BASE_IMAGE=)([^\s@]+:[^\s@:/]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE)
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""Lists for several platforms first: a digest of one platform's image would be no base on another."""
TIMEOUT = 60


class RegistryError(RuntimeError):
    """A registry that does not tell what a tag means."""


def place(image: str) -> tuple[str, str, str]:
    """A reference's registry as a URL, its repository and its tag, by Docker's rules of what is left out."""
    name, _, tag = image.rpartition(":")
    host, slash, repository = name.partition("/")
    if not slash or ("." not in host and ":" not in host and host != "localhost"):
        host, repository = "docker.io", name
    if host == "docker.io":
        host = "registry-1.docker.io"
        repository = repository if "/" in repository else f"library/{repository}"
    scheme = "http" if re.match(r"(localhost|127\.)", host) else "https"
    return f"{scheme}://{host}", repository, tag


def digest(image: str) -> str:
    """What the tag means today, as `sha256:...`; raises `RegistryError`."""
    registry, repository, tag = place(image)
    url = f"{registry}/v2/{repository}/manifests/{tag}"
    try:
        body, told = fetch(url, "")
    except HTTPError as error:
        if error.code != 401:
            raise RegistryError(f"{image}: {url} answers {error.code}") from None
        try:
            body, told = fetch(url, f"Bearer {token(error.headers.get('WWW-Authenticate', ''))}")
        except HTTPError as refused:
            raise RegistryError(f"{image}: {refused.url} answers {refused.code}") from None
    found = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if told not in ("", found):
        raise RegistryError(f"{image}: {url} says {told}, but its manifest is {found}")
    return found


def token(challenge: str) -> str:
    """What a registry wants to see of those who have no account."""
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = asked.pop("realm", "")
    if not realm.startswith(("https://", "http://localhost", "http://127.")):
        raise RegistryError(f"a registry sends its clients to {realm or 'nowhere'} for a token")
    body, _ = fetch(f"{realm}?{urlencode(asked)}", "")
    given = json.loads(body)
    return str(given.get("token") or given["access_token"])


def fetch(url: str, authorization: str) -> tuple[bytes, str]:
    """A body and the digest that its header names; raises `HTTPError`, and `RegistryError` where there is no answer."""
    headers = {"Accept": ", ".join(MANIFESTS), **({"Authorization": authorization} if authorization else {})}
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as answer:  # noqa: S310 - `place` and `token` choose
            return answer.read(), answer.headers.get("Docker-Content-Digest", "")
    except HTTPError:
        raise
    except (URLError, TimeoutError) as error:
        raise RegistryError(f"{url} cannot be reached: {error}") from None


def pinned(dockerfile: str) -> str:
    """The file with today's digests; raises `RegistryError`."""
    return BASE.sub(lambda found: f"{found[1]}{found[2]}@{digest(found[2])}", dockerfile)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    try:
        file.write_text(pinned(file.read_text(encoding="utf-8")), encoding="utf-8")
    except RegistryError as error:
        sys.exit(f"the bases stay what they are. {error}")
