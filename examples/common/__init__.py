"""What the larger examples share; nothing to copy from."""
