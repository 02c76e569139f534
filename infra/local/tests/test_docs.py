"""The documents say what is so: their commands run, their links lead somewhere, and their tables are whole.

A block of commands is marked by its first line: `sh` is run here, against the stand-in; `sh by-ci` is run by CI as a
whole; `sh by-hand` measures; `sh needs-aws` needs AWS, and says so to its reader. Blocks without a mark hold no
commands.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse

import contract
import local
from conftest import EVENT_GROUP, PARAMETERS, PLAYBOOKS, create_role, default_acl, denied, ingress, own_findings

DOCUMENTS = sorted(
    [*local.ROOT.glob("*.md"), *local.ROOT.glob("docs/**/*.md"), *local.ROOT.glob("infra/policies/*.md")]
)
# What CI runs as a whole, and this test does not again.
BY_CI = {
    "make demo",
    "make test",
    "make sam-local",
    "cargo build --workspace --all-targets",
    "cargo test --workspace",
    ".venv/bin/python -m pytest -c infra/local/pytest.ini --numprocesses 2 infra/local/tests",
}
# What neither CI nor a test runs: it measures.
BY_HAND = {"make bench"}


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a document: mark and text."""
    yield from re.findall(r"^```([^\n]*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    lines = re.sub(r"\\\n", "", text).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_marked(path: Path) -> None:
    for mark, text in blocks(path):
        assert mark in ("", "sh", "sh by-ci", "sh by-hand", "sh needs-aws"), mark
        if mark == "":
            assert not re.search(r"^(\$ |aws |make |sam |cargo |curl |git )", text, re.MULTILINE), text
        if mark in ("sh by-ci", "sh by-hand"):
            assert set(commands(text)) <= (BY_CI if mark == "sh by-ci" else BY_HAND), text
        if mark == "sh needs-aws":
            assert re.match(r"# needs AWS\n(aws|sam|make deploy)", text), text


def test_what_ci_runs_is_run() -> None:
    makefile = (local.ROOT / "Makefile").read_text()
    lines = [line.strip() for line in (local.ROOT / ".ci" / "run").read_text().splitlines()]
    assert "make test" in lines and "make sam-local" in lines
    for target in re.findall(r"make ([a-z-]+)", " ".join(sorted(BY_CI | BY_HAND))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    # What `make test` does of what the documents name one by one; the demo has a test of its own.
    for command in ("cargo test", "-m pytest", "$(CARGO_BUILD)"):
        assert command in makefile.partition("\ntest:")[2].partition("\n\n")[0]
    workflow = yaml_parse((local.ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["ci"]["steps"]]


def test_the_workflow_pins_its_actions_by_commit() -> None:
    text = (local.ROOT / ".github" / "workflows" / "ci.yml").read_text()
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    assert yaml_parse(text)["permissions"] == {"contents": "read"}


class Shell:
    """A shell that keeps its variables and functions from one block to the next, as a reader's does."""

    def __init__(self, folder: Path, aws: local.StandIn, credentials: dict[str, str]):
        self._state = folder / "state"
        # Version 1 of the AWS CLI asks the stand-in only where it is told by an option.
        self._state.write_text(f'aws() {{ command aws --endpoint-url {aws.url} "$@"; }}\n')
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {
            "PATH": path,
            "AWS_DEFAULT_REGION": local.REGION,
            "HOME": str(folder),
            **local.as_variables(credentials),
        }

    def run(self, text: str) -> str:
        script = (
            f"set -euo pipefail\nsource {self._state}\n{text}\n{{ declare -f; declare -p | grep '^declare -- [A-Z]'; }}"
        )
        done = subprocess.run(
            ["bash", "-c", f"{script} > {self._state}.next"],
            env=self._environment,
            cwd=local.ROOT,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        Path(f"{self._state}.next").replace(self._state)
        return done.stdout


def test_the_recipes_of_the_readme_do_what_they_say(
    tmp_path: Path, aws: local.StandIn, ec2: Any, group: str, start: Any
) -> None:
    stack = aws.deploy("aisoc-security-hub", **PARAMETERS)
    aws.client("securityhub").enable_security_hub()
    aws.import_findings([path.read_text() for path in own_findings()])
    start("poller", **stack.environment("Poller")).invoke({})
    containment = start("containment", **stack.environment("Containment"))
    sqs, acl = aws.client("sqs"), default_acl(ec2)
    # As the README says: as the playbooks' principal, with the policy that it names.
    create_role(aws, PLAYBOOKS, (local.ROOT / "infra" / "policies" / "playbooks.json").read_text())
    shell = Shell(tmp_path, aws, aws.assume(PLAYBOOKS))
    seen: list[str] = []
    for mark, text in blocks(local.ROOT / "README.md"):
        if mark != "sh":
            continue
        printed = shell.run(text.replace(EVENT_GROUP, group))
        # As Lambda does when a message has come
        for message in local.drain(sqs, stack.outputs["ActionsQueueUrl"]):
            assert containment.invoke(local.as_sqs_event([message])) == {"batchItemFailures": []}
        entries = [entry[1] for entry in denied(ec2, acl)]
        match text:
            case _ if "output()" in text or "GROUP=" in text:
                seen.append("variables")
            case _ if "$FINDINGS" in text:
                event = json.loads(json.loads(printed)["Messages"][0]["Body"])
                assert event["source"] == "aws_security_hub"
                seen.append("findings")
            case _ if "dry_run" in text:
                assert entries == []
                (message,) = local.drain(sqs, stack.outputs["ResultsQueueUrl"])
                assert json.loads(message["Body"])["status"] == "simulated"
                seen.append("dry run")
            case _ if "CASE-1042-1" in text:
                assert entries == ["203.0.113.45/32"]
                seen.append("block")
            case _ if "$RESULTS" in text:
                result = json.loads(printed)
                assert (result["request_id"], result["enforced"], result["verified"]) == ("CASE-1042-1", True, True)
                seen.append("result")
            case _ if "CASE-1042-2" in text:
                assert sorted(entries) == ["198.51.100.0/24", "203.0.113.45/32"]
                seen.append("block of a network")
            case _ if "CASE-1042-3" in text:
                assert entries == ["203.0.113.45/32"]
                seen.append("lift")
            case _ if "describe-security-group-rules" in text:
                assert "203.0.113.45/32" in printed and "CASE-1042-1" in printed
                assert [rule[0] for rule in ingress(ec2, group)] == ["203.0.113.45/32"]
                seen.append("what is blocked")
            case _:
                raise AssertionError(f"this test does not know what to expect of\n{text}")
    assert seen == [
        *["variables", "variables", "findings", "dry run", "block", "result", "block of a network", "lift"],
        "what is blocked",
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    def anchors(document: Path) -> set[str]:
        titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}

    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        document = (path.parent / file).resolve() if file else path
        assert document.exists(), target
        assert not anchor or anchor in anchors(document), target


def test_every_error_code_is_explained() -> None:
    readme = (local.ROOT / "README.md").read_text()
    section = readme.partition("## Troubleshooting")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (.+?) \|", section, re.MULTILINE))))
    codes = {member["const"] for member in contract.schema("result")["$defs"]["ErrorCode"]["oneOf"]}
    assert len(codes) > 20
    assert codes <= explained


def test_every_parameter_and_alarm_is_in_the_readme() -> None:
    readme = (local.ROOT / "README.md").read_text()
    template = yaml_parse(local.TEMPLATE.read_text())
    parameters = readme.partition("### Parameters")[2].partition("\n## ")[0]
    for name in template["Parameters"]:
        assert f"`{name}`" in parameters, name
    alarms = readme.partition("## Alarms")[2].partition("\n## ")[0]
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::CloudWatch::Alarm":
            assert f"`{name}`" in alarms, name


def test_the_page_for_operations_says_what_to_do_at_each_alarm() -> None:
    page = (local.ROOT / "docs" / "operations.md").read_text()
    alarms = page.partition("## Alarms")[2].partition("\n## ")[0]
    explained = re.findall(r"`(\w+Alarm)`", "".join(re.findall(r"^\| (`.+?) \|", alarms, re.MULTILINE)))
    resources = yaml_parse(local.TEMPLATE.read_text())["Resources"]
    assert sorted(explained) == sorted(n for n, r in resources.items() if r["Type"] == "AWS::CloudWatch::Alarm")


def test_the_number_of_accounts_is_what_the_parameter_takes() -> None:
    page = (local.ROOT / "docs" / "operations.md").read_text()
    section = page.partition("### How many accounts")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| .+ \| (\d+) \| (\d+) \|$", section, re.MULTILINE)
    longest = yaml_parse(local.TEMPLATE.read_text())["Parameters"]["TargetRoleArns"]["MaxLength"]
    assert len(rows) == 3 and f"{longest:,}" in section
    for length, roles in rows:
        assert int(roles) == (longest + 1) // (int(length) + 1)
    assert rows[0][0] == str(len("arn:aws:iam::111122223333:role/aisoc-containment"))


def test_the_cost_adds_up() -> None:
    section = (local.ROOT / "README.md").read_text().partition("## Cost")[2].partition("\n## ")[0]
    amounts = [float(amount) for amount in re.findall(r"^\| (?!\*\*).+\| (\d+\.\d\d) \|$", section, re.MULTILINE)]
    (total,) = re.findall(r"\| \*\*(\d+\.\d\d)\*\* \|", section)
    assert len(amounts) == 7
    assert round(sum(amounts), 2) == float(total)
