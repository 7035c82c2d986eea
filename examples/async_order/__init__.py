"""A shop, twice: once everything in the request, once answered at once and done by workers. See README.md."""
