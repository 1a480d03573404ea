"""NIM's management routes, and the names that other servers' clients ask for.

Shapes: docs.nvidia.com/nim/large-language-models, API reference of 1.x and 2.x; `/props` as llama.cpp has it.
"""

import hashlib
from importlib.metadata import distribution, version

from nimble_coder.gateway.answers.bodies.management import (
    DefaultSettings,
    License,
    ManifestFile,
    Metadata,
    ModelInfo,
    Props,
    Version,
)
from nimble_coder.gateway.answers.wire import encode
from nimble_coder.gateway.exchange import Exchange
from nimble_coder.gateway.front import Front

API_VERSION = "2.0"
"""Of the management API whose shapes these are."""


def release() -> str:
    """This package's version."""
    return version("nimble-coder")


async def show_version(front: Front, exchange: Exchange) -> None:  # noqa: ARG001
    """`GET /v1/version`."""
    await exchange.respond(200, encode(Version(release(), API_VERSION, release())))


def license_of() -> License:
    """This project's licence."""
    content = distribution("nimble-coder").read_text("licenses/LICENSE") or ""
    return License(
        name="Apache-2.0",
        path="LICENSE",
        sha=hashlib.sha256(content.encode()).hexdigest(),
        size=len(content.encode()),
        url="https://www.apache.org/licenses/LICENSE-2.0",
        type="text/plain",
        content=content,
    )


async def show_license(front: Front, exchange: Exchange) -> None:  # noqa: ARG001
    """`GET /v1/license`."""
    await exchange.respond(200, encode(license_of()))


async def metadata(front: Front, exchange: Exchange) -> None:
    """`GET /v1/metadata`: what is served and what it was made from."""
    manifest = front.service.artifact.manifest
    answer = Metadata(
        version=release(),
        asset_info=[f"{record.path} sha256:{record.sha256}" for record in manifest.files],
        license_info=license_of(),
        model_info=[ModelInfo(front.service.names[0], front.service.profile.model)],
        selected_model_profile_id=manifest.key,
        repository_override="",
    )
    await exchange.respond(200, encode(answer))


async def show_manifest(front: Front, exchange: Exchange) -> None:
    """`GET /v1/manifest`: the artefact's manifest as one string."""
    await exchange.respond(200, encode(ManifestFile(front.service.manifest)))


async def props(front: Front, exchange: Exchange) -> None:
    """`GET /props`: what llama.cpp's clients look at."""
    service = front.service
    answer = Props(
        default_generation_settings=DefaultSettings(service.limits.max_model_len),
        total_slots=service.limits.max_batch_size,
        model_path=service.names[0],
        lookahead=str(service.limits.lookahead),
    )
    await exchange.respond(200, encode(answer))
