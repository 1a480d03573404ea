"""Engines, as the engine's own tests have them."""

from tests.engine.conftest import free_rows, load_engine

__all__ = ["free_rows", "load_engine"]
