"""One broker of an ensemble: what runs the replication core over a real log, a real machine and real peers.

The core decides (`sluicemq.broker.replication`), the peers' connections carry (`links`, written in `server/peers`), and
here is what lies between. A road (`pipeline.road`) is taken while this broker leads, and only then.
"""
