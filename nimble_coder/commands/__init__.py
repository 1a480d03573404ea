"""What the command `nimble-coder` does, one subject per file; `application.py` puts them together."""
