"""The broker's shell towards the network: listeners, connections, client sessions.

`listener` accepts and tells protocols apart, `outbound` sends, `client_session` is one client's connection,
`handshake` and `requests` say what each message does, `authorization` is the one place that may say no. Nothing
here decides about messages: that is the road's (`sluicemq.broker.pipeline`) and the machine's.
"""
