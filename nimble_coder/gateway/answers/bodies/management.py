"""What is answered about the service and its model. Names: OpenAI's, NIM's, KServe's and llama.cpp's API references."""

from msgspec import Struct, field


class Model(Struct, tag_field="object", tag="model"):
    """A name that the model answers to, with vLLM's `max_model_len`, which Continue reads."""

    id: str
    created: int
    owned_by: str
    root: str
    max_model_len: int
    parent: None = None


class Models(Struct, tag_field="object", tag="list"):
    """The answer of `/v1/models`."""

    data: list[Model]


class Health(Struct, tag_field="object", tag="health.response"):
    """The service is live, or ready."""

    message: str


class Live(Struct):
    """KServe's liveness."""

    live: bool


class Ready(Struct):
    """KServe's readiness."""

    ready: bool


class Version(Struct):
    """The release, and the version of NIM's management API whose shapes are used."""

    release: str
    api: str
    version: str


class License(Struct):
    """NIM's `licenseInfo`."""

    name: str
    path: str
    sha: str
    size: int
    url: str
    type: str
    content: str


class ModelInfo(Struct, rename="camel"):
    """NIM's `modelInfo` element."""

    short_name: str
    model_url: str


class Metadata(Struct):
    """The answer of `/v1/metadata`: what is served and what it was made from."""

    version: str
    asset_info: list[str] = field(name="assetInfo")
    license_info: License = field(name="licenseInfo")
    model_info: list[ModelInfo] = field(name="modelInfo")
    selected_model_profile_id: str = field(name="selectedModelProfileId")
    repository_override: str


class ManifestFile(Struct):
    """The artefact's manifest as one string."""

    manifest_file: str


class DefaultSettings(Struct):
    """What llama.cpp's clients read of them."""

    n_ctx: int


class Props(Struct):
    """The answer of `/props`."""

    default_generation_settings: DefaultSettings
    total_slots: int
    model_path: str
    lookahead: str
