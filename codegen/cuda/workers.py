"""Compiler processes: each runs `worker.py`, one job after another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from warploom.codegen.cuda.job import Job, triton_version
from warploom.errors import CompileError

WORKER = "warploom.codegen.cuda.worker"
Answer = dict[str, Any]


@dataclass
class Workers:
    """Compiler processes, started as they are needed and reused."""

    _idle: SimpleQueue[subprocess.Popen[str]] = field(default_factory=SimpleQueue)

    def run(self, job: Job) -> Answer:
        """The answer of a worker to a job. A worker that dies is not replaced by a guess."""
        worker = self._take()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            print(json.dumps(asdict(job)), file=worker.stdin, flush=True)
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            worker.communicate()
            raise CompileError(
                f"the compiler died on kernel {job.name}",
                expected="machine code or an error message",
                found=f"exit status {worker.returncode}; LLVM's message is on stderr",
                fix="report this kernel",
            )
        self._idle.put(worker)
        answer: Answer = json.loads(line)
        return answer

    def _take(self) -> subprocess.Popen[str]:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._start()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        triton_version()
        command, pipe = [sys.executable, "-m", WORKER], subprocess.PIPE
        settings = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=settings)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        while not self._idle.empty():
            worker = self._idle.get()
            worker.communicate()  # the end of its stdin ends it
