"""The build stage's fixtures, for tests that go on to serve what they build."""

from tests.build_engine.conftest import h100, machine, tiny_checkpoint

__all__ = ["h100", "machine", "tiny_checkpoint"]
