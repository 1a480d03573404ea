"""Who may call, and how much: keys, TLS, limits."""
