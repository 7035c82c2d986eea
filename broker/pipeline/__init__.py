"""The road of a message: one module a stage, in the order in which a message meets them.

`produce` validates a request and makes an entry; `append` writes it to the segment log and syncs; `replicate` counts
who has it; `commit` lets what a quorum has go on, in order; `apply` gives it to the queue machine, which judges;
`dispatch` sends ready messages to consumers within their credit; `settle` takes their verdicts, which are new
entries at the start of the same road. `road` puts the stages together. `log_clock` and `due` carry time into the
log. One broker is an ensemble of one: it takes the same road as five.
"""
