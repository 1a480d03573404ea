"""Forms as grammars for xgrammar, which guides TensorRT-LLM's engines."""
