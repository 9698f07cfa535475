"""The exact gradient, whole or truncated, within a budget of memory."""
