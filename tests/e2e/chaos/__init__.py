"""A kit that breaks a cluster in every way it can, and proves afterwards that nothing confirmed was lost.

`python -m tests.e2e.chaos --seconds 60 --seed 7 --nodes 3` starts real processes, with a TCP proxy (`network`) on every
way between two of them and from every client. A seeded plan (`faults`) kills, freezes, partitions, slows and wipes;
a workload (`workload`) publishes and consumes meanwhile and writes down what it did (`history`); then pure checkers
(`checkers`) judge the history. The same seed makes the same plan; what the processes make of it is never the same.
"""
