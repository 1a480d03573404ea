"""Prompts as Qwen2.5-Coder wants them: chat, fill-in-the-middle, and the ids of both."""
