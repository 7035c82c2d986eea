"""The road of a message: one module a stage, in the order in which a message meets them.

`produce` validates a request and makes an entry; `append` writes it to the segment log and syncs; `replicate` counts
who has it; `commit` lets what a quorum has go on, in order; `apply` gives it to the queue machine, which judges;
`dispatch` sends ready messages to consumers within their credit; `settle` takes their verdicts, which are new
entries at the start of the same road. `road` puts the stages together. One broker is an ensemble of one: it takes the
same road as five.

Beside the stages stand their helpers: `bodies` and `cargo` for `dispatch`, `log_clock` and `due`, which carry time into
the log, `turns`, which measures the event loop. `replay` reads again what a queue retains, and changes nothing. What
keeps memory, disk and the time of a start bounded lies in the folder `keeping`.
"""
