"""Is this argument allowed: its type, its value, its shape."""
