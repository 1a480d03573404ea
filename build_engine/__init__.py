"""The build stage: from a Qwen2 checkpoint to an engine and a Triton model repository with its manifest.

Owns the artefact's format. The runtime stage (`nimble_coder`) reads what is written here and never writes it.
"""
