"""Measures a drain: `drain.py FINDINGS [SECONDS]` polls a backlog until it is delivered, with so many seconds an
invocation (60 if not said), against the stand-in with Security Hub's real rate limit.

Run by hand: it takes at least a third of a second for each page of 100. Ends with a table; no number here is a test.
"""

import json
import sys
import time
from pathlib import Path

import local


def finding(number: int) -> str:
    # A hundred a second: pages of one instant, and instants that go over a page's end.
    seconds = number // 130
    updated = f"2026-11-{1 + seconds // 86400:02}T{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"
    return json.dumps(
        {
            "SchemaVersion": "2018-10-08",
            "Id": f"finding-{number:06}",
            "ProductArn": "arn:aws:securityhub:us-east-1::product/aws/guardduty",
            "AwsAccountId": local.ACCOUNT,
            "Title": "A finding of a backlog",
            "Description": "d" * 1000,
            "UpdatedAt": updated,
            "Severity": {"Label": "LOW"},
            "Workflow": {"Status": "NEW"},
            "RecordState": "ACTIVE",
        }
    )


def resident_kib(pid: int) -> int:
    """The most memory a process has had so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise ValueError("no VmHWM")


def main(findings: int, seconds: int = 60) -> None:
    with local.StandIn() as aws:
        aws.client("securityhub").enable_security_hub()
        for start in range(0, findings, 5000):
            aws.import_findings([finding(n) for n in range(start, min(start + 5000, findings))])
        aws.settings(rate_limit=True)
        environment = aws.deploy(InitialLookbackSeconds="0", SweepHours="0").environment("Poller")
        with local.Function(local.binary("poller"), environment, timeout=seconds) as poller:
            print(f"{findings} findings, {seconds} s an invocation", flush=True)
            started, sent, pages, throttles, invocations, skipped = time.monotonic(), 0, 0, 0, 0, 0
            first_kib = None
            while True:
                report = poller.invoke({})
                invocations += 1
                sent += report["events_sent"]
                pages += report["regions"][0]["pages"]
                skipped += report["regions"][0]["duplicates_skipped"]
                # The function is the emulator's only child.
                kib = max(map(resident_kib, poller.processes()[1:]))
                first_kib = first_kib or kib
                if invocations % 10 == 1:
                    print(f"  {time.monotonic() - started:6.0f} s  {sent:7} sent  {kib / 1024:5.1f} MiB", flush=True)
                if report["complete"]:
                    break
            took = time.monotonic() - started
            lines = (line for line in poller.log().splitlines() if line.startswith('{"_aws"'))
            throttles = sum(json.loads(line)["Throttles"] for line in lines)
        # After a burst of 6 the rest come at 3 a second.
        limit = max(pages - 6, 0) / 3
        print(f"{sent} events sent, {skipped} read again and known; {invocations} invocations, {pages} pages")
        print(f"{took:.1f} s; the limit's own time {limit:.1f} s; ratio {took / max(limit, 0.001):.3f}")
        print(f"{throttles} throttles; at most {first_kib / 1024:.1f} MiB in the first invocation,", end=" ")
        print(f"{kib / 1024:.1f} MiB in all")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
