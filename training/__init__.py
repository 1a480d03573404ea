"""Trains the embedded demo model; used by maintainers only, never by the build or the runtime stage."""
