"""Examples that run: each folder is one small system, to read, to start and to copy from."""

if __name__ != "sluicemq.examples":
    raise ImportError(
        "the folder 'examples' is installed as 'sluicemq.examples': run `make dev` (or `pip install .`) and import "
        "that name; importing it from the checkout would make every class twice"
    )
