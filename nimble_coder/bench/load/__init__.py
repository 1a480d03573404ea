"""Load on a running service: what is asked, how it is sent, what came back, and how it is shown."""
