"""The portable engine: lookahead decoding of Qwen2 models in PyTorch, behind the protocol every engine has."""
