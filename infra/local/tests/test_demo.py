"""The demo ends with what it shows, and leaves no process behind."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import local


def test_the_demo_shows_what_it_says() -> None:
    mark = f"DEMO_OF_TEST={os.getpid()}"
    name, _, value = mark.partition("=")
    done = subprocess.run(
        [sys.executable, local.LOCAL / "demo.py"],
        env={**os.environ, name: value},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Shown: of 8 findings the 6 that are NEW or NOTIFIED" in done.stdout
    assert "the audit restored it and said so once" in done.stdout
    assert "AiSOC's verdict stands on the finding" in done.stdout
    left = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in environment.read_bytes().split(b"\0"):
                left.append((environment.parent / "cmdline").read_text())
    assert left == []
