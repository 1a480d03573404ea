"""The images, really built and really run: `scripts/test-images`. Needs root, and podman with a storage of its own."""
