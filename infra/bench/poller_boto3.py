"""The poller once more, as a short Python program would do it: what the benchmarks compare with.

Clients made once, sessions reused, each page's findings read once and written once. The same query, rate, event, event
id, ledger calls, batches and place as the Rust poller's. It lacks what the benchmark does not need: several regions,
errors, deadlines, retries of single entries.
"""

import hashlib
import http.client
import ipaddress
import json
import os
import re
import time
from datetime import UTC, datetime

import boto3
from botocore.config import Config

QUEUE, TABLE, REGION = (os.environ[name] for name in ("FINDINGS_QUEUE_URL", "STATE_TABLE_NAME", "AWS_REGION"))
RATE, BURST = 3, 5
TTL_SECONDS = 120 * 86400
SEVERITY = {"CRITICAL": "high", "HIGH": "high", "MEDIUM": "medium", "LOW": "low", "INFORMATIONAL": "info"}
DIRECTION = {"IN": "INBOUND", "INBOUND": "INBOUND", "OUT": "OUTBOUND", "OUTBOUND": "OUTBOUND"}
ADDRESS_KEY = re.compile(
    r"((?:aws/guardduty/service/)?action/)(networkConnectionAction|awsApiCallAction|portProbeAction)"
    r"(?:/[^/]*Details[^/]*)?/(remote|local)IpDetails/ipAddressV[46]$"
)

config = Config(retries={"mode": "standard", "max_attempts": 4})
hub, sqs, dynamodb = (boto3.client(name, config=config) for name in ("securityhub", "sqs", "dynamodb"))


def indicators(finding):
    found = {}

    def add(value, role, direction, path):
        try:
            address = ipaddress.ip_address((value or "").strip())
        except ValueError:
            return
        kind = f"ipv{address.version}"
        entry = {"type": kind, "value": str(address), "role": role, "direction": direction, "path": path}
        found.setdefault((address, role), entry)

    def details(action, direction, path):
        for member, role in (("RemoteIpDetails", "remote"), ("LocalIpDetails", "local")):
            add(action.get(member, {}).get("IpAddressV4"), role, direction, f"{path}.{member}.IpAddressV4")

    action = finding.get("Action", {})
    connection = action.get("NetworkConnectionAction", {})
    details(connection, DIRECTION.get(connection.get("ConnectionDirection")), "Action.NetworkConnectionAction")
    details(action.get("AwsApiCallAction", {}), None, "Action.AwsApiCallAction")
    for n, probe in enumerate(action.get("PortProbeAction", {}).get("PortProbeDetails", [])):
        details(probe, None, f"Action.PortProbeAction.PortProbeDetails[{n}]")
    network = finding.get("Network", {})
    if direction := DIRECTION.get(network.get("Direction")):
        sides = ("Source", "Destination") if direction == "INBOUND" else ("Destination", "Source")
        for side, role in zip(sides, ("remote", "local"), strict=True):
            for family in ("IpV4", "IpV6"):
                add(network.get(side + family), role, direction, f"Network.{side}{family}")
    for n, intel in enumerate(finding.get("ThreatIntelIndicators", [])):
        if intel.get("Type") in ("IPV4_ADDRESS", "IPV6_ADDRESS"):
            add(intel.get("Value"), "remote", None, f"ThreatIntelIndicators[{n}].Value")
    fields = finding.get("ProductFields", {})
    for key in sorted(fields):
        if match := ADDRESS_KEY.match(key):
            prefix, kind, role = match.groups()
            add(
                fields[key],
                role,
                DIRECTION.get(fields.get(f"{prefix}{kind}/connectionDirection")),
                f"ProductFields.{key}",
            )
    return list(found.values())


def event_id(finding, region):
    parts = [finding.get(name) for name in ("ProductArn", "Id", "AwsAccountId")] + [region, finding.get("UpdatedAt")]
    parts += [finding.get("Workflow", {}).get("Status"), finding.get("RecordState")]
    parts += [finding.get("Severity", {}).get("Label"), finding.get("Compliance", {}).get("Status")]
    digest = hashlib.sha256(b"aws_security_hub/finding-version/1")
    for part in parts:
        if part is None:
            digest.update(b"-")
        else:
            text = part.encode()
            digest.update(b"s" + len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()


def event(finding, now):
    region = finding.get("Region") or REGION
    found = indicators(finding)
    return {
        "schema_version": "1.0",
        "event_id": event_id(finding, region),
        "source": "aws_security_hub",
        "external_id": finding.get("Id"),
        "title": finding.get("Title"),
        "description": finding.get("Description"),
        "severity": SEVERITY.get(finding.get("Severity", {}).get("Label"), "info"),
        "types": finding.get("Types"),
        "product_name": finding.get("ProductName"),
        "product_arn": finding.get("ProductArn"),
        "generator_id": finding.get("GeneratorId"),
        "aws_account_id": finding.get("AwsAccountId"),
        "aws_region": region,
        "compliance_status": finding.get("Compliance", {}).get("Status"),
        "workflow_status": finding.get("Workflow", {}).get("Status"),
        "record_state": finding.get("RecordState"),
        "resources": [
            {"id": r.get("Id"), "type": r.get("Type"), "region": r.get("Region")} for r in finding.get("Resources", [])
        ],
        "src_ip": next((i["value"] for i in found if i["role"] == "remote"), None),
        "indicators": found,
        "created_at": finding.get("CreatedAt"),
        "updated_at": finding.get("UpdatedAt"),
        "first_observed_at": finding.get("FirstObservedAt"),
        "last_observed_at": finding.get("LastObservedAt"),
        "ingested_at": now,
        "raw_event": finding,
    }


def chunks(items, size):
    return (items[start : start + size] for start in range(0, len(items), size))


def send(events):
    names = ("source", "severity", "event_id", "aws_account_id", "aws_region")
    confirmed = []
    for batch in chunks(events, 10):  # of the findings here, 10 are always less than SQS's 1 MiB
        entries = [
            {
                "Id": str(n),
                "MessageBody": json.dumps(e, ensure_ascii=False, separators=(",", ":")),
                "MessageAttributes": {name: {"DataType": "String", "StringValue": e[name]} for name in names},
            }
            for n, e in enumerate(batch)
        ]
        answer = sqs.send_message_batch(QueueUrl=QUEUE, Entries=entries)
        confirmed += [batch[int(sent["Id"])]["event_id"] for sent in answer["Successful"]]
    return confirmed


def unknown(events):
    known = set()
    for batch in chunks(events, 100):
        keys = [{"pk": {"S": "event#" + e["event_id"]}} for e in batch]
        wanted = {TABLE: {"Keys": keys, "ConsistentRead": True, "ProjectionExpression": "pk"}}
        answer = dynamodb.batch_get_item(RequestItems=wanted)
        known.update(item["pk"]["S"] for item in answer["Responses"][TABLE])
    return [e for e in events if "event#" + e["event_id"] not in known]


def record(ids):
    expires = {"N": str(int(time.time()) + TTL_SECONDS)}
    for batch in chunks(ids, 25):
        puts = [{"PutRequest": {"Item": {"pk": {"S": "event#" + i}, "expires_at": expires}}} for i in batch]
        dynamodb.batch_write_item(RequestItems={TABLE: puts})


def keep(revision, position):
    item = {"pk": {"S": "reading"}, "revision": {"N": str(revision)}, "position": {"S": position}}
    condition = {"ConditionExpression": "attribute_not_exists(pk)"}
    if revision:
        condition = {
            "ConditionExpression": "revision = :revision",
            "ExpressionAttributeValues": {":revision": {"N": str(revision - 1)}},
        }
    dynamodb.put_item(TableName=TABLE, Item=item, **condition)


class Pace:
    """Security Hub's rate, as the poller keeps to it."""

    def __init__(self):
        self.tokens, self.at = BURST, time.monotonic()

    def wait(self):
        now = time.monotonic()
        self.tokens, self.at = min(BURST, self.tokens + (now - self.at) * RATE), now
        if self.tokens < 1:
            time.sleep((1 - self.tokens) / RATE)
            return self.wait()
        self.tokens -= 1


pace = Pace()


def poll():
    dynamodb.get_item(TableName=TABLE, Key={"pk": {"S": "reading"}}, ConsistentRead=True)
    end = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    query = {
        "Filters": {
            "WorkflowStatus": [{"Value": value, "Comparison": "EQUALS"} for value in ("NEW", "NOTIFIED")],
            "RecordState": [{"Value": "ACTIVE", "Comparison": "EQUALS"}],
            "UpdatedAt": [{"Start": "1970-01-01T00:00:00Z", "End": end}],
        },
        "SortCriteria": [{"Field": "UpdatedAt", "SortOrder": "asc"}],
        "MaxResults": 100,
    }
    sent = revision = 0
    while True:
        pace.wait()
        page = hub.get_findings(**query)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        confirmed = send(unknown([event(finding, now) for finding in page["Findings"]]))
        record(confirmed)
        sent += len(confirmed)
        keep(revision, page["Findings"][-1]["UpdatedAt"])
        revision += 1
        if not page.get("NextToken"):
            return {"events_sent": sent}
        query["NextToken"] = page["NextToken"]


def main():
    runtime = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    path = "/2018-06-01/runtime/invocation/"
    while True:
        runtime.request("GET", path + "next")
        answer = runtime.getresponse()
        answer.read()
        report = poll()
        runtime.request("POST", f"{path}{answer.headers['Lambda-Runtime-Aws-Request-Id']}/response", json.dumps(report))
        runtime.getresponse().read()


main()
