"""What both sides speak: frames, messages, the columnar batch and the error tree.

Everything here is pure: bytes in, values out. No socket, no clock, no event loop, no file; the broker and the
client bring their own. The way in for a reader: `frames` (how bytes become frames), `fields` and `messages` (what a
frame says), `batch` and `columns` (how many messages travel as one), `connection` (which frame may come when),
`unpacking` (what a stranger's msgpack may cost), `errors`.
"""

if __name__ != "sluicemq.wire":
    raise ImportError(
        "the folder 'wire' is installed as 'sluicemq.wire': run `make dev` (or `pip install .`) and import that name; "
        "importing it from the checkout would make every class twice"
    )
