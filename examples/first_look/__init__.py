"""Asynchronous orders: the web front answers at once, stock, billing and notification follow behind. See README.md."""
