"""One module a system: how its server is started, how its client is used best, and what its confirm means."""
