"""The main job on this machine: findings out, a block in, and out again. Ends with what was shown, or fails."""

import json
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import local
from standin.security_hub import raw_members

BOLD, DIM, GREEN, RED, PLAIN = (
    ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else [""] * 5
)


class NotShown(Exception):
    """Something is not as the demo says."""


def check(condition: bool, claim: str) -> None:
    if not condition:
        raise NotShown(claim)


def step(title: str) -> None:
    print(f"\n{BOLD}{title}{PLAIN}")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row, style in [(head, DIM), *((row, "") for row in rows)]:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"   {style}{cells.rstrip()}{PLAIN}")


def shortened(text: str | None, most: int) -> str:
    text = text or "-"
    return text if len(text) <= most else text[: most - 1] + "…"


def show_events(events: list[dict[str, Any]]) -> None:
    order = ["high", "medium", "low", "info"]
    events = sorted(events, key=lambda event: (order.index(event["severity"]), event["updated_at"]))
    rows = [
        (
            event["severity"],
            event["product_name"],
            shortened(event["title"], 52),
            event["src_ip"] or "-",
            (event["resources"] or [{}])[0].get("type") or "-",
        )
        for event in events
    ]
    table(("SEVERITY", "PRODUCT", "TITLE", "REMOTE ADDRESS", "RESOURCE"), rows)


def show_network(ec2: Any, group: str, acl: str, when: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The block list's rules (what a person sees of a block) and the network ACL's deny entries (its effect)."""
    filters = [{"Name": "group-id", "Values": [group]}]
    described = ec2.describe_security_group_rules(Filters=filters)["SecurityGroupRules"]
    rules = [rule for rule in described if not rule["IsEgress"]]
    print(f"   {when}: ingress rules of the block list {group}:" + ("" if rules else " none"))
    for rule in rules:
        source = rule.get("CidrIpv4") or rule.get("CidrIpv6")
        ports = f"{rule['FromPort']}-{rule['ToPort']}"
        print(f"     {rule['SecurityGroupRuleId']}  {rule['IpProtocol']} {ports} from {source}")
        for tag in rule["Tags"]:
            print(f"     {DIM}{tag['Key']} = {tag['Value']}{PLAIN}")
    entries = ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"][0]["Entries"]
    inbound = sorted((entry for entry in entries if not entry["Egress"]), key=lambda entry: entry["RuleNumber"])
    print(f"   {when}: inbound entries of the network ACL {acl}:")
    for entry in inbound:
        number = entry["RuleNumber"] if entry["RuleNumber"] < 32767 else "*"
        ports = f" {entry['PortRange']['From']}-{entry['PortRange']['To']}" if "PortRange" in entry else ""
        protocol = {"-1": "all", "6": "tcp", "17": "udp"}.get(entry["Protocol"], entry["Protocol"])
        source = entry.get("CidrBlock") or entry.get("Ipv6CidrBlock")
        style = BOLD if entry["RuleAction"] == "deny" and number != "*" else ""
        print(f"     {style}{number!s:>5}  {entry['RuleAction']:5}  {protocol}{ports} from {source}{PLAIN}")
    return rules, [entry for entry in inbound if entry["RuleAction"] == "deny" and entry["RuleNumber"] < 32767]


def show_ledger(dynamodb: Any, name: str) -> None:
    """What the state table knows as delivered: one item for what a page delivered of one day."""
    items = dynamodb.scan(TableName=name, ConsistentRead=True)["Items"]
    for item in sorted(items, key=lambda item: (item["pk"]["S"], item["sk"]["S"])):
        if "digests" in item:
            count = len(item["digests"]["B"]) // 16
            versions = f"{count} finding version{'s' if count > 1 else ''}"
            print(f"     {DIM}{item['pk']['S']} / {shortened(item['sk']['S'], 40)}: {versions}{PLAIN}")


def show_table(dynamodb: Any, name: str) -> list[dict[str, Any]]:
    """The blocks of the blocks table: what is to be blocked, whatever the network says."""
    items = dynamodb.scan(TableName=name, ConsistentRead=True)["Items"]
    blocks = [item for item in items if item["pk"]["S"].startswith("block#")]
    print(f"   blocks table {name}:")
    for item in blocks:
        block = item["block"]["M"]
        state = block["state"].get("S") or next(iter(block["state"]["M"]))
        placed = [f"{e['M']['acl']['S']} entry {e['M']['number']['N']}" for e in block["entries"]["L"]]
        print(f"     {item['pk']['S']} / {item['sk']['S']}: {state}, revision {item['revision']['N']}")
        print(f"     {DIM}placed: {', '.join(placed) or 'nothing'}{PLAIN}")
    return blocks


def show_result(result: dict[str, Any]) -> None:
    print(f"   result: {BOLD}{result['status']}{PLAIN}", end="")
    print("".join(f"  {name}={str(result[name]).lower()}" for name in ("changed", "verified", "enforced")))
    print(f"   {result['summary']}")


def main() -> None:
    with ExitStack() as stack:
        aws = stack.enter_context(local.StandIn())
        hub, sqs, ec2 = aws.client("securityhub"), aws.client("sqs"), aws.client("ec2")
        dynamodb = aws.client("dynamodb")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        print(f"{BOLD}AWS Security Hub connector for AiSOC: the main job on this machine{PLAIN}")
        print(f"{DIM}Real: the two binaries, Lambda's runtime interface emulator, HTTP and the AWS SDK.")
        print(f"Stand-in: AWS itself (moto's server on 127.0.0.1, with Security Hub's filters added by us).{PLAIN}")

        step("1  template.yaml is deployed, and Security Hub holds findings")
        deployed = aws.deploy(InitialLookbackSeconds="0", VpcId=vpc, EnableWriteBack="true")
        queues = {name: deployed.outputs[f"{name.capitalize()}QueueUrl"] for name in ("findings", "actions", "results")}
        poller, containment = (
            stack.enter_context(local.Function(local.binary(name), deployed.environment(name.capitalize())))
            for name in ("poller", "containment")
        )
        resources = len(deployed.resources)
        print(f"   stack {deployed.name!r}: {resources} resources; the functions run with its settings and roles")
        hub.enable_security_hub()
        texts = [path.read_text().strip() for path in sorted((local.LOCAL / "findings").glob("*.json"))]
        aws.import_findings(texts)
        print(
            f"   {len(texts)} findings of GuardDuty, Inspector, Macie, Config and a third party; 2 are archived or done"
        )

        step("2  The poller runs, as on its schedule")
        report = poller.invoke(local.event("poll-scheduler"))
        check(report["complete"] and report["events_sent"] == len(texts) - 2, "the poll is complete")
        bodies = [message["Body"] for message in local.drain(sqs, queues["findings"])]
        events = [json.loads(body) for body in bodies]
        check(all(raw_members(body)["raw_event"] in texts for body in bodies), "each finding leaves as it was served")
        print(f"   {len(events)} events reached the findings queue, raw_event to the byte what Security Hub served:")
        show_events(events)

        step("3  It runs again, with nothing new; then with one finding updated")
        report = poller.invoke(local.event("poll-reconcile"))
        sweep = report["regions"][0]["sweep"]
        check(sweep["complete"] and sweep["findings_seen"] >= len(events), "a sweep reads every finding again")
        check(report["events_sent"] == 0, "nothing is sent again")
        print(f"   a sweep read all {len(events)} findings again: 0 events sent, each known from the state table")
        show_ledger(dynamodb, deployed.outputs["StateTableName"])
        port_probe = next(text for text in texts if "PortProbe" in text)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        changed = port_probe.replace("2026-11-20T11:04:10.900Z", now).replace('"HIGH"', '"CRITICAL"')
        check(changed != port_probe, "a finding is updated")
        aws.import_findings([changed])
        report = poller.invoke(local.event("poll-scheduler"))
        (message,) = local.drain(sqs, queues["findings"])
        check(report["events_sent"] == 1 and raw_members(message["Body"])["raw_event"] == changed, "one event is sent")
        update = json.loads(message["Body"])
        print(f"   1 event sent: {shortened(update['title'], 60)}, updated {update['updated_at']}")

        attack = next(event for event in sorted(events, key=lambda event: event["updated_at"]) if event["src_ip"])
        target = attack["src_ip"]
        step(f"4  A playbook answers {shortened(attack['title'], 40)!r} with BLOCK_IP {target}")
        filters = [{"Name": "vpc-id", "Values": [vpc]}]

        def act(capability: str, group: str, **params: Any) -> dict[str, Any]:
            """From the actions queue through the function to the results queue."""
            request = {
                "request_id": f"demo-{capability}",
                "capability": capability,
                "target": target,
                "params": {"aws_security_group_id": group, **params},
                "requested_by": "demo playbook",
                "event_id": attack["event_id"],
            }
            sqs.send_message(QueueUrl=queues["actions"], MessageBody=json.dumps(request), MessageGroupId=group)
            return receive()

        def receive() -> dict[str, Any]:
            answer = containment.invoke(local.as_sqs_event(local.drain(sqs, queues["actions"])))
            check(answer == {"batchItemFailures": []}, "the message is done with")
            (message,) = local.drain(sqs, queues["results"])
            return json.loads(message["Body"])

        group = deployed.outputs["BlockListId"]
        acl = ec2.describe_network_acls(Filters=filters)["NetworkAcls"][0]["NetworkAclId"]
        show_network(ec2, group, acl, "before")
        result = act("block_ip", group, expires_after_seconds=3600)
        rules, denies = show_network(ec2, group, acl, "after")
        show_result(result)
        check([rule.get("CidrIpv4") for rule in rules] == [f"{target}/32"], "the rule is there")
        check([entry.get("CidrBlock") for entry in denies] == [f"{target}/32"], "the deny entry is there")
        check(denies[0]["RuleNumber"] < 100, "it stands before the allow entry")
        done = result["status"] == "succeeded" and result["changed"] and result["verified"] and result["enforced"]
        check(done, "the block is enforced and verified")
        (item,) = show_table(dynamodb, deployed.resources["BlocksTable"])
        check(item["block"]["M"]["state"] == {"S": "InForce"}, "the block is in the table")

        step("5  The same on a block list that someone attached to a server: there the rule would let the target in")
        tags = [{"Key": "aisoc:containment", "Value": "blocklist"}]
        attached = ec2.create_security_group(
            GroupName="attached",
            Description="a block list that is in use",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
        )["GroupId"]
        subnet = ec2.describe_subnets(Filters=filters)["Subnets"][0]["SubnetId"]
        ec2.create_network_interface(SubnetId=subnet, Groups=[attached])
        result = act("block_ip", attached)
        show_result(result)
        print(f"   remedy: {result['details']['error']['remedy']}")
        check(result["details"]["error"]["code"] == "group_in_use" and not result["changed"], "the block is refused")
        described = ec2.describe_security_groups(GroupIds=[attached])["SecurityGroups"][0]
        check(described["IpPermissions"] == [], "the group has no rule")

        step("6  Somebody, or an infrastructure-as-code run, deletes the deny entry: the next audit restores it")
        ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=denies[0]["RuleNumber"], Egress=False)
        place = containment.invoke(local.event("audit"))["places"][0]
        check(place["blocks_restored"] == 1 and place["blocks_not_enforced"] == 0, "the audit restores it")
        found = [json.loads(message["Body"]) for message in local.drain(sqs, queues["results"])]
        restored = next(result for result in found if result["target"] == f"{target}/32")
        rules, denies = show_network(ec2, group, acl, "after")
        show_result(restored)
        check([entry.get("CidrBlock") for entry in denies] == [f"{target}/32"], "the deny entry is there again")
        containment.invoke(local.event("audit"))
        check(local.drain(sqs, queues["results"]) == [], "a second audit finds nothing new, and says nothing")
        (listed,) = containment.invoke(local.event("list-blocks"))["blocks"]
        print(
            f"   list_blocks: {listed['target']} on {listed['security_group_id']}, by {listed['requested_by']}, ",
            end="",
        )
        print(f"until {listed['expires_at']}, enforced={str(listed['enforced']).lower()}")
        check(listed["target"] == f"{target}/32" and listed["enforced"], "the block is listed as enforced")

        step("7  An hour later the block ends by itself: EventBridge Scheduler sends ALLOW_IP")
        scheduler = aws.client("scheduler")
        (schedule,) = scheduler.list_schedules(GroupName=deployed.resources["ExpirySchedules"])["Schedules"]
        names = {"Name": schedule["Name"], "GroupName": schedule["GroupName"]}
        expression = scheduler.get_schedule(**names)["ScheduleExpression"]
        print(f"   {schedule['Name']}: {expression} (the stand-in lets it be that time now)")
        aws.fire(schedule["Name"], schedule["GroupName"])
        result = receive()
        rules, denies = show_network(ec2, group, acl, "after")
        show_result(result)
        check(rules == [] and denies == [] and result["changed"] and result["verified"], "rule and entry are gone")

        step("8  Blocked once more, and lifted by hand")
        result = act("block_ip", group)
        show_result(result)
        check(result["enforced"] and result["verified"], "the block is enforced and verified")
        result = act("allow_ip", group)
        rules, denies = show_network(ec2, group, acl, "after")
        show_result(result)
        check(rules == [] and denies == [] and not result["enforced"], "rule and entry are gone")
        show_table(dynamodb, deployed.resources["BlocksTable"])
        check(containment.invoke(local.event("list-blocks")) == {"blocks": []}, "nothing is blocked any more")

        step("9  AiSOC's verdict goes back to the finding: first a true positive, which stays open")
        identity = {"Id": [{"Value": attack["external_id"], "Comparison": "EQUALS"}]}

        def decide(disposition: str, rationale: str) -> dict[str, Any]:
            request = {
                "request_id": f"demo-{disposition}",
                "capability": "update_alert_disposition",
                "vendor_id": "aws_security_hub",
                "target": attack["external_id"],
                "params": {"disposition": disposition, "rationale": rationale, "aisoc_alert_id": "ALERT-77"},
                "requested_by": "demo playbook",
            }
            sqs.send_message(QueueUrl=queues["actions"], MessageBody=json.dumps(request), MessageGroupId="ALERT-77")
            show_result(receive())
            (finding,) = hub.get_findings(Filters=identity)["Findings"]
            print(f"   on the finding: {finding['Workflow']['Status']}, {finding['VerificationState']}")
            print(f"     {DIM}note by {finding['Note']['UpdatedBy']}: {finding['Note']['Text']}{PLAIN}")
            return finding

        finding = decide("true_positive", "the host answered the scan")
        check(finding["Workflow"]["Status"] == "NOTIFIED", "a true positive stays open")
        poller.invoke({"mode": "reconcile"})
        (event,) = [json.loads(message["Body"]) for message in local.drain(sqs, queues["findings"])]
        print(f"   the poller sends the new version once: {event['workflow_status']}, updated_by {event['updated_by']}")
        check(event["updated_by"] == "aisoc", "playbooks can tell the connector's own edit from an analyst's")
        finding = decide("false_positive", "it was our own scanner")
        state = (finding["Workflow"]["Status"], finding["VerificationState"])
        check(state == ("RESOLVED", "FALSE_POSITIVE"), "a false positive is closed")

    print(
        f"\n{GREEN}{BOLD}Shown:{PLAIN} of {len(texts)} findings the {len(events)} that are NEW or NOTIFIED, and ACTIVE,"
    )
    print("       came out unaltered, each once, and the update of one once more;")
    print(f"       {target} was denied by the VPC's network ACL and let go again, each time read back from EC2;")
    print("       the deny entry was deleted behind the connector's back, and the audit restored it and said so once;")
    print("       a group that is attached to something got no rule;")
    print("       AiSOC's verdict stands on the finding, by aisoc, and only a false positive closed it.")


if __name__ == "__main__":
    try:
        main()
    except NotShown as claim:
        sys.exit(f"{RED}not shown: {claim}{PLAIN}")
    except KeyboardInterrupt:
        sys.exit(130)
