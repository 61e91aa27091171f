#!/usr/bin/env python3
"""What other stores that agents' frameworks use take for one durable update, beside ours.

`python3 benches/rivals.py` installs them, at the versions below, under target/rivals and runs `cargo bench -- updates` for ours.
Each stands beside a one-row upsert by SQLite in its own language, at `synchronous=FULL`, as this is what the disk costs.
"""

import json
import os
import queue
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

PACKAGES = ["langgraph-checkpoint-sqlite==3.1.2", "langgraph-checkpoint==4.3.2", "dbos==3.4.0"]
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "rivals"
ROUNDS = 300


def main():
    if Path(sys.prefix) != VENV:
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True)
        python = VENV / "bin" / "python"
        os.execv(python, [python, __file__])
    groups = []
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        floor = raw(folder)
        for name, rival in [
            ("LangGraph SqliteSaver: put of a checkpoint with 50 short messages", langgraph),
            # The last one: what it does by itself in the background would slow the others down.
            ("DBOS: one step of a workflow", dbos),
        ]:
            groups.append(in_turns({"Python's sqlite3: raw upsert and commit": floor, name: rival(folder)}))
    subprocess.run(["cargo", "bench", "--quiet", "--", "updates"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    measured = json.loads((ROOT / "target" / "benchmarks.json").read_text())["groups"]
    figures = {figure["name"]: figure for group in measured for figure in group["figures"]}
    names = ["raw upsert and commit", "update_task, one field changed", "update_conversation, 50 short messages, one new"]
    groups.append([(name, figures[name]["value"], figures[name]["p99"]) for name in names])
    print(f"| {'one durable update':66} |       µs |       p99 |   ratio |")
    print(f"| {'-' * 66} | -------: | --------: | ------: |")
    for group in groups:
        for name, middle, p99 in group:
            print(f"| {name:66} | {middle:8.0f} | {p99:9.0f} | {middle / group[0][1]:6.2f}× |")
    # Whatever dbos has left running.
    sys.stdout.flush()
    os._exit(0)


def in_turns(turns):
    """Median and 99th percentile of each, in microseconds."""
    times = {name: [] for name in turns}
    for number in range(-20, ROUNDS):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn(number)
            if number >= 0:
                times[name].append((time.perf_counter() - start) * 1e6)
    return [(name, median(found), sorted(found)[len(found) * 99 // 100]) for name, found in times.items()]


def durable(conn):
    """Ends the run where a store does not sync each commit: it would be compared with what it does not do."""
    if conn.execute("PRAGMA synchronous").fetchone()[0] < 2:
        sys.exit("this store's connections are not at synchronous=FULL")


def raw(folder):
    conn = sqlite3.connect(f"{folder}/raw.db", isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("CREATE TABLE task (id TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
    upsert = "INSERT INTO task VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
    return lambda number: conn.execute(upsert, (str(number % 100), f"value {number}"))


def langgraph(folder):
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.sqlite import SqliteSaver

    conn = sqlite3.connect(f"{folder}/langgraph.db", check_same_thread=False)
    saver = SqliteSaver(conn)
    saver.setup()
    durable(conn)
    config = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}

    def put(number):
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": [{"role": "user", "content": f"message {number + n}"} for n in range(50)]}
        checkpoint["channel_versions"] = {"messages": number + 100}
        saver.put(config, checkpoint, {"source": "loop", "step": number}, {"messages": number + 100})

    return put


def dbos(folder):
    import logging

    from dbos import DBOS
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    event.listen(Engine, "connect", lambda conn, _: durable(conn))
    DBOS(config={"name": "rivals", "system_database_url": f"sqlite:///{folder}/dbos.sqlite", "run_admin_server": False, "log_level": "ERROR"})
    logging.disable(logging.INFO)

    @DBOS.step()
    def step(number):
        return f"value {number}"

    # The steps that are timed belong to one workflow, which waits for each round's number.
    asked, done = queue.Queue(), queue.Queue()

    @DBOS.workflow()
    def workflow():
        while True:
            number = asked.get()
            if number is None:
                return
            step(number)
            done.put(number)

    DBOS.launch()
    DBOS.start_workflow(workflow)

    def turn(number):
        asked.put(number)
        done.get()

    return turn


if __name__ == "__main__":
    main()
