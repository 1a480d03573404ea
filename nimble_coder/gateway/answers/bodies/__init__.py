"""What the gateway answers, by API: the types that bodies are built from and that the OpenAPI document shows.

A stream's chunks are joined as bytes (`wire.py` says why), so their types only describe them; tests hold them to it.
"""
