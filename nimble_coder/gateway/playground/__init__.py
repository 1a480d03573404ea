"""The playground: one HTML file without outside assets, served at `/`."""

from functools import cache
from pathlib import Path


@cache
def page() -> bytes:
    """The page."""
    return (Path(__file__).parent / "index.html").read_bytes()
