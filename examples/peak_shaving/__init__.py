"""A flash sale with and without a queue in front of a service that bears only so much. See README.md."""
