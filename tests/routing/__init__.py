"""Replicas behind the proxies of deploy/, as processes on addresses of loopback: `scripts/test-routing`."""
