"""Which version of the program this is, as clients and brokers tell each other.

Written down here and not asked of the installed package: what can read that takes as long to load as a fifth of the
broker. A test holds it to what pyproject.toml says. It must not know what depends on it.
"""

VERSION = "0.1.0"
