"""Every file of events/ is a case of some test."""

from pathlib import Path

import local


def test_no_event_stands_unused() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    events = sorted(path.stem for path in (local.ROOT / "events").glob("*.json"))
    assert events
    assert [name for name in events if f'"{name}"' not in tests] == []
