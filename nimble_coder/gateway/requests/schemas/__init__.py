"""What clients send and the gateway reads, by API; `fields.py` says what becomes of the rest. Null means absent."""
