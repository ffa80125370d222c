"""One measurement in a process of its own, on a given number of cores.

    python benchmarks/child.py CORES MODULE FUNCTION '{"keyword": ...}'

Engines do not share a process, so neither do their threads and memory; the cores are taken before
any engine is imported, so each makes as many threads as it sees cores. Prints JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def isolated(module: str, function: str, cores: int, /, **arguments: Any) -> Any:
    """What ``module.function(**arguments)`` returns, from a child process.

    Raises RuntimeError with the child's last words where it failed.
    """
    command = [sys.executable, __file__, str(cores), module, function, json.dumps(arguments)]
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{module}.{function} failed: {result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def use_cores(count: int) -> None:
    """Keep this process to so many of the cores it may use (Linux; elsewhere by threads alone)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    os.environ["OMP_PROC_BIND"] = "true"  # each thread on its own core, which steadies the times


def main() -> None:
    """Run the measurement and print what it returns."""
    cores, module, function, arguments = sys.argv[1:]
    use_cores(int(cores))
    print(json.dumps(getattr(importlib.import_module(module), function)(**json.loads(arguments))))


if __name__ == "__main__":
    main()
