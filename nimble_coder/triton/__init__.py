"""Triton: the server process, and the tensors of the `tensorrt_llm` contract on both of its sides."""
