"""The benchmarks: `bench.py [quick]`. Runs every contender in one go, prints the table with the ratio of each pair,
says of each goal whether it is met, and leaves `results.json` and `plot.svg` in `.local/bench`.

It needs the release artifacts, which `make bench` makes, and ten minutes: the poller keeps to Security Hub's
rate of 3 pages a second, so 100,000 findings alone take 5 and a half. `quick` leaves those out. No number here is a
test; that every contender did the whole work is checked, and ends the run where it is not so.
"""

import concurrent.futures
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import plot

ROOT = Path(__file__).resolve().parent.parent.parent
ARTIFACTS = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "lambda").resolve()
RESULTS = ROOT / ".local" / "bench"

SIZES = ("1.5", "5", "15")  # kilobytes a finding
COUNTS = (1_000, 10_000, 100_000)
STARTS = 20
REPEATS = {1_000: 5, 10_000: 1, 100_000: 1}
# Within the burst that the rate allows, so that it is no part of the time.
BURST, REST_MS = 400, 2500
PAGE, OVERLAP = 100, 3


def artifact(name: str) -> list[str]:
    path = ARTIFACTS / name / "bootstrap"
    if not path.exists():
        sys.exit(f"{path} is missing: run `make bench`")
    return [str(path)]


HARNESS = artifact("bench-harness")
COMMANDS = {
    "ours": artifact("poller"),
    "boto3": [sys.executable, str(ROOT / "infra" / "bench" / "poller_boto3.py")],
    "floor": artifact("bench-floor"),
    "empty": artifact("bench-empty"),
    "containment": artifact("containment"),
}
POLLERS = ("ours", "boto3", "floor")
# What one contender needs beside the settings of all.
SETTINGS = {"containment": "BLOCKS_TABLE_NAME=blocks", "floor": "FLOOR_MORE_BYTES=0"}


def run(contender: str, **options: Any) -> dict[str, Any]:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    log = RESULTS / f"{contender}.log"
    command = [*HARNESS, "--log", str(log), *words, "--", *COMMANDS[contender]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{contender} failed: {done.stderr.strip()}\nits log: {log}")
    return json.loads(done.stdout)


def setting_of(contender: str) -> dict[str, str]:
    return {"env": SETTINGS[contender]} if contender in SETTINGS else {}


def poll(contender: str, size: str, findings: int, more_bytes: int = 0, events: int = 1) -> dict[str, Any]:
    extra = {"env": f"FLOOR_MORE_BYTES={more_bytes}"} if contender == "floor" else {}
    report = run(
        contender,
        kilobytes=size,
        findings=findings,
        events=events,
        rest_ms=REST_MS,
        event='{"mode":"incremental"}',
        **extra,
    )
    for invocation in report["invocations"]:
        check(contender, report, invocation, findings, more_bytes)
    return report


def check(contender: str, report: dict[str, Any], invocation: dict[str, Any], findings: int, more_bytes: int) -> None:
    """Every contender has to do the whole work: else its time says nothing."""
    seen = invocation["seen"]
    # The floor follows page tokens; the others begin each query with the last findings of the one before.
    first, more = (PAGE, PAGE) if contender == "floor" else (PAGE, PAGE - OVERLAP)
    new = [min(first, findings)] + [min(more, findings - begin) for begin in range(first, findings, more)]
    wanted = {"GetFindings": len(new), "SendMessageBatch": sum(-(-n // 10) for n in new)}
    # Of the ledger at least and at most: it is not asked again for what was read less than 5 seconds ago, and where
    # pages cross midnight they take a Query and an item for each day.
    ledger = {
        "Query": (3, len(new) + 6),
        "PutItem": (len(new) + 2, len(new) + len(new) // 20 + 6),
        "DeleteItem": (1, 1),
    }
    problems = []
    # boto3 gives a finding in the order and the types of its own model: where a number was 5, 5.0. The floor's cut of
    # the page is a comma longer or shorter.
    expected = findings * (report["finding_bytes"] + more_bytes)
    if abs(seen["body_bytes"] - expected) > (0 if contender == "ours" else expected / 100):
        problems.append(f"{seen['body_bytes']} bytes sent, of {expected}")
    if contender == "ours" and not invocation["intact"]:
        problems.append("not every finding was sent once, to the letter")
    if contender != "floor":
        if (seen["events"], seen["digests_written"]) != (findings, findings):
            problems.append("not every event has an id of its own, or the ledger was not given each")
        calls = {name: seen["calls"].pop(name, 0) for name in ledger}
        problems += [
            f"{name}: {calls[name]} calls, of {bounds}"
            for name, bounds in ledger.items()
            if not bounds[0] <= calls[name] <= bounds[1]
        ]
    if (seen["findings"], seen["messages"]) != (findings, findings):
        problems.append(f"{seen['findings']} findings read and {seen['messages']} messages sent, of {findings}")
    # A retry would be a call more, and another amount of work.
    if seen["calls"] != wanted:
        problems.append(f"calls: {seen['calls']}, not {wanted}")
    if problems:
        sys.exit(f"{contender} did not do the work: {'; '.join(problems)}")


def start_ups() -> dict[str, Any]:
    progress(f"start-up, {STARTS} times each")
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(STARTS):
        for name in COMMANDS:
            times[name].append(run(name, **setting_of(name))["start_ms"])
    return {name: {"median_ms": statistics.median(all_), "all_ms": all_} for name, all_ in times.items()}


def event_overhead(size: str) -> int:
    """Bytes of an event beyond its finding."""
    report = run("ours", kilobytes=size, findings=100, events=1)
    seen = report["invocations"][0]["seen"]
    return round(seen["body_bytes"] / seen["messages"]) - report["finding_bytes"]


def bursts(overhead: dict[str, int]) -> dict[str, Any]:
    progress(f"first and warm poll of {BURST} findings of 5 KB")
    results = {}
    for name in POLLERS:
        reports = [poll(name, "5", BURST, overhead["5"], events=3) for _ in range(3)]
        walls = [[i["wall_ms"] for i in report["invocations"]] for report in reports]
        results[name] = {
            "first_ms": statistics.median(w[0] for w in walls),
            "warm_ms": statistics.median(t for w in walls for t in w[1:]),
        }
    return results


def matrix(counts: tuple[int, ...], overhead: dict[str, int]) -> dict[str, Any]:
    """CPU and memory by contender, size and number. All run side by side: nearly all of the time is spent waiting for
    the next page, and what disturbs one disturbs the others as much."""
    results: dict[str, Any] = {name: {size: {} for size in SIZES} for name in POLLERS}
    for count in counts:
        progress(f"{count:,} findings of {', '.join(SIZES)} KB, side by side")
        jobs = [(name, size) for name in POLLERS for size in SIZES]
        reports: dict[tuple[str, str], list[dict[str, Any]]] = {job: [] for job in jobs}
        with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
            for _ in range(REPEATS[count]):
                together = {job: pool.submit(poll, *job, count, overhead[job[1]]) for job in jobs}
                for job, future in together.items():
                    reports[job].append(future.result())
        for (name, size), of_job in reports.items():
            invocations = [report["invocations"][0] for report in of_job]
            results[name][size][str(count)] = {
                "cpu_ms_per_1000": statistics.median(i["cpu_ms"] for i in invocations) / count * 1000,
                "wall_s": statistics.median(i["wall_ms"] for i in invocations) / 1000,
                "peak_mib": statistics.median(report["peak_kib"] for report in of_job) / 1024,
                "body_bytes": invocations[0]["seen"]["body_bytes"],
                "calls_at_once": max(i["calls_at_once"] for i in invocations),
            }
    return results


def blocks() -> dict[str, Any]:
    progress("BLOCK_IP at 0 and 50 ms a call")
    request = json.loads((ROOT / "events" / "block-ip.json").read_text())
    results = {}
    for latency in (0, 50):
        report = run(
            "containment", **setting_of("containment"), latency_ms=latency, events=6, event=json.dumps(request)
        )
        for invocation in report["invocations"]:
            answer = invocation["answer"]
            if not (invocation["blocked"] and answer["status"] == "succeeded" and answer["verified"]):
                sys.exit(f"containment did not do the work: {answer}")
        first, *warm = report["invocations"]
        results[str(latency)] = {
            "first_ms": first["wall_ms"],
            "warm_ms": statistics.median(i["wall_ms"] for i in warm),
            "calls": sum(warm[0]["seen"]["calls"].values()),
            "calls_in_sequence": warm[0]["calls_in_sequence"],
            "cpu_ms": statistics.median(i["cpu_ms"] for i in warm),
            "peak_mib": report["peak_kib"] / 1024,
        }
    return results


def file_sizes() -> dict[str, Any]:
    results = {}
    for name in ("ours", "containment"):
        binary = Path(COMMANDS[name][0])
        with tempfile.TemporaryFile() as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:  # as `sam deploy` does
                zipped.write(binary, "bootstrap")
            results[name] = {"binary_mb": binary.stat().st_size / 1e6, "zip_mb": file.seek(0, os.SEEK_END) / 1e6}
    return results


# ---- what it says ------------------------------------------------------------------------------------------------


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}")
    widths = [max(len(line[n]) for line in [heads, *rows]) for n in range(len(heads))]
    for line in [heads, *rows]:
        cells = [
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "   ".join(cells))


def times(a: float, b: float) -> str:
    return f"{a / b:.2f}x" if a < 10 * b else f"{a / b:.0f}x"


def show(results: dict[str, Any]) -> None:
    starts = {name: of["median_ms"] for name, of in results["start_up"].items()}
    heads = ["", "median", "to empty", "boto3 to it"]
    rows = [
        [name, f"{ms:.1f} ms", times(ms, starts["empty"]), times(starts["boto3"], ms)] for name, ms in starts.items()
    ]
    table("Start-up to the first `next`", heads, rows)

    polls = results["bursts"]
    heads = ["", "first", "warm", "ours to it, first", "warm"]
    rows = [
        [
            name,
            f"{of['first_ms']:.0f} ms",
            f"{of['warm_ms']:.0f} ms",
            times(polls["ours"]["first_ms"], of["first_ms"]),
            times(polls["ours"]["warm_ms"], of["warm_ms"]),
        ]
        for name, of in polls.items()
    ]
    table(f"Poll of {BURST} findings of 5 KB (within the burst: no waiting for Security Hub's rate)", heads, rows)

    heads = ["", "ours", "floor", "boto3", "ours to floor", "boto3 to ours"]
    for key, title, unit, digits in (
        ("cpu_ms_per_1000", "CPU per 1,000 findings", "ms", 1),
        ("peak_mib", "Peak memory", "MiB", 1),
        ("wall_s", "Time, at Security Hub's rate", "s", 1),
    ):
        rows = []
        for size in SIZES:
            for count in results["counts"]:
                ours, floor, boto3 = (
                    results["matrix"][name][size][str(count)][key] for name in ("ours", "floor", "boto3")
                )
                numbers = [f"{n:.{digits}f} {unit}" for n in (ours, floor, boto3)]
                rows.append([f"{size} KB, {count:,}", *numbers, times(ours, floor), times(boto3, ours)])
        table(title, heads, rows)

    heads = ["a call", "first", "warm", "calls", "in sequence", "CPU", "peak"]
    rows = [
        [
            f"{latency} ms",
            f"{of['first_ms']:.1f} ms",
            f"{of['warm_ms']:.1f} ms",
            str(of["calls"]),
            # With no latency one call is over before the next arrives, though they were sent together.
            str(results["blocks"]["50"]["calls_in_sequence"]),
            f"{of['cpu_ms']:.1f} ms",
            f"{of['peak_mib']:.1f} MiB",
        ]
        for latency, of in results["blocks"].items()
    ]
    table("BLOCK_IP", heads, rows)
    heads = ["", "binary", "zip"]
    rows = [[name, f"{of['binary_mb']:.2f} MB", f"{of['zip_mb']:.2f} MB"] for name, of in results["files"].items()]
    table("Files", heads, rows)


def goals(results: dict[str, Any]) -> list[dict[str, Any]]:
    by = results["matrix"]
    starts = {name: of["median_ms"] for name, of in results["start_up"].items()}
    counts = [str(count) for count in results["counts"]]
    first, last = counts[0], counts[-1]
    cells = [(size, count) for size in SIZES for count in counts]

    def ratio(a: str, b: str, size: str, count: str) -> float:
        return by[a][size][count]["cpu_ms_per_1000"] / by[b][size][count]["cpu_ms_per_1000"]

    def growth(size: str, key: str) -> float:
        return by["ours"][size][last][key] / by["ours"][size][first][key]

    span = f"{int(last):,} to {int(first):,}"
    # (what, value, bound, whether the value has to stay below the bound)
    lines = [
        ("CPU, boto3 to ours, at the least", min(ratio("boto3", "ours", *cell) for cell in cells), 10, False),
        ("CPU, ours to floor, at the most", max(ratio("ours", "floor", *cell) for cell in cells), 1.3, True),
        ("start-up, poller to empty", starts["ours"] / starts["empty"], 1.5, True),
        ("start-up, containment to empty", starts["containment"] / starts["empty"], 1.5, True),
        ("start-up, boto3 to poller", starts["boto3"] / starts["ours"], 20, False),
        ("start-up, boto3 to containment", starts["boto3"] / starts["containment"], 20, False),
        (f"peak memory, {span}, at the most", max(growth(size, "peak_mib") for size in SIZES), 1.2, True),
        ("peak memory at 5 KB, MiB", max(by["ours"]["5"][count]["peak_mib"] for count in counts), 24, True),
        (f"CPU per finding, {span}, at the most", max(growth(size, "cpu_ms_per_1000") for size in SIZES), 1.1, True),
        ("zip of the poller, MB", results["files"]["ours"]["zip_mb"], 6, True),
        ("zip of containment, MB", results["files"]["containment"]["zip_mb"], 6, True),
    ]
    return [
        {
            "goal": what,
            "value": value,
            "bound": bound,
            "met": value <= bound if below else value >= bound,
            "below": below,
        }
        for what, value, bound, below in lines
    ]


def show_goals(lines: list[dict[str, Any]], by: dict[str, Any]) -> None:
    rows = [
        [
            line["goal"],
            f"{line['value']:.2f}",
            f"at {'most' if line['below'] else 'least'} {line['bound']}",
            "met" if line["met"] else "NOT MET",
        ]
        for line in lines
    ]
    table("Goals", ["", "measured", "goal", ""], rows)
    if all(line["met"] for line in lines):
        return
    print('\nWhat was tried where a goal is not met: README.md, "Benchmarks". The floor itself against boto3, in CPU:')
    for size in SIZES:
        ratios = [
            by["boto3"][size][count]["cpu_ms_per_1000"] / by["floor"][size][count]["cpu_ms_per_1000"]
            for count in by["floor"][size]
        ]
        print(f"  {size:>3} KB: {min(ratios):.1f} to {max(ratios):.1f} times less")


def progress(text: str) -> None:
    print(f"... {text}", flush=True)


def machine() -> dict[str, Any]:
    cpu = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"cpu": cpu[:1], "cores": os.cpu_count(), "python": platform.python_version(), "commit": commit or None}


def main() -> None:
    quick = sys.argv[1:] == ["quick"]
    RESULTS.mkdir(parents=True, exist_ok=True)
    for log in RESULTS.glob("*.log"):
        log.unlink()
    counts = COUNTS[:2] if quick else COUNTS
    results: dict[str, Any] = {"machine": machine(), "counts": list(counts), "files": file_sizes()}
    results["start_up"] = start_ups()
    overhead = {size: event_overhead(size) for size in SIZES}
    results["bursts"] = bursts(overhead)
    results["blocks"] = blocks()
    results["matrix"] = matrix(counts, overhead)
    results["goals"] = goals(results)
    (RESULTS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot.write(RESULTS / "plot.svg", results["matrix"], counts)
    show(results)
    show_goals(results["goals"], results["matrix"])
    print(f"\n{RESULTS.relative_to(ROOT)}/results.json and plot.svg hold this run")


if __name__ == "__main__":
    main()
