"""Verdicts, written to findings of the emulator by the real function; and what the real poller makes of them."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

import local
from conftest import OTHER_ACCOUNT, operations, own_findings, results
from standin.security_hub import raw_members

pytestmark = pytest.mark.parameters(EnableWriteBack="true")

FINDING = json.loads(local.event("ack-alert"))["target"]
GUARDDUTY = "arn:aws:securityhub:us-east-1::product/aws/guardduty"
DONE: dict[str, list[Any]] = {"batchItemFailures": []}


@pytest.fixture
def hub(aws: local.StandIn) -> Any:
    client = aws.client("securityhub")
    client.enable_security_hub()
    aws.import_findings([path.read_text().strip() for path in own_findings()])
    return client


def finding(hub: Any, product: str = GUARDDUTY) -> dict[str, Any]:
    filters = {
        "Id": [{"Value": FINDING, "Comparison": "EQUALS"}],
        "ProductArn": [{"Value": product, "Comparison": "EQUALS"}],
    }
    (found,) = hub.get_findings(Filters=filters)["Findings"]
    return found


def request(capability: str = "update_alert_disposition", **members: Any) -> dict[str, Any]:
    params = {"disposition": "benign"} if capability == "update_alert_disposition" else {}
    return {"request_id": "r-1", "capability": capability, "target": FINDING, "params": params, **members}


def verdict(disposition: Any = "benign", **params: Any) -> dict[str, Any]:
    return request(params={"disposition": disposition, **params})


def as_message(body: dict[str, Any], receives: int = 1) -> dict[str, Any]:
    event = json.loads(local.event("sqs-block-ip"))
    event["Records"][0]["body"] = json.dumps(body)
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = str(receives)
    return event


def code(answer: dict[str, Any]) -> str:
    return answer["details"]["error"]["code"]


def is_untouched(hub: Any) -> bool:
    found = finding(hub)
    return (
        found["Workflow"]["Status"] == "NEW" and not {"Note", "VerificationState", "UserDefinedFields"} & found.keys()
    )


# ---- what is written -------------------------------------------------------------------------------------------------


def test_a_verdict_is_on_the_finding(
    aws: local.StandIn, hub: Any, containment: local.Function, results_queue: str
) -> None:
    answer = containment.invoke(local.event("update-alert-disposition"))
    assert (answer["status"], answer["changed"], answer["verified"]) == ("succeeded", True, True)
    found = finding(hub)
    assert (found["Workflow"], found["VerificationState"]) == ({"Status": "RESOLVED"}, "FALSE_POSITIVE")
    assert (found["Note"]["Text"], found["Note"]["UpdatedBy"]) == (
        "AiSOC: false_positive, by ana@example.com, alert 5d9f0b1c-2a3b-4c5d-8e6f-0a1b2c3d4e5f, confidence 0.97: the "
        "address is the scanner of the red team",
        "aisoc",
    )
    alert = {"aisoc_alert_id": "5d9f0b1c-2a3b-4c5d-8e6f-0a1b2c3d4e5f", "aisoc_disposition": "false_positive"}
    assert found["UserDefinedFields"] == alert
    assert results(aws, results_queue) == [answer]
    assert operations(aws, "securityhub").count("BatchUpdateFindings") == 1
    # The same request again changes nothing.
    assert containment.invoke(as_message(json.loads(local.event("update-alert-disposition")), receives=2)) == DONE
    (again,) = results(aws, results_queue)
    assert (again["status"], again["changed"], again["verified"]) == ("succeeded", False, True)
    assert operations(aws, "securityhub").count("BatchUpdateFindings") == 1


@pytest.mark.parametrize(
    ("name", "status", "state"),
    [
        ("update-alert-disposition-true-positive", "NOTIFIED", "TRUE_POSITIVE"),
        ("ack-alert", "NOTIFIED", None),
        ("suppress-alert", "SUPPRESSED", None),
    ],
)
def test_what_may_be_an_attack_stays_open(
    name: str, status: str, state: str | None, hub: Any, containment: local.Function
) -> None:
    answer = containment.invoke(local.event(name))
    assert (answer["status"], answer["changed"], answer["verified"]) == ("succeeded", True, True)
    found = finding(hub)
    assert (found["Workflow"]["Status"], found.get("VerificationState")) == (status, state)
    assert answer["details"]["workflow_status"] == status


@pytest.mark.parametrize("written", ["BENIGN", "Benign-True Positive", "false positive", " True-Positive ", "escalate"])
def test_a_disposition_is_taken_as_people_write_it(written: str, hub: Any, containment: local.Function) -> None:
    assert containment.invoke(verdict(written))["status"] == "succeeded"
    is_attack = written.strip().lower() in ("true-positive", "escalate")
    assert finding(hub)["Workflow"]["Status"] == ("NOTIFIED" if is_attack else "RESOLVED")


def test_fields_of_others_stay(hub: Any, containment: local.Function) -> None:
    identifier = {"Id": FINDING, "ProductArn": GUARDDUTY}
    hub.batch_update_findings(FindingIdentifiers=[identifier], UserDefinedFields={"team": "blue"})
    assert containment.invoke(verdict(aisoc_alert_id="a-1"))["changed"] is True
    assert finding(hub)["UserDefinedFields"] == {
        "team": "blue",
        "aisoc_alert_id": "a-1",
        "aisoc_disposition": "benign",
    }


def test_a_dry_run_says_what_it_would_do(aws: local.StandIn, hub: Any, containment: local.Function) -> None:
    answer = containment.invoke(local.event("update-alert-disposition-dry-run"))
    assert (answer["status"], answer["changed"]) == ("simulated", False)
    assert answer["details"]["planned_steps"] == [
        "set Workflow.Status to RESOLVED",
        "set VerificationState to BENIGN_POSITIVE",
        "set UserDefinedFields.aisoc_disposition to benign",
        'set Note to "AiSOC: benign" by aisoc',
    ]
    assert is_untouched(hub)
    assert "BatchUpdateFindings" not in operations(aws, "securityhub")


@pytest.mark.parametrize(
    ("rationale", "end"),
    [("x" * 10_000, "x…"), ("\uffff\ufffe", ": \ufffd\ufffd"), ("a\nb\0", ": a b\ufffd")],
    ids=["long", "noncharacters", "controls"],
)
def test_a_note_is_what_consoles_take(
    rationale: str, end: str, aws: local.StandIn, hub: Any, containment: local.Function, results_queue: str
) -> None:
    assert containment.invoke(as_message(verdict(rationale=rationale))) == DONE
    note = finding(hub)["Note"]["Text"]
    assert len(note) <= 512 and note.startswith("AiSOC: benign: ") and note.endswith(end)
    (result,) = results(aws, results_queue)
    assert result["status"] == "succeeded" and len(result["rationale"]) <= 512


def test_a_finding_of_v2(aws: local.StandIn, hub: Any, containment: local.Function) -> None:
    uid = json.loads(local.event("update-alert-disposition-v2"))["params"]["aws_metadata_uid"]
    aws.put_ocsf({"metadata": {"uid": uid}, "status_id": 1, "status": "New", "cloud": {"account": {"uid": "1"}}})
    answer = containment.invoke(local.event("update-alert-disposition-v2"))
    assert (answer["status"], answer["changed"], answer["verified"]) == ("succeeded", True, True)
    assert (answer["details"]["status_id"], answer["details"]["metadata_uid"]) == (4, uid)
    query = {"StringFilters": [{"FieldName": "metadata.uid", "Filter": {"Value": uid, "Comparison": "EQUALS"}}]}
    (found,) = hub.get_findings_v2(Filters={"CompositeFilters": [query]})["Findings"]
    assert (found["status_id"], found["status"]) == (4, "Resolved")
    assert found["comment"] == "AiSOC: benign_true_positive, by ana@example.com"
    again = containment.invoke(local.event("update-alert-disposition-v2"))
    assert (again["status"], again["changed"]) == ("succeeded", False)
    aws.settings(unprocessed="ConflictException")
    other = {**json.loads(local.event("update-alert-disposition-v2")), "capability": "ack_alert"}
    del other["params"]["disposition"]
    answer = containment.invoke(other)
    assert (code(answer), answer["details"]["error"]["retryable"]) == ("unreachable", True)
    other["params"]["aws_metadata_uid"] = "unknown"
    assert code(containment.invoke(other)) == "finding_not_found"


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("bad-disposition", 'params.disposition must be "false_positive", "benign", "benign_true_positive"'),
        ("bad-confidence", "params.confidence must be a number from 0 to 1, not 2"),
        ("bad-finding-id", "target must be a finding's id"),
        ("bad-two-products", "params.aws_metadata_uid is of a finding of Security Hub (V2)"),
    ],
)
def test_a_bad_verdict_leaves_the_finding_untouched(
    name: str, part: str, aws: local.StandIn, hub: Any, containment: local.Function
) -> None:
    before = len(operations(aws, "securityhub"))
    answer = containment.invoke(local.event(name))
    assert (answer["status"], answer["changed"], code(answer)) == ("failed", False, "invalid_request")
    assert part in answer["details"]["error"]["message"]
    assert len(operations(aws, "securityhub")) == before
    assert is_untouched(hub)


@pytest.mark.parametrize("disposition", ["needs_review", "unknown", "", None, 7, "malicious"])
def test_no_other_disposition_touches_the_finding(disposition: Any, hub: Any, containment: local.Function) -> None:
    answer = containment.invoke(verdict(disposition))
    assert (answer["status"], code(answer)) == ("failed", "invalid_request")
    assert is_untouched(hub)


def test_a_finding_that_does_not_exist(hub: Any, containment: local.Function) -> None:
    answer = containment.invoke({**verdict(), "target": "no-such-finding"})
    assert (answer["status"], code(answer)) == ("failed", "finding_not_found")
    assert "us-east-1" in answer["details"]["error"]["message"]
    other = containment.invoke(verdict(aws_product_arn=GUARDDUTY.replace("guardduty", "macie")))
    assert code(other) == "finding_not_found" and is_untouched(hub)


def test_an_id_that_two_products_share(aws: local.StandIn, hub: Any, containment: local.Function) -> None:
    other = f"arn:aws:securityhub:us-east-1:{OTHER_ACCOUNT}:product/{OTHER_ACCOUNT}/default"
    text = next(path.read_text() for path in own_findings() if path.stem == "guardduty-ssh-brute-force")
    aws.import_findings([text.replace(GUARDDUTY, other)])
    answer = containment.invoke(verdict())
    assert (answer["status"], code(answer)) == ("failed", "invalid_request")
    message = answer["details"]["error"]["message"]
    assert GUARDDUTY in message and other in message and "aws_product_arn" in answer["details"]["error"]["remedy"]
    assert is_untouched(hub)
    assert containment.invoke(verdict(aws_product_arn=other))["verified"] is True
    assert is_untouched(hub) and finding(hub, other)["Workflow"]["Status"] == "RESOLVED"


@pytest.mark.parametrize(
    ("unprocessed", "expected", "retryable"),
    [
        ("FindingNotFound", "finding_not_found", False),  # it was deleted between lookup and write
        ("ConcurrentUpdateError", "unreachable", True),
        ("InternalFailure", "unreachable", True),
        ("FindingSizeExceeded", "aws_rejected", False),
    ],
)
def test_a_good_answer_can_hold_the_finding_unprocessed(
    unprocessed: str,
    expected: str,
    retryable: bool,
    aws: local.StandIn,
    hub: Any,
    containment: local.Function,
    results_queue: str,
) -> None:
    aws.settings(unprocessed=unprocessed)
    answer = containment.invoke(as_message(verdict()))
    told = results(aws, results_queue)
    if retryable:
        assert len(answer["batchItemFailures"]) == 1 and told == []
        aws.settings()
        assert containment.invoke(as_message(verdict(), receives=2)) == DONE
        assert results(aws, results_queue)[0]["changed"] is True
    else:
        assert answer == DONE
        assert (told[0]["status"], told[0]["changed"], code(told[0])) == ("failed", False, expected)
        assert is_untouched(hub)


def test_a_throttled_lookup_returns_to_the_queue(
    aws: local.StandIn, hub: Any, containment: local.Function, results_queue: str
) -> None:
    aws.fail({"operation": "GetFindings", "code": "TooManyRequestsException", "status": 429, "times": 20})
    assert len(containment.invoke(as_message(verdict()))["batchItemFailures"]) == 1
    aws.fail()
    assert containment.invoke(as_message(verdict(), receives=2)) == DONE
    assert results(aws, results_queue)[0]["changed"] is True and finding(hub)["Workflow"]["Status"] == "RESOLVED"


def test_what_security_hub_shows_late_is_said_to_be_unverified(
    aws: local.StandIn, hub: Any, containment: local.Function
) -> None:
    aws.settings(update_arrival=2)
    assert containment.invoke(verdict("escalate"))["verified"] is True
    aws.settings(update_arrival=100)
    answer = containment.invoke(verdict("benign"))
    assert (answer["status"], answer["changed"], answer["verified"]) == ("succeeded", True, False)
    assert "Security Hub does not show it yet" in answer["summary"]
    aws.settings()
    assert finding(hub)["Workflow"]["Status"] == "NOTIFIED"


def test_security_hub_is_off(aws: local.StandIn, containment: local.Function) -> None:
    answer = containment.invoke(verdict())
    assert (answer["status"], code(answer)) == ("failed", "aws_rejected")
    assert "enable Security Hub" in answer["details"]["error"]["remedy"]


# ---- what is allowed -------------------------------------------------------------------------------------------------


@pytest.mark.parameters(EnableWriteBack="false")
@pytest.mark.parametrize("name", ["update-alert-disposition", "ack-alert", "suppress-alert"])
def test_verdicts_are_opt_in(
    name: str, aws: local.StandIn, stack: local.Stack, hub: Any, containment: local.Function
) -> None:
    before = len(operations(aws, "securityhub"))
    answer = containment.invoke(local.event(name))
    assert (answer["status"], answer["changed"], code(answer)) == ("blocked", False, "write_back_not_enabled")
    assert "EnableWriteBack" in answer["details"]["error"]["remedy"]
    assert len(operations(aws, "securityhub")) == before
    iam, role = aws.client("iam"), stack.resources["ContainmentRole"]
    assert "securityhub" not in json.dumps(iam.get_role_policy(RoleName=role, PolicyName="containment"))


@pytest.mark.parameters(EnableWriteBack="true", SecurityHubRegions="eu-west-1,eu-west-2")
def test_a_verdict_goes_to_the_regions_that_are_polled(
    aws: local.StandIn, hub: Any, containment: local.Function
) -> None:
    answer = containment.invoke(verdict())
    assert (answer["status"], code(answer)) == ("blocked", "region_not_allowed")
    assert is_untouched(hub)
    there = aws.client("securityhub", "eu-west-1")
    there.enable_security_hub()
    aws.import_findings([path.read_text() for path in own_findings()], "eu-west-1")
    answer = containment.invoke(verdict(aws_region="eu-west-1"))
    assert (answer["status"], answer["details"]["region"]) == ("succeeded", "eu-west-1")
    assert is_untouched(hub) and finding(there)["Workflow"]["Status"] == "RESOLVED"


NOTE = {"Text": "n", "UpdatedBy": "aisoc"}


@pytest.mark.parametrize(
    ("update", "is_allowed"),
    [
        ({"Workflow": {"Status": "RESOLVED"}, "VerificationState": "FALSE_POSITIVE", "Note": NOTE}, True),
        ({"Workflow": {"Status": "SUPPRESSED"}, "Note": NOTE, "UserDefinedFields": {"a": "b"}}, True),
        ({"Workflow": {"Status": "NOTIFIED"}, "VerificationState": "TRUE_POSITIVE", "Note": NOTE}, True),
        ({"Workflow": {"Status": "RESOLVED"}, "VerificationState": "TRUE_POSITIVE", "Note": NOTE}, False),
        ({"Workflow": {"Status": "RESOLVED"}, "Note": NOTE}, False),
        ({"Workflow": {"Status": "NEW"}, "Note": NOTE}, False),
        ({"Workflow": {"Status": "NOTIFIED"}, "VerificationState": "BENIGN_POSITIVE", "Note": NOTE}, False),
        ({"Workflow": {"Status": "NOTIFIED"}, "Note": {**NOTE, "UpdatedBy": "ana"}}, False),
        ({"Workflow": {"Status": "NOTIFIED"}}, False),
        ({"VerificationState": "FALSE_POSITIVE", "Note": NOTE}, False),
        *(
            ({"Workflow": {"Status": "NOTIFIED"}, "Note": NOTE, **field}, False)
            for field in (
                {"Severity": {"Label": "LOW"}},
                {"Severity": {"Normalized": 1}},
                {"Severity": {"Product": 1.0}},
                {"Confidence": 1},
                {"Criticality": 1},
                {"Types": ["TTPs"]},
                {"RelatedFindings": [{"ProductArn": GUARDDUTY, "Id": "other"}]},
            )
        ),
    ],
)
def test_the_role_can_write_verdicts_and_nothing_else(
    update: dict[str, Any], is_allowed: bool, aws: local.StandIn, stack: local.Stack, hub: Any
) -> None:
    ours = aws.client("securityhub", credentials=aws.assume(stack.outputs["ContainmentRoleArn"]))
    identifiers = [{"Id": FINDING, "ProductArn": GUARDDUTY}]
    if is_allowed:
        assert ours.batch_update_findings(FindingIdentifiers=identifiers, **update)["ProcessedFindings"] == identifiers
        return
    with pytest.raises(ClientError, match="AccessDenied"):
        ours.batch_update_findings(FindingIdentifiers=identifiers, **update)
    assert is_untouched(hub)


@pytest.mark.parametrize(
    ("update", "is_allowed"),
    [
        *(({"StatusId": status, "Comment": "c"}, status in (2, 3, 4)) for status in (0, 1, 2, 3, 4, 5, 99)),
        ({"StatusId": 2, "SeverityId": 1}, False),
        ({"Comment": "c"}, False),
    ],
)
def test_the_role_can_write_verdicts_to_findings_of_v2_and_nothing_else(
    update: dict[str, Any], is_allowed: bool, aws: local.StandIn, stack: local.Stack, hub: Any
) -> None:
    aws.put_ocsf({"metadata": {"uid": "u"}})
    ours = aws.client("securityhub", credentials=aws.assume(stack.outputs["ContainmentRoleArn"]))
    if is_allowed:
        assert ours.batch_update_findings_v2(MetadataUids=["u"], **update)["UnprocessedFindings"] == []
        return
    with pytest.raises(ClientError, match="AccessDenied"):
        ours.batch_update_findings_v2(MetadataUids=["u"], **update)


# ---- and back again --------------------------------------------------------------------------------------------------


def test_our_own_edit_comes_once_as_such_and_an_analysts_after_it_too(
    aws: local.StandIn, hub: Any, containment: local.Function, poller: local.Function, findings_queue: str
) -> None:
    def poll() -> list[dict[str, Any]]:
        assert poller.invoke({"mode": "reconcile"})["complete"] is True
        bodies = [message["Body"] for message in local.drain(aws.client("sqs"), findings_queue)]
        served = {FINDING: json.dumps(finding(hub))}
        for body in bodies:
            event = json.loads(body)
            if event["external_id"] in served:
                assert json.loads(raw_members(body)["raw_event"]) == json.loads(served[event["external_id"]])
        return [json.loads(body) for body in bodies]

    first = {event["external_id"]: event for event in poll()}[FINDING]
    assert (first["workflow_status"], first["updated_by"]) == ("NEW", None)
    # WHEN playbooks escalate it
    answer = containment.invoke({**verdict("true_positive"), "target": first["external_id"]})
    assert answer["verified"] is True
    (edited,) = poll()
    assert (edited["workflow_status"], edited["updated_by"]) == ("NOTIFIED", "aisoc")
    assert edited["event_id"] != first["event_id"] and edited["updated_at"] == first["updated_at"]
    assert poll() == []
    # WHEN an analyst edits it right after
    hub.batch_update_findings(
        FindingIdentifiers=[{"Id": FINDING, "ProductArn": first["product_arn"]}],
        Severity={"Label": "CRITICAL"},
        Note={"Text": "I take it", "UpdatedBy": "ana"},
    )
    (by_analyst,) = poll()
    assert (by_analyst["severity"], by_analyst["updated_by"]) == ("high", "ana")
    assert len({first["event_id"], edited["event_id"], by_analyst["event_id"]}) == 3
    # WHEN it is closed, it is not wanted any more
    assert containment.invoke(verdict("benign"))["status"] == "succeeded"
    assert poll() == []


def test_with_a_static_key_the_key_writes(aws: local.StandIn, hub: Any, start: Callable[..., local.Function]) -> None:
    policies = local.ROOT / "infra" / "policies"
    iam = aws.client("iam")
    iam.create_user(UserName="aisoc")
    for name in ("read-only", "write-back"):
        document = (policies / f"{name}.json").read_text()
        iam.put_user_policy(UserName="aisoc", PolicyName=name, PolicyDocument=document)
    key = iam.create_access_key(UserName="aisoc")["AccessKey"]
    content = json.dumps({name: key[name] for name in ("AccessKeyId", "SecretAccessKey")})
    secret = aws.client("secretsmanager").create_secret(Name="aisoc/key", SecretString=content)["ARN"]
    stack = aws.deploy(EnableWriteBack="true", StaticCredentialsSecretArn=secret)
    containment = start("containment", **stack.environment("Containment"))
    for disposition in ("escalate", "benign"):
        assert containment.invoke(verdict(disposition))["verified"] is True
    used = {(sid, action) for name, sid, action in aws.used_rights() if name == "aisoc"}
    assert used == {
        ("ReadFindings", "securityhub:GetFindings"),
        ("MarkFindings", "securityhub:BatchUpdateFindings"),
        ("CloseFindings", "securityhub:BatchUpdateFindings"),
    }
    # WHEN the user loses the right
    iam.delete_user_policy(UserName="aisoc", PolicyName="write-back")
    answer = containment.invoke(verdict("escalate"))
    assert (answer["status"], code(answer)) == ("failed", "access_denied")
    assert re.match("allow securityhub:BatchUpdateFindings to", answer["details"]["error"]["remedy"])
