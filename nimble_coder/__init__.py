"""The runtime stage: serves what the build stage (`build_engine`) published, and the clients that call it."""
