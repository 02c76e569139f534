"""Security Hub's GetFindings, BatchImportFindings and BatchUpdateFindings as AWS has them, over moto's backends; and of
the V2 operations GetFindingsV2 and BatchUpdateFindingsV2, as far as verdicts need them.

moto ignores Filters and SortCriteria, does not ask whether Security Hub is enabled, and gives findings out as its own
JSON. Here a finding keeps the text it was imported with, so that a test can compare what left the connector with what
was served, byte for byte. What this stand-in does not know (another filter, another comparison) is an error, never a
filter that lets everything pass.
"""

import json
import secrets
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from moto.securityhub import urls
from moto.securityhub.exceptions import SecurityHubClientError
from moto.securityhub.models import SecurityHubBackend, securityhub_backends
from moto.securityhub.responses import SecurityHubResponse

MAX_PAGE_SIZE = 100
RATE, BURST = 3, 6  # requests a second to GetFindings, for each account and region (API reference)


@dataclass
class Settings:
    """How Security Hub behaves, beyond what it always does."""

    page_size: int = MAX_PAGE_SIZE
    """The most findings on a page, whatever is asked for: AWS may give fewer"""
    arrival: int = 0
    """A finding shows only after this many further calls of GetFindings: AWS is eventually consistent"""
    rate_limit: bool = False
    """GetFindings is limited as AWS limits it"""
    update_arrival: int = 0
    """What BatchUpdateFindings changes shows only after this many further calls of GetFindings"""
    unprocessed: str = ""
    """BatchUpdateFindings changes nothing, and names each finding as unprocessed with this error code"""
    page_seconds: float = 0
    """So long a page takes"""
    tokens_count: bool = False
    """A page token says how many findings to pass over, among those that the query finds by then"""
    token_calls: int | None = None
    """After so many further calls of GetFindings a page token is not taken any more"""
    index_lag: int = 0
    """For so many further calls of GetFindings a finding that is imported again is found and sorted as it was before:
    the index is older than the document"""
    changes: list[str] = field(default_factory=list)
    """Findings that are imported one by one, one after each call of GetFindings"""


settings = Settings()
_DECODER = json.JSONDecoder()
_WHITE_SPACE = " \t\r\n"


def raw_members(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as its text."""
    return dict(_pairs(text))


def raw_elements(text: str) -> list[str]:
    """The elements of a JSON array, each as its text."""
    at = _skip(text, 0, _WHITE_SPACE)
    if text[at] != "[":
        raise ValueError("no array")
    at += 1
    elements = []
    while text[at := _skip(text, at, _WHITE_SPACE + ",")] != "]":
        _, end = _DECODER.raw_decode(text, at)
        elements.append(text[at:end])
        at = end
    return elements


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    at = _skip(text, 0, _WHITE_SPACE)
    if text[at] != "{":
        raise ValueError("no object")
    at += 1
    while text[at := _skip(text, at, _WHITE_SPACE + ",")] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at, _WHITE_SPACE + ":")
        _, end = _DECODER.raw_decode(text, at)
        yield name, text[at:end]
        at = end


def _skip(text: str, at: int, characters: str) -> int:
    while text[at] in characters:
        at += 1
    return at


class Finding:
    """A finding: its text, and what it is looked up by."""

    def __init__(self, raw: str):
        self.raw = raw
        self.shows_after = 0
        self.before: Finding | None = None
        """What shows until this does"""
        self.indexed_after = 0
        value = json.loads(raw)
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        self.updated_at = _instant(self.get("UpdatedAt"))

    def get(self, *path: str) -> str | None:
        value: Any = self.value
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, str) else None

    def shown(self, calls: int) -> "Finding | None":
        """What so many calls of GetFindings show of it."""
        if self.shows_after < calls:
            return self
        return self.before.shown(calls) if self.before else None

    def updated(self, members: dict[str, Any]) -> "Finding":
        """With other members; the text of all others stays as it is."""
        raw = {**raw_members(self.raw), **{name: json.dumps(value) for name, value in members.items()}}
        return Finding("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in raw.items()) + "}")

    def as_indexed(self, calls: int) -> "Finding":
        """What finds and sorts it."""
        return self if self.before is None or calls > self.indexed_after else self.before.as_indexed(calls)

    @property
    def identity(self) -> Any:
        """By this an import replaces an earlier one; a finding without an Id replaces nothing."""
        finding_id = self.get("Id")
        return (self.get("ProductArn"), finding_id) if finding_id else object()


def _instant(text: str | None) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    if instant and instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return instant


# What Security Hub itself fills in where the importer does not is taken as filled in; the text is left as it is.
_STRING_FILTERS: dict[str, Callable[[Finding], str | None]] = {
    "WorkflowStatus": lambda f: f.get("Workflow", "Status") or "NEW",
    "RecordState": lambda f: f.get("RecordState") or "ACTIVE",
    "SeverityLabel": lambda f: f.get("Severity", "Label"),
    "ProductName": lambda f: f.get("ProductName"),
    "AwsAccountId": lambda f: f.get("AwsAccountId"),
    "Id": lambda f: f.get("Id"),
    "ProductArn": lambda f: f.get("ProductArn"),
}
_ANY_OF = {
    "EQUALS": lambda have, want: have == want,
    "PREFIX": lambda have, want: have.startswith(want),
}
_NONE_OF = {
    "NOT_EQUALS": _ANY_OF["EQUALS"],
    "PREFIX_NOT_EQUALS": _ANY_OF["PREFIX"],
}


def _invalid_input(message: str) -> SecurityHubClientError:
    return SecurityHubClientError("InvalidInputException", message)


def _predicate(filters: dict[str, Any]) -> Callable[[Finding], bool]:
    checks = []
    for name, conditions in filters.items():
        if not conditions:
            continue
        if name == "UpdatedAt":
            checks.append(_date_check(conditions))
        elif name in _STRING_FILTERS:
            checks.append(_string_check(_STRING_FILTERS[name], conditions))
        else:
            raise _invalid_input(f"the stand-in does not know the filter {name}")
    return lambda finding: all(check(finding) for check in checks)


def _string_check(get: Callable[[Finding], str | None], conditions: list[dict[str, str]]) -> Callable[[Finding], bool]:
    any_of = [(_ANY_OF[c["Comparison"]], c["Value"]) for c in conditions if c["Comparison"] in _ANY_OF]
    none_of = [(_NONE_OF[c["Comparison"]], c["Value"]) for c in conditions if c["Comparison"] in _NONE_OF]
    if len(any_of) + len(none_of) != len(conditions):
        raise _invalid_input("the stand-in does not know a comparison")

    def check(finding: Finding) -> bool:
        have = get(finding) or ""
        return (not any_of or any(matches(have, want) for matches, want in any_of)) and not any(
            matches(have, want) for matches, want in none_of
        )

    return check


def _date_check(conditions: list[dict[str, str]]) -> Callable[[Finding], bool]:
    ranges = []
    for condition in conditions:
        start, end = _instant(condition.get("Start")), _instant(condition.get("End"))
        if start is None or end is None or set(condition) != {"Start", "End"}:
            raise _invalid_input(
                "a DateFilter takes both Start and End, or a DateRange, which the stand-in does not know"
            )
        ranges.append((start, end))
    return lambda finding: (
        finding.updated_at is not None and any(start <= finding.updated_at <= end for start, end in ranges)
    )


def _order(criteria: list[dict[str, str]] | None) -> tuple[Callable[[Finding], Any], bool] | None:
    if not criteria:
        return None
    if len(criteria) != 1 or criteria[0].get("Field") != "UpdatedAt":
        raise _invalid_input("the stand-in sorts by UpdatedAt only")
    return _time, criteria[0].get("SortOrder") == "desc"


def _hub(backend: SecurityHubBackend) -> Any:
    """The findings and open page tokens of a region, kept in moto's backend so that moto's reset clears them."""
    if not hasattr(backend, "standin_findings"):
        backend.standin_findings = {}
        backend.standin_ocsf = {}
        backend.standin_tokens = {}
        backend.standin_settled = True
        backend.standin_by_time = {}
        backend.standin_calls = 0
        backend.standin_bucket = (BURST, time.monotonic())
    if not backend.enabled:
        message = f"Account {backend.account_id} is not subscribed to AWS Security Hub"
        raise SecurityHubClientError("InvalidAccessException", message)
    return backend


def _get_findings(self: SecurityHubResponse) -> str:
    hub = _hub(self.securityhub_backend)
    hub.standin_calls += 1
    if settings.rate_limit:
        tokens, then = hub.standin_bucket
        now = time.monotonic()
        tokens = min(BURST, tokens + (now - then) * RATE)
        hub.standin_bucket = (tokens - (tokens >= 1), now)
        if tokens < 1:
            raise SecurityHubClientError("TooManyRequestsException", "Rate exceeded")
    time.sleep(settings.page_seconds)
    request = json.loads(self.body or "{}")
    size = min(request.get("MaxResults") or MAX_PAGE_SIZE, settings.page_size)
    if not 1 <= size <= MAX_PAGE_SIZE:
        raise _invalid_input("MaxResults must be from 1 to 100")
    asked = (request.get("Filters") or {}, request.get("SortCriteria"))
    token = request.get("NextToken")
    rest, passed = [], 0
    if token:
        pinned, rest, passed, given = hub.standin_tokens.get(token, (None, [], 0, 0))
        is_stale = settings.token_calls is not None and hub.standin_calls - given > settings.token_calls
        if pinned != asked or is_stale:
            raise _invalid_input("NextToken is not one of this query: filters and order must stay the same")
    if not token or settings.tokens_count:
        rest = _found(hub, *asked)[passed:]
    page, rest = rest[:size], rest[size:]
    members = ['"Findings": [' + ", ".join(finding.raw for finding in page) + "]"]
    if rest:
        token = secrets.token_urlsafe(32)
        hub.standin_tokens[token] = (asked, rest, passed + len(page), hub.standin_calls)
        members.append('"NextToken": ' + json.dumps(token))
    if settings.changes:
        _import(hub, settings.changes.pop(0))
    return "{" + ", ".join(members) + "}"


def _found(hub: Any, filters: dict[str, Any], criteria: list[dict[str, str]] | None) -> list[Finding]:
    accepts, order = _predicate(filters), _order(criteria)
    ranges = filters.get("UpdatedAt") or []
    if not hub.standin_settled or order is None or order[1] or len(ranges) > 1:
        shown = filter(None, (finding.shown(hub.standin_calls) for finding in hub.standin_findings.values()))
        found = [(finding.as_indexed(hub.standin_calls), finding) for finding in shown]
        found = [(indexed, finding) for indexed, finding in found if accepts(indexed)]
        if order:
            found.sort(key=lambda both: order[0](both[0]), reverse=order[1])
        return [finding for _, finding in found]
    # A backlog is read by as many queries as it has pages: what they have in common is looked up once.
    others = {name: conditions for name, conditions in filters.items() if name != "UpdatedAt"}
    by_time = hub.standin_by_time.setdefault(json.dumps(others, sort_keys=True), [])
    if not by_time:
        by_time += sorted(filter(_predicate(others), hub.standin_findings.values()), key=_time)
    for limits in ranges:
        start, end = _instant(limits["Start"]), _instant(limits["End"])
        timed = bisect_right(by_time, _EARLIEST, key=_time)
        return by_time[bisect_left(by_time, start, timed, key=_time) : bisect_right(by_time, end, timed, key=_time)]
    return list(by_time)


_EARLIEST = datetime.min.replace(tzinfo=UTC)


def _time(finding: Finding) -> datetime:
    return finding.updated_at or _EARLIEST


def _import(hub: Any, raw: str) -> None:
    finding = Finding(raw)
    finding.shows_after = hub.standin_calls + settings.arrival
    finding.before = hub.standin_findings.get(finding.identity) if settings.index_lag else None
    finding.indexed_after = hub.standin_calls + settings.index_lag
    _put(hub, finding.identity, finding)


def _put(hub: Any, identity: Any, finding: Finding) -> None:
    hub.standin_findings[identity] = finding
    hub.standin_settled &= not (settings.arrival or settings.index_lag or settings.update_arrival)
    hub.standin_by_time.clear()


def _batch_import_findings(self: SecurityHubResponse) -> str:
    hub = _hub(self.securityhub_backend)
    findings = raw_elements(raw_members(self.body)["Findings"])
    for raw in findings:
        _import(hub, raw)
    return json.dumps({"FailedCount": 0, "SuccessCount": len(findings), "FailedFindings": []})


def _batch_update_findings(self: SecurityHubResponse) -> str:
    hub = _hub(self.securityhub_backend)
    request = json.loads(self.body)
    members = {name: value for name, value in request.items() if name != "FindingIdentifiers"}
    if "Note" in members:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        members["Note"] = {**members["Note"], "UpdatedAt": now}
    processed, unprocessed = [], []
    for identifier in request["FindingIdentifiers"]:
        identity = (identifier["ProductArn"], identifier["Id"])
        found = hub.standin_findings.get(identity)
        code = settings.unprocessed or ("" if found else "FindingNotFound")
        if code:
            error = {"ErrorCode": code, "ErrorMessage": f"the finding was not updated: {code}"}
            unprocessed.append({"FindingIdentifier": identifier, **error})
            continue
        changed = found.updated(members)
        changed.before = found
        changed.shows_after = hub.standin_calls + settings.update_arrival
        _put(hub, identity, changed)
        processed.append(identifier)
    return json.dumps({"ProcessedFindings": processed, "UnprocessedFindings": unprocessed})


def _get_findings_v2(self: SecurityHubResponse) -> str:
    """Of one `metadata.uid`; another query is an error."""
    hub = _hub(self.securityhub_backend)
    try:
        (composite,) = json.loads(self.body)["Filters"]["CompositeFilters"]
        (asked,) = composite["StringFilters"]
        if (asked["FieldName"], asked["Filter"]["Comparison"]) != ("metadata.uid", "EQUALS"):
            raise ValueError(asked)
    except (KeyError, ValueError):
        message = "the emulator finds findings of V2 by their metadata.uid only"
        raise SecurityHubClientError("ValidationException", message) from None
    found = hub.standin_ocsf.get(asked["Filter"]["Value"])
    return '{"Findings": [' + (found or "") + "]}"


_OCSF_STATUSES = {1: "New", 2: "In Progress", 3: "Suppressed", 4: "Resolved", 5: "Archived"}


def _batch_update_findings_v2(self: SecurityHubResponse) -> str:
    hub = _hub(self.securityhub_backend)
    request = json.loads(self.body)
    processed, unprocessed = [], []
    for uid in request["MetadataUids"]:
        found = hub.standin_ocsf.get(uid)
        code = settings.unprocessed or ("" if found else "ResourceNotFoundException")
        if code:
            unprocessed.append({"MetadataUid": uid, "ErrorCode": code, "ErrorMessage": "the finding was not updated"})
            continue
        members = {}
        if "StatusId" in request:
            members = {"status_id": request["StatusId"], "status": _OCSF_STATUSES[request["StatusId"]]}
        if "Comment" in request:
            members["comment"] = request["Comment"]
        hub.standin_ocsf[uid] = Finding(found).updated(members).raw
        processed.append({"MetadataUid": uid})
    return json.dumps({"ProcessedFindings": processed, "UnprocessedFindings": unprocessed})


def put_ocsf(account: str, region: str, text: str) -> None:
    """A finding of V2. No public operation imports one."""
    hub = _hub(securityhub_backends[account][region])
    hub.standin_ocsf[json.loads(text)["metadata"]["uid"]] = text


def install() -> None:
    """Puts this module's answers in the place of moto's."""
    for path in ("findings/batchupdate", "findingsv2", "findingsv2/batchupdatev2"):
        urls.url_paths[f"{{0}}/{path}$"] = SecurityHubResponse.dispatch
    SecurityHubResponse.batch_update_findings = _batch_update_findings
    SecurityHubResponse.get_findings_v2 = _get_findings_v2
    SecurityHubResponse.batch_update_findings_v2 = _batch_update_findings_v2
    SecurityHubResponse.get_findings = _get_findings
    SecurityHubResponse.batch_import_findings = _batch_import_findings
