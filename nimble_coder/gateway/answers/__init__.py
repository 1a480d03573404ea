"""What clients get: an answer as it grows, and how each API writes it."""
