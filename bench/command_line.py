"""The commands of `python -m bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare SluiceMQ with other systems.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("run", "the whole comparison of single servers; at most 15 minutes"),
        ("cluster", "three nodes each, and what happens when the leader is lost; 20 minutes"),
    ):
        run = commands.add_parser(name, help=what)
        run.add_argument("--quick", action="store_true", help="one short round of the main scenarios")
        run.add_argument("--only", default="", help="names of systems, by comma")
        run.add_argument("--data", type=Path, default=Path.cwd(), help="a directory on the file system to measure")
        run.add_argument("--out", type=Path, default=RESULTS, help="where results go")
        run.add_argument("--lock", type=Path, help="a file to lock during each measurement, where others work too")
        run.add_argument(
            "--seconds", type=float, help="begin no measurement after so long, and end with code 3 if any is left"
        )
        run.add_argument("--go-on", action="store_true", help="measure what an earlier run of the same commit has left")
    report = commands.add_parser("report", help="write table and charts again from results.json")
    report.add_argument("--out", type=Path, default=RESULTS)
    commands.add_parser("check", help="say what is missing on this machine, and how to install it")
    compare = commands.add_parser("compare", help="hold two commits of SluiceMQ against each other")
    compare.add_argument("commit_a")
    compare.add_argument("commit_b")
    compare.add_argument("--rounds", type=int, default=5)
    compare.add_argument("--data", type=Path, default=Path.cwd())
    log = commands.add_parser("log", help="what our log costs beside bare writes and syncs")
    log.add_argument("--data", type=Path, default=Path.cwd(), help="a directory on the file system to measure")
    log.add_argument("--only", choices=("throughput", "latency", "zeroing", "python", "open"))
    commands.add_parser("dispatch", help="what it costs to choose messages and consumers, by order and policy")
    features = commands.add_parser("features", help="what each feature costs the broker a message")
    features.add_argument("--only", default="", help="words in names of features, by comma")
    features.add_argument("--out", type=Path, default=RESULTS, help="where results go")
    document = commands.add_parser("document", help="write docs/performance.md from the committed results")
    document.add_argument("--take", type=Path, metavar="FOLDER", help="commit the results in this folder from now on")
    worker = commands.add_parser("worker")
    worker.add_argument("system")
    given = parser.parse_args(arguments)
    # Imports wait until they are needed: a worker should know its own system only.
    if given.command == "worker":
        from bench.worker import work

        work(given.system)
        return 0
    if given.command == "check":
        from bench.run import check

        return check()
    if given.command == "report":
        from bench.report import write_all

        write_all(given.out)
        return 0
    if given.command == "compare":
        from bench.compare import compare as compare_commits

        return compare_commits(given.commit_a, given.commit_b, given.rounds, given.data)
    if given.command == "dispatch":
        from bench.dispatching import measure as measure_dispatching

        return measure_dispatching()
    if given.command == "features":
        from bench.features import measure as measure_features

        return measure_features([word for word in given.only.split(",") if word], given.out)
    if given.command == "document":
        from bench.document import write_document

        return write_document(given.take)
    if given.command == "log":
        from bench.log_path import measure

        return measure(given.data, given.only)
    from bench.run import Order, run_cluster
    from bench.run import run as run_single

    order = Order(
        only=[name for name in given.only.split(",") if name],
        data=given.data,
        out=given.out,
        quick=given.quick,
        lock=given.lock,
        seconds=given.seconds,
        go_on=given.go_on,
    )
    return run_cluster(order) if given.command == "cluster" else run_single(order)
