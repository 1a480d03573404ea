"""What the command `nimble-coder` does, one subject per file; `cli.py` puts them together."""
