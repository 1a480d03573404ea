"""What clients send to `/v1/fim/completions`. Names and meaning: Mistral's API reference."""

from nimble_coder.gateway.requests.schemas.sampling import OpenAISampling


class FimRequest(OpenAISampling, kw_only=True):
    """`POST /v1/fim/completions`, Mistral's."""

    prompt: str
    suffix: str | None = None
    random_seed: int | None = None
