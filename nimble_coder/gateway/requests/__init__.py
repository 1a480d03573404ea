"""What clients send: bodies, the table of their fields, and what the engine is asked."""
