"""Folders that lie beside the packages in a checkout, and inside one of them where a wheel is installed."""

from pathlib import Path


def shipped(package: Path, name: str) -> Path:
    """The folder `name` that belongs to the package in the directory `package`."""
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
