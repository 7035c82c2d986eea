"""The bench: the same work for SluiceMQ and for what a Python user would pick instead, in one run.

The way in: `systems` (who takes part, and what each one promises), `adapters` (one file a system: its server, its
client, its best practice), `worker` (the timed loops, in processes of their own), `scenarios` (what is measured,
interleaved), `statistics` (medians, ranges, ratios; pure), `report` and `charts` (what the reader sees), `compare`
(two commits of ours). Three nodes of each are `clusters`, `cluster_systems`, `cluster_scenarios` and
`cluster_report`; `document` makes the page of performance of what is committed. Part of the repository, not of the
wheel. It must not reach into the broker: it talks to every system from outside.
"""
