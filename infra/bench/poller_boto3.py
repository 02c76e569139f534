"""The poller once more, as a short Python program would do it: what the benchmarks compare with.

Clients made once, sessions reused, each page's findings read once and written once. The same queries, rate, event,
event id, ledger of page items, batches and checkpoint as the Rust poller's. It lacks what the benchmark does not need:
several regions, sweeps, errors, deadlines, parked events, findings of one instant that fill more than a page.
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
LEASE_SECONDS = 240
OVERLAP = 3  # so many findings of a page come again on the next
FRESH_SECONDS = 5  # so long the ledger is not asked again
PAGES_A_CHECKPOINT = 20
NAMED = ("Container", "AwsEcsContainer", "AwsEcsTask", "AwsEksCluster", "AwsLambdaFunction", "AwsRdsDbInstance")
SEVERITY = {"CRITICAL": "high", "HIGH": "high", "MEDIUM": "medium", "LOW": "low", "INFORMATIONAL": "info"}
DIRECTION = {"IN": "INBOUND", "INBOUND": "INBOUND", "OUT": "OUTBOUND", "OUTBOUND": "OUTBOUND"}
ADDRESS_KEY = re.compile(
    r"((?:aws/guardduty/service/)?action/)(networkConnectionAction|awsApiCallAction|portProbeAction)"
    r"(?:/[^/]*Details[^/]*)?/(remote|local)IpDetails/ipAddressV[46]$"
)

config = Config(retries={"mode": "standard", "max_attempts": 4})
hub, sqs, dynamodb = (boto3.client(name, config=config) for name in ("securityhub", "sqs", "dynamodb"))


def own_addresses(resources):
    """Bare addresses anywhere in the resources' details."""
    own, left = set(), [resource.get("Details", {}) for resource in resources]
    while left:
        match left.pop():
            case dict(members):
                left += members.values()
            case list(elements):
                left += elements
            case str(text) if len(text) <= 39 and ("." in text or ":" in text):
                try:
                    own.add(ipaddress.ip_address(text))
                except ValueError:
                    continue
    return own


def indicators(finding, own):
    found = {}

    def add(value, role, direction, path):
        try:
            address = ipaddress.ip_address((value or "").strip())
        except ValueError:
            return
        kind = f"ipv{address.version}"
        role = "local" if address in own else role
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
    direction = DIRECTION.get((network.get("Direction") or "").upper())
    roles = {"INBOUND": ("remote", "local"), "OUTBOUND": ("local", "remote")}.get(direction, ("unknown", "unknown"))
    for side, role in zip(("Source", "Destination"), roles, strict=True):
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


def first_name(resources, kinds):
    ids = (r.get("Id") for r in resources if r.get("Type") in kinds)
    return next((re.split("[:/]", i)[-1] for i in ids if i), None)


def event(finding, now):
    region, resources = finding.get("Region") or REGION, finding.get("Resources", [])
    found = indicators(finding, own_addresses(resources))
    keys = (r.get("Details", {}).get("AwsIamAccessKey", {}).get("PrincipalName") for r in resources)
    return {
        "schema_version": "1.1",
        "event_id": event_id(finding, region),
        "source": "aws_security_hub",
        "finding_format": "asff",
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
        "resources": [{"id": r.get("Id"), "type": r.get("Type"), "region": r.get("Region")} for r in resources],
        "hostname": first_name(resources, ("AwsEc2Instance",)) or first_name(resources, NAMED),
        "actor": next(filter(None, keys), None) or first_name(resources, ("AwsIamUser", "AwsIamRole")),
        "updated_by": finding.get("Note", {}).get("UpdatedBy"),
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
        confirmed += [batch[int(sent["Id"])] for sent in answer["Successful"]]
    return confirmed


class Ledger:
    """What was delivered: the first half of each event id, in one item a page and day."""

    def __init__(self, run):
        self.run, self.items, self.known, self.asked = run, 0, set(), {}

    def unknown(self, events):
        for day in sorted({e["updated_at"][:10] for e in events}):
            new = [e["updated_at"] for e in events if e["updated_at"][:10] == day and self.digest(e) not in self.known]
            start, at = self.asked.get(day, ("", -FRESH_SECONDS))
            if new and not (start <= min(new) and time.monotonic() - at < FRESH_SECONDS):
                self.asked[day] = (min(new), time.monotonic())
                self.read(day, min(new))
        return [e for e in events if self.digest(e) not in self.known]

    def read(self, day, start):
        values = {":pk": {"S": f"delivered#{day}"}, ":from": {"S": start}}
        answer = query("pk = :pk AND sk >= :from", values)
        for item in answer["Items"]:
            digests = item["digests"]["B"]
            self.known.update(digests[at : at + 16] for at in range(0, len(digests), 16))

    def record(self, events):
        expires = {"N": str(int(time.time()) + TTL_SECONDS)}
        for day in sorted({e["updated_at"][:10] for e in events}):
            of_day = [e for e in events if e["updated_at"][:10] == day]
            first, last = (choose(e["updated_at"] for e in of_day) for choose in (min, max))
            self.items += 1
            put(
                f"delivered#{day}",
                f"{last}#{self.run}#{self.items}",
                digests={"B": b"".join(map(self.digest, of_day))},
                first={"S": first},
                expires_at=expires,
            )
        self.known.update(map(self.digest, events))

    @staticmethod
    def digest(event):
        return bytes.fromhex(event["event_id"][:32])


def query(condition, values):
    return dynamodb.query(
        TableName=TABLE, KeyConditionExpression=condition, ExpressionAttributeValues=values, ConsistentRead=True
    )


def put(pk, sk, condition=None, **attributes):
    dynamodb.put_item(TableName=TABLE, Item={"pk": {"S": pk}, "sk": {"S": sk}, **attributes}, **(condition or {}))


def take_lease(run):
    now = int(time.time() * 1000)
    free = {
        "ConditionExpression": "attribute_not_exists(pk) OR #until < :now",
        "ExpressionAttributeNames": {"#until": "until"},
        "ExpressionAttributeValues": {":now": {"N": str(now)}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    until, expires = now + LEASE_SECONDS * 1000, now // 1000 + 86400
    put("lease", "lease", free, holder={"S": run}, until={"N": str(until)}, expires_at={"N": str(expires)})


def release_lease(run):
    dynamodb.delete_item(
        TableName=TABLE,
        Key={"pk": {"S": "lease"}, "sk": {"S": "lease"}},
        ConditionExpression="holder = :holder",
        ExpressionAttributeValues={":holder": {"S": run}},
    )


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


def poll(run):
    take_lease(run)
    query("pk = :pk", {":pk": {"S": "parked#events"}})
    checkpoint = f"checkpoint#{REGION}#none"
    query("pk = :pk", {":pk": {"S": checkpoint}})
    ledger = Ledger(run)
    start, end = "1970-01-01T00:00:00Z", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    sent = pages = 0
    while True:
        pace.wait()
        page = hub.get_findings(
            Filters={
                "WorkflowStatus": [{"Value": value, "Comparison": "EQUALS"} for value in ("NEW", "NOTIFIED")],
                "RecordState": [{"Value": "ACTIVE", "Comparison": "EQUALS"}],
                "UpdatedAt": [{"Start": start, "End": end}],
            },
            SortCriteria=[{"Field": "UpdatedAt", "SortOrder": "asc"}],
            MaxResults=100,
        )
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        confirmed = send(ledger.unknown([event(finding, now) for finding in page["Findings"]]))
        ledger.record(confirmed)
        sent, pages = sent + len(confirmed), pages + 1
        if not page.get("NextToken"):
            put(checkpoint, "incremental", through={"S": end})
            release_lease(run)
            return {"events_sent": sent}
        start = page["Findings"][-OVERLAP]["UpdatedAt"]
        if pages % PAGES_A_CHECKPOINT == 0:
            put(checkpoint, "incremental", window={"M": {"end": {"S": end}, "position": {"S": start}}})


def main():
    runtime = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    path = "/2018-06-01/runtime/invocation/"
    while True:
        runtime.request("GET", path + "next")
        answer = runtime.getresponse()
        answer.read()
        run = answer.headers["Lambda-Runtime-Aws-Request-Id"]
        runtime.request("POST", f"{path}{run}/response", json.dumps(poll(run)))
        runtime.getresponse().read()


main()
