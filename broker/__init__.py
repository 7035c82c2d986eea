"""The broker: the queue machine, the pipeline around it, the server and the command line.

`queues` and `replication` are pure; `pipeline` and `server` bring the event loop, the log and the sockets.
"""

if __name__ != "sluicemq.broker":
    raise ImportError(
        "the folder 'broker' is installed as 'sluicemq.broker': run `make dev` (or `pip install .`) and import that "
        "name; importing it from the checkout would make every class twice"
    )
