"""What the stand-in adds to moto, seen with boto3."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

import local
from conftest import OTHER_ACCOUNT, block_list, ingress

FUNCTION_ROLE = f"arn:aws:iam::{local.ACCOUNT}:role/aisoc-containment-function"
TARGET_ROLE = f"arn:aws:iam::{OTHER_ACCOUNT}:role/aisoc-containment"


@pytest.fixture
def ec2(aws: local.StandIn) -> Any:
    return aws.client("ec2")


@pytest.fixture
def acl(ec2: Any) -> str:
    """The ACL of the default VPC."""
    return ec2.describe_network_acls()["NetworkAcls"][0]["NetworkAclId"]


@pytest.fixture
def scheduler(aws: local.StandIn) -> Any:
    return aws.client("scheduler")


def refusal(call: Callable[..., Any], *args: Any, **more: Any) -> tuple[str, int]:
    """The error's code and HTTP status."""
    with pytest.raises(ClientError) as error:
        call(*args, **more)
    return error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]


def deny(ec2: Any, acl: str, number: int, cidr: str = "203.0.113.45/32", **more: Any) -> None:
    family = "Ipv6CidrBlock" if ":" in cidr else "CidrBlock"
    entry = {"NetworkAclId": acl, "RuleNumber": number, "Protocol": "-1", "RuleAction": "deny", "Egress": False}
    ec2.create_network_acl_entry(**{**entry, family: cidr, **more})


def entries(ec2: Any, acl: str) -> list[dict[str, Any]]:
    return ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"][0]["Entries"]


def numbers(ec2: Any, acl: str, egress: bool = False) -> list[int]:
    return sorted(entry["RuleNumber"] for entry in entries(ec2, acl) if entry["Egress"] is egress)


def permission(cidr: str, port: int = 22, **more: str) -> dict[str, Any]:
    ranges = {"Ipv6Ranges": [{"CidrIpv6": cidr, **more}]} if ":" in cidr else {"IpRanges": [{"CidrIp": cidr, **more}]}
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **ranges}


def authorize(ec2: Any, group: str, *permissions: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    answer = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions, **more)
    return answer["SecurityGroupRules"]


class TestNetworkAcls:
    def test_entries_come_back_as_they_were_given(self, ec2: Any, acl: str) -> None:
        ports = {"From": 0, "To": 65535}
        deny(ec2, acl, 1, Protocol="6", PortRange=ports)
        deny(ec2, acl, 2, "2001:db8::9/128", Protocol="17", PortRange=ports)
        deny(ec2, acl, 3, "2001:db8::/32")
        common = {"Egress": False, "RuleAction": "deny"}
        assert [entry for entry in entries(ec2, acl) if entry["RuleNumber"] < 4] == [
            {**common, "RuleNumber": 1, "Protocol": "6", "CidrBlock": "203.0.113.45/32", "PortRange": ports},
            {**common, "RuleNumber": 2, "Protocol": "17", "Ipv6CidrBlock": "2001:db8::9/128", "PortRange": ports},
            {**common, "RuleNumber": 3, "Protocol": "-1", "Ipv6CidrBlock": "2001:db8::/32"},
        ]

    def test_a_dry_run_changes_nothing(self, ec2: Any, acl: str) -> None:
        deny(ec2, acl, 1)
        before = entries(ec2, acl)
        place = {"NetworkAclId": acl, "RuleNumber": 1, "Egress": False, "DryRun": True}
        replaced = {**place, "Protocol": "6", "RuleAction": "allow", "CidrBlock": "0.0.0.0/0"}
        assert refusal(deny, ec2, acl, 2, DryRun=True) == ("DryRunOperation", 412)
        assert refusal(ec2.delete_network_acl_entry, **place) == ("DryRunOperation", 412)
        assert refusal(ec2.replace_network_acl_entry, **replaced) == ("DryRunOperation", 412)
        assert entries(ec2, acl) == before

    def test_what_is_not_there(self, ec2: Any, acl: str) -> None:
        place = {"NetworkAclId": acl, "RuleNumber": 1, "Egress": False}
        content = {"Protocol": "6", "RuleAction": "allow", "CidrBlock": "0.0.0.0/0"}
        no_entry = ("InvalidNetworkAclEntry.NotFound", 400)
        assert refusal(ec2.delete_network_acl_entry, **place) == no_entry
        assert refusal(ec2.replace_network_acl_entry, **place, **content) == no_entry
        unknown = "acl-0123456789abcdef0"
        no_acl = ("InvalidNetworkAclID.NotFound", 400)
        assert refusal(deny, ec2, unknown, 1) == no_acl
        assert refusal(ec2.delete_network_acl_entry, **{**place, "NetworkAclId": unknown}) == no_acl
        assert refusal(ec2.describe_network_acls, NetworkAclIds=[unknown]) == no_acl

    def test_a_number_is_taken_for_both_families_of_its_direction(self, ec2: Any, acl: str) -> None:
        deny(ec2, acl, 1)
        assert refusal(deny, ec2, acl, 1, "2001:db8::9/128") == ("NetworkAclEntryAlreadyExists", 400)
        deny(ec2, acl, 1, Egress=True)

    @pytest.mark.parametrize("number", [0, 32767, 32768])
    def test_a_number_out_of_range(self, number: int, ec2: Any, acl: str) -> None:
        assert refusal(deny, ec2, acl, number) == ("InvalidParameterValue", 400)

    def test_of_many_calls_at_once_one_gets_the_number(self, ec2: Any, acl: str) -> None:
        def attempt(_: int) -> str:
            try:
                deny(ec2, acl, 1)
            except ClientError as error:
                return error.response["Error"]["Code"]
            return "created"

        with ThreadPoolExecutor(8) as pool:
            answers = sorted(pool.map(attempt, range(8)))
        assert answers == ["NetworkAclEntryAlreadyExists"] * 7 + ["created"]

    def test_the_quota_is_that_of_a_direction_and_family(self, ec2: Any, acl: str) -> None:
        # Number 100 is there from the start, and the final refusal counts.
        for number in range(1, 19):
            deny(ec2, acl, number)
        full = ("NetworkAclEntryLimitExceeded", 400)
        assert refusal(deny, ec2, acl, 19) == full
        deny(ec2, acl, 19, Egress=True)
        for number in range(19, 38):
            deny(ec2, acl, number, "2001:db8::9/128")
        assert refusal(deny, ec2, acl, 38, "2001:db8::9/128") == full
        ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=1, Egress=False)
        deny(ec2, acl, 38)

    def test_the_quota_is_a_setting(self, aws: local.StandIn, ec2: Any, acl: str) -> None:
        aws.settings(acl_entries=3)
        deny(ec2, acl, 1)
        assert refusal(deny, ec2, acl, 2) == ("NetworkAclEntryLimitExceeded", 400)
        aws.settings()
        deny(ec2, acl, 2)

    def test_an_acl_ends_with_a_refusal_for_each_family_of_its_vpc(self, ec2: Any, acl: str) -> None:
        assert numbers(ec2, acl) == numbers(ec2, acl, egress=True) == [100, 32767]
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
        filters = [{"Name": "vpc-id", "Values": [vpc]}]
        (default,) = ec2.describe_network_acls(Filters=filters)["NetworkAcls"]
        assert numbers(ec2, default["NetworkAclId"]) == [100, 101, 32767, 32768]
        assert {
            "Egress": False,
            "Protocol": "-1",
            "RuleNumber": 32768,
            "RuleAction": "deny",
            "Ipv6CidrBlock": "::/0",
        } in (default["Entries"])
        own = ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]
        assert numbers(ec2, own) == numbers(ec2, own, egress=True) == [32767, 32768]

    def test_a_subnet_that_is_gone_is_not_associated(self, ec2: Any, acl: str) -> None:
        def associated() -> set[str]:
            (found,) = ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"]
            return {association["SubnetId"] for association in found["Associations"]}

        subnets = {subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]}
        assert associated() == subnets
        gone = subnets.pop()
        ec2.delete_subnet(SubnetId=gone)
        assert associated() == subnets


class TestSecurityGroups:
    @pytest.fixture
    def group(self, ec2: Any) -> str:
        return block_list(ec2)

    def test_tags_of_a_rule_are_shown_and_renewed(self, ec2: Any, group: str) -> None:
        tags = [{"ResourceType": "security-group-rule", "Tags": [{"Key": "owner", "Value": "first"}]}]
        (rule,) = authorize(
            ec2, group, permission("203.0.113.45/32", Description="a description"), TagSpecifications=tags
        )
        assert (rule["Tags"], rule["Description"]) == ([{"Key": "owner", "Value": "first"}], "a description")
        ec2.create_tags(Resources=[rule["SecurityGroupRuleId"]], Tags=[{"Key": "owner", "Value": "second"}])
        ids = [rule["SecurityGroupRuleId"]]
        (shown,) = ec2.describe_security_group_rules(SecurityGroupRuleIds=ids)["SecurityGroupRules"]
        assert shown["Tags"] == [{"Key": "owner", "Value": "second"}]

    def test_a_rule_that_is_not_there_takes_no_tags(self, ec2: Any, group: str) -> None:
        (rule,) = authorize(ec2, group, permission("203.0.113.45/32"))
        ids = [rule["SecurityGroupRuleId"]]
        ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=ids)
        tags = [{"Key": "owner", "Value": "nobody"}]
        assert refusal(ec2.create_tags, Resources=ids, Tags=tags) == ("InvalidSecurityGroupRuleId.NotFound", 400)

    def test_the_answer_names_the_rules_of_every_permission(self, ec2: Any, group: str) -> None:
        rules = authorize(ec2, group, permission("203.0.113.45/32"), permission("2001:db8::9/128"))
        shown = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])
        assert [rule["SecurityGroupRuleId"] for rule in rules] == [
            rule["SecurityGroupRuleId"] for rule in shown["SecurityGroupRules"] if not rule["IsEgress"]
        ]

    def test_the_quota_is_that_of_a_family(self, ec2: Any, group: str) -> None:
        full = ("RulesPerSecurityGroupLimitExceeded", 400)
        for cidr in ("203.0.113.45/32", "2001:db8::9/128"):
            authorize(ec2, group, *(permission(cidr, port) for port in range(60)))
            assert refusal(authorize, ec2, group, permission(cidr, 60)) == full
        assert len(ingress(ec2, group)) == 120

    def test_the_answer_names_what_was_revoked(self, ec2: Any, group: str) -> None:
        rules = authorize(ec2, group, permission("203.0.113.45/32"), permission("2001:db8::9/128"))
        by_id = {"SecurityGroupRuleIds": [rules[0]["SecurityGroupRuleId"]]}
        by_content = {"IpPermissions": [permission("2001:db8::9/128")]}
        for rule, what in zip(rules, (by_id, by_content), strict=True):
            answer = ec2.revoke_security_group_ingress(GroupId=group, **what)
            (revoked,) = answer["RevokedSecurityGroupRules"]
            assert revoked["SecurityGroupRuleId"] == rule["SecurityGroupRuleId"]
            assert (answer["Return"], answer["UnknownIpPermissions"]) == (True, [])
        assert ingress(ec2, group) == []

    def test_to_revoke_what_is_not_there(self, aws: local.StandIn, ec2: Any, group: str) -> None:
        authorize(ec2, group, permission("2001:db8::9/128"))

        def revoke(**what: Any) -> dict[str, Any]:
            return ec2.revoke_security_group_ingress(GroupId=group, **what)

        by_id = {"SecurityGroupRuleIds": ["sgr-0123456789abcdef0"]}
        by_content = {"IpPermissions": [permission("203.0.113.45/32")]}
        assert refusal(revoke, **by_content) == ("InvalidPermission.NotFound", 400)
        assert refusal(revoke, **by_id) == ("InvalidSecurityGroupRuleId.NotFound", 400)
        # WHEN EC2 answers as in a default VPC
        aws.settings(revoke_unknown=True)
        answer = revoke(**by_content)
        (unknown,) = answer["UnknownIpPermissions"]
        assert {name: value for name, value in unknown.items() if value} == permission("203.0.113.45/32")
        assert (answer["Return"], answer["RevokedSecurityGroupRules"]) == (True, [])
        assert refusal(revoke, **by_id) == ("InvalidSecurityGroupRuleId.NotFound", 400)
        assert len(ingress(ec2, group)) == 1

    def test_groups_and_rules_by_the_ids_of_several_groups(self, ec2: Any, group: str) -> None:
        other = block_list(ec2, name="other")
        for each in (group, other):
            authorize(ec2, each, permission("203.0.113.45/32"))
        filters = [{"Name": "group-id", "Values": [group, "sg-0123456789abcdef0", other]}]
        groups = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        assert {each["GroupId"] for each in groups} == {group, other}
        rules = ec2.describe_security_group_rules(Filters=filters)["SecurityGroupRules"]
        assert {rule["GroupId"] for rule in rules if not rule["IsEgress"]} == {group, other}

    def test_rules_by_their_tags(self, ec2: Any, group: str) -> None:
        tagged, _ = authorize(ec2, group, permission("203.0.113.45/32"), permission("203.0.113.46/32"))
        ec2.create_tags(Resources=[tagged["SecurityGroupRuleId"]], Tags=[{"Key": "owner", "Value": "aisoc"}])
        filters = [{"Name": "tag:owner", "Values": ["ai*"]}]
        (found,) = ec2.describe_security_group_rules(Filters=filters)["SecurityGroupRules"]
        assert found["SecurityGroupRuleId"] == tagged["SecurityGroupRuleId"]


class TestNetworkInterfaces:
    @pytest.fixture
    def groups(self, ec2: Any) -> list[str]:
        return [block_list(ec2, name=name) for name in ("first", "second", "third")]

    @staticmethod
    def create(ec2: Any, groups: list[str], **more: Any) -> str:
        subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        interface = ec2.create_network_interface(SubnetId=subnet, Groups=groups, **more)["NetworkInterface"]
        return interface["NetworkInterfaceId"]

    @staticmethod
    def find(ec2: Any, name: str, *values: str) -> set[str]:
        found = ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": values}])["NetworkInterfaces"]
        return {interface["NetworkInterfaceId"] for interface in found}

    def test_by_any_of_their_groups(self, ec2: Any, groups: list[str]) -> None:
        first, second, third = groups
        one, two, three = (self.create(ec2, each) for each in ([first], [first, second], [third]))
        assert self.find(ec2, "group-id", first) == {one, two}
        assert self.find(ec2, "group-id", second, third) == {two, three}
        assert self.find(ec2, "group-id", second, "sg-0123456789abcdef0") == {two}
        assert self.find(ec2, "group-id", "sg-0123456789abcdef0") == set()

    def test_by_public_addresses(self, ec2: Any, groups: list[str]) -> None:
        one, two = self.create(ec2, groups), self.create(ec2, groups, SecondaryPrivateIpAddressCount=1)
        allocate = lambda ip: ec2.allocate_address(Domain="vpc", Address=ip)["AllocationId"]  # noqa: E731
        ec2.associate_address(AllocationId=allocate("198.51.100.7"), NetworkInterfaceId=one)
        ec2.associate_address(AllocationId=allocate("198.51.100.71"), NetworkInterfaceId=two)
        (shown,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[two])["NetworkInterfaces"]
        _, second = (address["PrivateIpAddress"] for address in shown["PrivateIpAddresses"])
        of_second = ec2.associate_address(
            AllocationId=allocate("198.51.100.9"), NetworkInterfaceId=two, PrivateIpAddress=second
        )
        by_address = "addresses.association.public-ip"
        assert self.find(ec2, by_address, "198.51.100.7") == {one}
        assert self.find(ec2, by_address, "198.51.100.9") == {two}
        assert self.find(ec2, by_address, "198.51.100.7*") == {one, two}
        assert self.find(ec2, by_address, "203.0.113.*", "198.51.100.7") == {one}
        assert self.find(ec2, by_address, "198.51.100.?") == {one, two}
        assert self.find(ec2, "association.public-ip", "198.51.100.9") == set()
        # THEN each is shown at its private address, and goes when it is taken away
        (shown,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[two])["NetworkInterfaces"]
        assert shown["Association"]["PublicIp"] == "198.51.100.71"
        public = [address["Association"]["PublicIp"] for address in shown["PrivateIpAddresses"]]
        assert public == ["198.51.100.71", "198.51.100.9"]
        ec2.disassociate_address(AssociationId=of_second["AssociationId"])
        assert self.find(ec2, by_address, "198.51.100.*9") == set()
        assert self.find(ec2, by_address, "198.51.100.71") == {two}

    def test_by_ipv6_addresses(self, ec2: Any, groups: list[str]) -> None:
        one, two = (
            self.create(ec2, groups, Ipv6Addresses=[{"Ipv6Address": address} for address in addresses])
            for addresses in (["2001:db8::1", "2001:db8::2"], ["2001:db8:0:1::1"])
        )
        by_address = "ipv6-addresses.ipv6-address"
        assert self.find(ec2, by_address, "2001:db8::2") == {one}
        assert self.find(ec2, by_address, "2001:db8:0:1:*") == {two}
        assert self.find(ec2, by_address, "2001:db8:*") == {one, two}
        assert self.find(ec2, by_address, "2001:db8::3") == set()


class TestOwners:
    def test_vpcs_and_network_acls_have_an_owner(self, aws: local.StandIn, ec2: Any) -> None:
        def owners() -> set[str]:
            described = ec2.describe_vpcs()["Vpcs"] + ec2.describe_network_acls()["NetworkAcls"]
            return {each["OwnerId"] for each in described}

        assert owners() == {local.ACCOUNT}
        aws.settings(vpc_owner=OTHER_ACCOUNT)
        assert owners() == {OTHER_ACCOUNT}


class TestLag:
    def test_describes_show_what_was_there(self, aws: local.StandIn, ec2: Any, acl: str) -> None:
        group = block_list(ec2)
        (rule,) = authorize(ec2, group, permission("203.0.113.45/32"))
        ids = [rule["SecurityGroupRuleId"]]
        aws.lag()
        deny(ec2, acl, 1)
        authorize(ec2, group, permission("203.0.113.46/32"))
        ec2.create_tags(Resources=ids, Tags=[{"Key": "owner", "Value": "aisoc"}])
        made = block_list(ec2, name="made")

        def shown() -> tuple[list[int], int, list[Any], int]:
            by_id = [{"Name": "group-id", "Values": [made]}]
            (described,) = ec2.describe_security_group_rules(SecurityGroupRuleIds=ids)["SecurityGroupRules"]
            groups = ec2.describe_security_groups(Filters=by_id)["SecurityGroups"]
            return numbers(ec2, acl), len(ingress(ec2, group)), described["Tags"], len(groups)

        before = ([100, 32767], 1, [], 0)
        after = ([1, 100, 32767], 2, [{"Key": "owner", "Value": "aisoc"}], 1)
        assert (shown(), shown()) == (before, before)
        # THEN writes know what is there
        assert refusal(deny, ec2, acl, 1) == ("NetworkAclEntryAlreadyExists", 400)
        twice = permission("203.0.113.46/32")
        assert refusal(authorize, ec2, group, twice) == ("InvalidPermission.Duplicate", 400)
        aws.catch_up()
        assert shown() == after

    def test_a_lag_of_so_many_reads(self, aws: local.StandIn, ec2: Any, acl: str) -> None:
        aws.lag(reads=2)
        deny(ec2, acl, 1)
        assert [1 in numbers(ec2, acl) for _ in range(4)] == [False, False, True, True]

    def test_what_is_gone_shows_still(self, aws: local.StandIn, ec2: Any, acl: str) -> None:
        deny(ec2, acl, 1)
        aws.lag()
        ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=1, Egress=False)
        assert 1 in numbers(ec2, acl)
        place = {"NetworkAclId": acl, "RuleNumber": 1, "Egress": False}
        assert refusal(ec2.delete_network_acl_entry, **place) == ("InvalidNetworkAclEntry.NotFound", 400)

    def test_another_account_lags_too(self, aws: local.StandIn) -> None:
        theirs = aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT))
        group = block_list(theirs)
        aws.lag()
        authorize(theirs, group, permission("203.0.113.45/32"))
        assert ingress(theirs, group) == []

    def test_a_reset_ends_it(self, aws: local.StandIn, ec2: Any) -> None:
        aws.lag()
        aws.reset()
        (acl,) = ec2.describe_network_acls()["NetworkAcls"]
        deny(ec2, acl["NetworkAclId"], 1)
        assert 1 in numbers(ec2, acl["NetworkAclId"])

    def test_of_dynamodb_only_consistent_reads_do_not_lag(self, aws: local.StandIn, table: str) -> None:
        dynamodb = aws.client("dynamodb")
        aws.lag("dynamodb")
        dynamodb.put_item(TableName=table, Item=key("a"))
        by_pk = {"KeyConditionExpression": "pk = :a", "ExpressionAttributeValues": {":a": {"S": "a"}}}
        for consistent in (False, True):
            read = {"TableName": table, "ConsistentRead": consistent}
            batch = dynamodb.batch_get_item(RequestItems={table: {"Keys": [key("a")], "ConsistentRead": consistent}})
            assert len(batch["Responses"][table]) == consistent
            assert ("Item" in dynamodb.get_item(Key=key("a"), **read)) is consistent
            assert dynamodb.query(**by_pk, **read)["Count"] == dynamodb.scan(**read)["Count"] == consistent


def key(name: str) -> dict[str, Any]:
    return {"pk": {"S": name}, "sk": {"S": name}}


@pytest.fixture
def table(aws: local.StandIn) -> str:
    aws.client("dynamodb").create_table(
        TableName="blocks",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    return "blocks"


class TestTransactions:
    @pytest.fixture
    def dynamodb(self, aws: local.StandIn) -> Any:
        return aws.client("dynamodb")

    @staticmethod
    def put(table: str, name: str, **more: Any) -> dict[str, Any]:
        item = {**key(name), "revision": {"N": "1"}}
        return {"Put": {"TableName": table, "Item": item, "ConditionExpression": "attribute_not_exists(pk)", **more}}

    @staticmethod
    def at_revision(table: str, name: str, revision: int, **more: Any) -> dict[str, Any]:
        values = {":revision": {"N": str(revision)}}
        condition = {"ConditionExpression": "revision = :revision", "ExpressionAttributeValues": values}
        return {"TableName": table, "Key": key(name), **condition, **more}

    @staticmethod
    def names(dynamodb: Any, table: str) -> list[str]:
        return sorted(item["pk"]["S"] for item in dynamodb.scan(TableName=table, ConsistentRead=True)["Items"])

    def test_all_of_it_or_nothing(self, dynamodb: Any, table: str) -> None:
        dynamodb.transact_write_items(TransactItems=[self.put(table, "a"), self.put(table, "b")])
        transaction = [
            self.put(table, "c"),
            {"Update": self.at_revision(table, "a", 1, UpdateExpression="SET revision = revision + :revision")},
            self.put(table, "b", ReturnValuesOnConditionCheckFailure="ALL_OLD"),
            {"Delete": {"TableName": table, "Key": key("a-2")}},
            {"ConditionCheck": self.at_revision(table, "nobody", 1)},
        ]
        with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as error:
            dynamodb.transact_write_items(TransactItems=transaction)
        reasons = error.value.response["CancellationReasons"]
        codes = ["None", "None", "ConditionalCheckFailed", "None", "ConditionalCheckFailed"]
        assert [reason["Code"] for reason in reasons] == codes
        assert (reasons[2]["Item"]["pk"], "Item" in reasons[4]) == ({"S": "b"}, False)
        assert self.names(dynamodb, table) == ["a", "b"]
        item = dynamodb.get_item(TableName=table, Key=key("a"), ConsistentRead=True)["Item"]
        assert item["revision"] == {"N": "1"}
        # WHEN every condition holds
        transaction[2], transaction[4] = (
            {"Delete": self.at_revision(table, "b", 1)},
            {
                "ConditionCheck": {
                    "TableName": table,
                    "Key": key("x"),
                    "ConditionExpression": "attribute_not_exists(pk)",
                }
            },
        )
        dynamodb.transact_write_items(TransactItems=transaction)
        assert self.names(dynamodb, table) == ["a", "c"]
        item = dynamodb.get_item(TableName=table, Key=key("a"), ConsistentRead=True)["Item"]
        assert item["revision"] == {"N": "2"}

    def test_one_that_is_repeated_with_its_token_is_carried_out_once(self, dynamodb: Any, table: str) -> None:
        for _ in range(2):
            dynamodb.transact_write_items(TransactItems=[self.put(table, "a")], ClientRequestToken="token")
        other = {"TransactItems": [self.put(table, "b")], "ClientRequestToken": "token"}
        assert refusal(dynamodb.transact_write_items, **other) == ("IdempotentParameterMismatchException", 400)
        assert self.names(dynamodb, table) == ["a"]
        again = {"TransactItems": [self.put(table, "a")], "ClientRequestToken": "another"}
        assert refusal(dynamodb.transact_write_items, **again) == ("TransactionCanceledException", 400)

    def test_what_cannot_be_a_transaction(self, dynamodb: Any, table: str) -> None:
        twice = [self.put(table, "a"), {"Delete": {"TableName": table, "Key": key("a")}}]
        assert refusal(dynamodb.transact_write_items, TransactItems=twice) == ("ValidationException", 400)
        nowhere = [self.put(table, "a"), self.put("nowhere", "a")]
        assert refusal(dynamodb.transact_write_items, TransactItems=nowhere) == ("ResourceNotFoundException", 400)
        assert self.names(dynamodb, table) == []

    def test_of_many_writes_at_once_one_finds_its_condition_met(self, dynamodb: Any, table: str) -> None:
        def attempt(number: int) -> str:
            own = {**self.put(table, "a")["Put"], "Item": {**key("a"), "by": {"N": str(number)}}}
            try:
                if number % 2:
                    dynamodb.put_item(**own)
                else:
                    dynamodb.transact_write_items(TransactItems=[self.put(table, f"{number}"), {"Put": own}])
            except ClientError as error:
                return error.response["Error"]["Code"]
            return "written"

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(attempt, range(16)))
        assert answers.count("written") == 1
        assert set(answers) <= {"written", "ConditionalCheckFailedException", "TransactionCanceledException"}
        assert len(self.names(dynamodb, table)) == 2 - answers.index("written") % 2


class TestFindings:
    """Page tokens, and an index older than its documents."""

    QUERY: ClassVar[dict[str, Any]] = {
        "Filters": {"WorkflowStatus": [{"Value": "NEW", "Comparison": "EQUALS"}]},
        "SortCriteria": [{"Field": "UpdatedAt", "SortOrder": "asc"}],
        "MaxResults": 2,
    }

    @staticmethod
    def finding(number: int, **more: Any) -> str:
        return json.dumps({"Id": str(number), "UpdatedAt": f"2026-11-01T00:00:{number:02}Z", **more})

    @pytest.fixture
    def hub(self, aws: local.StandIn) -> Any:
        hub = aws.client("securityhub")
        hub.enable_security_hub()
        aws.import_findings([self.finding(n) for n in range(6)])
        return hub

    @staticmethod
    def ids(page: dict[str, Any]) -> list[str]:
        return [finding["Id"] for finding in page["Findings"]]

    def pages(self, hub: Any) -> list[list[str]]:
        pages = [hub.get_findings(**self.QUERY)]
        while token := pages[-1].get("NextToken"):
            pages.append(hub.get_findings(**self.QUERY, NextToken=token))
        return [self.ids(page) for page in pages]

    def test_a_token_may_hold_what_it_was_given_for(self, aws: local.StandIn, hub: Any) -> None:
        aws.settings(changes=[self.finding(0, Workflow={"Status": "RESOLVED"})])
        assert self.pages(hub) == [["0", "1"], ["2", "3"], ["4", "5"]]

    def test_a_token_may_count(self, aws: local.StandIn, hub: Any) -> None:
        aws.settings(tokens_count=True, changes=[self.finding(0, Workflow={"Status": "RESOLVED"})])
        assert self.pages(hub) == [["0", "1"], ["3", "4"], ["5"]]

    def test_a_token_may_go_stale(self, aws: local.StandIn, hub: Any) -> None:
        aws.settings(token_calls=1)
        assert len(self.pages(hub)) == 3
        token = hub.get_findings(**self.QUERY)["NextToken"]
        hub.get_findings(**self.QUERY)
        assert refusal(hub.get_findings, **self.QUERY, NextToken=token) == ("InvalidInputException", 400)

    def test_an_index_may_be_older_than_its_documents(self, aws: local.StandIn, hub: Any) -> None:
        aws.settings(index_lag=1)
        aws.import_findings([self.finding(0, UpdatedAt="2026-11-02T00:00:00Z", Workflow={"Status": "RESOLVED"})])
        page = hub.get_findings(**self.QUERY)
        assert self.ids(page) == ["0", "1"]
        assert page["Findings"][0]["Workflow"]["Status"] == "RESOLVED"
        assert self.ids(hub.get_findings(**self.QUERY)) == ["1", "2"]


class TestRequestUnits:
    @pytest.fixture
    def dynamodb(self, aws: local.StandIn) -> Any:
        aws.state_table()
        return aws.client("dynamodb")

    @staticmethod
    def item(sk: str, size: int) -> dict[str, Any]:
        """An item of so many bytes."""
        names = len("pk" + "a" + "sk" + sk + "content")
        return {"pk": {"S": "a"}, "sk": {"S": sk}, "content": {"B": b"x" * (size - names)}}

    def test_a_write_takes_a_unit_a_kilobyte_of_the_larger_item(self, aws: local.StandIn, dynamodb: Any) -> None:
        written = []
        for size in (1024, 1025, 100, 3000):
            dynamodb.put_item(TableName="state", Item=self.item("1", size))
            written.append(aws.units("state")["write"])
        assert written == [1, 3, 5, 8]
        dynamodb.delete_item(TableName="state", Key={"pk": {"S": "a"}, "sk": {"S": "1"}})
        dynamodb.delete_item(TableName="state", Key={"pk": {"S": "a"}, "sk": {"S": "1"}})
        assert aws.units("state") == {"read": 0, "write": 12}

    def test_a_write_whose_condition_is_not_met_is_charged_too(self, aws: local.StandIn, dynamodb: Any) -> None:
        dynamodb.put_item(TableName="state", Item=self.item("1", 2000))
        put = {"TableName": "state", "Item": self.item("1", 10), "ConditionExpression": "attribute_not_exists(pk)"}
        assert refusal(dynamodb.put_item, **put)[0] == "ConditionalCheckFailedException"
        assert aws.units("state")["write"] == 4

    def test_a_query_reads_all_its_items_as_one(self, aws: local.StandIn, dynamodb: Any) -> None:
        for sk in ("1", "2", "3"):
            dynamodb.put_item(TableName="state", Item=self.item(sk, 2000))
        query = {
            "TableName": "state",
            "KeyConditionExpression": "pk = :pk AND sk >= :from",
            "ExpressionAttributeValues": {":pk": {"S": "a"}, ":from": {"S": "1"}},
        }
        read = []
        for consistent, start in ((True, "1"), (True, "2"), (True, "4"), (False, "1")):
            query["ExpressionAttributeValues"][":from"]["S"] = start
            dynamodb.query(**query, ConsistentRead=consistent)
            read.append(aws.units("state")["read"])
        assert read == [2, 3, 4, 5]
        dynamodb.get_item(TableName="state", Key={"pk": {"S": "a"}, "sk": {"S": "9"}}, ConsistentRead=True)
        assert aws.units("state")["read"] == 6

    def test_what_is_not_known_cannot_be_summed_up(self, aws: local.StandIn, dynamodb: Any) -> None:
        dynamodb.scan(TableName="state", ProjectionExpression="pk")
        with pytest.raises(TypeError):
            aws.units("state")


class TestQueues:
    def test_the_visibility_of_a_message_in_a_fifo_queue(self, aws: local.StandIn) -> None:
        sqs = aws.client("sqs")
        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true", "VisibilityTimeout": "360"}
        queue = sqs.create_queue(QueueName="some.fifo", Attributes=attributes)["QueueUrl"]
        for body, group in (("a", "1"), ("b", "1"), ("c", "2")):
            sqs.send_message(QueueUrl=queue, MessageBody=body, MessageGroupId=group)

        def receive() -> list[tuple[str, str, str]]:
            answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=1, AttributeNames=["All"])
            return [
                (m["Body"], m["Attributes"]["ApproximateReceiveCount"], m["ReceiptHandle"])
                for m in answer.get("Messages", [])
            ]

        (first,) = receive()
        assert first[:2] == ("a", "1")
        # THEN its group waits for it, and the other does not
        assert [message[0] for message in receive() + receive()] == ["c"]
        sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=first[2], VisibilityTimeout=1)
        assert receive() == []
        deadline = time.monotonic() + 10
        while not (again := receive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert again[0][:2] == ("a", "2")
        sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=again[0][2], VisibilityTimeout=0)
        (third,) = receive()
        assert third[:2] == ("a", "3")
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=third[2])
        assert [message[0] for message in receive()] == ["b"]


def trust(principal: Any, condition: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": principal, **more}
    return {**statement, "Condition": condition} if condition else statement


def create_role(
    aws: local.StandIn, *statements: dict[str, Any], name: str = "aisoc-containment", path: str = "/"
) -> str:
    """In the other account."""
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam = aws.client("iam", credentials=aws.account(OTHER_ACCOUNT))
    return iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=policy)["Role"]["Arn"]


def assume(aws: local.StandIn, role: str = TARGET_ROLE, credentials: Any = None, **more: Any) -> dict[str, str]:
    sts = aws.client("sts", credentials=credentials)
    return sts.assume_role(RoleArn=role, RoleSessionName="session", **more)["Credentials"]


def allow(aws: local.StandIn, *statements: dict[str, Any]) -> None:
    """Gives the target role these rights and no others."""
    named = [{"Sid": f"S{i}", "Effect": "Allow", **statement} for i, statement in enumerate(statements)]
    policy = json.dumps({"Version": "2012-10-17", "Statement": named})
    iam = aws.client("iam", credentials=aws.account(OTHER_ACCOUNT))
    iam.put_role_policy(RoleName="aisoc-containment", PolicyName="rights", PolicyDocument=policy)


READ = {"Action": "dynamodb:GetItem", "Resource": f"arn:aws:dynamodb:us-east-1:{OTHER_ACCOUNT}:table/state"}


class TestPolicies:
    @pytest.fixture
    def get(self, aws: local.StandIn) -> Callable[[], Any]:
        """Reads an item of the other account's table with the rights of the role."""
        create_role(aws, trust({"AWS": FUNCTION_ROLE}))
        theirs = aws.account(OTHER_ACCOUNT)
        aws.client("dynamodb", credentials=theirs).create_table(
            TableName="state",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        )
        dynamodb = aws.client("dynamodb", credentials=assume(aws))
        return lambda: dynamodb.get_item(TableName="state", Key={"pk": {"S": "x"}})

    @pytest.mark.parametrize(
        "statements",
        [
            [READ],
            [{**READ, "Action": ["sqs:*", "dynamodb:get*"]}],
            [{**READ, "Resource": ["arn:aws:dynamodb:*:table/other", "arn:*:table/stat?"]}],
            [{**READ, "Condition": {"StringEquals": {"AWS:requestedregion": ["eu-west-1", "us-east-1"]}}}],
            [{**READ, "Condition": {"Bool": {"aws:SecureTransport": "true"}}}],
            [{**READ, "Condition": {"Null": {"aws:TagKeys": "true"}}}],
            [{**READ, "Condition": {"ArnNotEquals": {"aws:PrincipalArn": "arn:aws:iam::*:role/other"}}}],
            [READ, {**READ, "Effect": "Deny", "Resource": "arn:aws:dynamodb:*:*:table/other"}],
        ],
    )
    def test_what_is_allowed(
        self, statements: list[dict[str, Any]], aws: local.StandIn, get: Callable[[], Any]
    ) -> None:
        allow(aws, *statements)
        get()
        assert aws.used_rights() == {("aisoc-containment", "S0", "dynamodb:GetItem")}

    @pytest.mark.parametrize(
        "statements",
        [
            [{**READ, "Action": "dynamodb:GetItems"}],
            [{**READ, "Resource": "arn:aws:dynamodb:us-east-1:*:table/stat"}],
            [{**READ, "Condition": {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}}],
            [{**READ, "Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}}],
            [{**READ, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}],
            [{**READ, "Condition": {"Null": {"aws:TagKeys": "false"}}}],
            [{**READ, "Condition": {"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::*"}}}],
            [{**READ, "Condition": {"NumericLessThan": {"aws:MultiFactorAuthAge": "60"}}}],
            [READ, {**READ, "Effect": "Deny"}],
            [READ, {**READ, "Effect": "Deny", "Condition": {"NumericLessThan": {"aws:MultiFactorAuthAge": "60"}}}],
        ],
    )
    def test_what_is_not(self, statements: list[dict[str, Any]], aws: local.StandIn, get: Callable[[], Any]) -> None:
        allow(aws, *statements)
        assert refusal(get) == ("AccessDeniedException", 403)
        assert aws.used_rights() == set()

    def test_a_transaction_takes_the_rights_to_what_it_does(self, aws: local.StandIn, get: Callable[[], Any]) -> None:
        where = {"TableName": "state", "Key": {"pk": {"S": "a"}}}
        condition = {"ConditionExpression": "attribute_not_exists(pk)"}
        parts = {
            "Put": {"TableName": "state", "Item": {"pk": {"S": "b"}}},
            "Update": {**where, "UpdateExpression": "SET n = :n", "ExpressionAttributeValues": {":n": {"N": "1"}}},
            "Delete": {**where, "Key": {"pk": {"S": "c"}}},
            "ConditionCheck": {**where, "Key": {"pk": {"S": "d"}}, **condition},
        }
        actions = [f"dynamodb:{part}Item" for part in parts]
        items = [{part: operation} for part, operation in parts.items()]
        dynamodb = aws.client("dynamodb", credentials=assume(aws))
        for missing in actions:
            allow(aws, {**READ, "Action": [*(set(actions) - {missing}), "dynamodb:TransactWriteItems"]})
            assert refusal(dynamodb.transact_write_items, TransactItems=items) == ("AccessDeniedException", 403)
        within = {"StringEquals": {"dynamodb:EnclosingOperation": "TransactWriteItems"}}
        allow(aws, {**READ, "Action": actions, "Condition": within})
        dynamodb.transact_write_items(TransactItems=items)
        assert aws.used_rights() == {("aisoc-containment", "S0", action) for action in actions}
        assert refusal(dynamodb.delete_item, **where) == ("AccessDeniedException", 403)

    def test_an_index_is_a_resource_of_its_own(self, aws: local.StandIn, get: Callable[[], Any]) -> None:
        query = {
            "TableName": "state",
            "IndexName": "by-end",
            "KeyConditionExpression": "pk = :a",
            "ExpressionAttributeValues": {":a": {"S": "a"}},
        }
        dynamodb = aws.client("dynamodb", credentials=assume(aws))
        allow(aws, {**READ, "Action": "dynamodb:Query"})
        assert refusal(dynamodb.query, **query) == ("AccessDeniedException", 403)
        allow(aws, {"Action": "dynamodb:Query", "Resource": f"{READ['Resource']}/index/*"})
        assert refusal(dynamodb.query, **query)[0] == "ResourceNotFoundException"  # there is no such index

    def test_the_visibility_of_a_message(self, aws: local.StandIn, get: Callable[[], Any]) -> None:
        theirs = aws.client("sqs", credentials=aws.account(OTHER_ACCOUNT))
        queue = theirs.create_queue(QueueName="some")["QueueUrl"]
        theirs.send_message(QueueUrl=queue, MessageBody="b")
        (message,) = theirs.receive_message(QueueUrl=queue)["Messages"]
        change = {"QueueUrl": queue, "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 5}
        batch = [{"Id": "1", "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 5}]
        sqs = aws.client("sqs", credentials=assume(aws))
        assert refusal(sqs.change_message_visibility, **change) == ("AccessDeniedException", 403)
        allow(aws, {"Action": "sqs:ChangeMessageVisibility", "Resource": f"arn:aws:sqs:*:{OTHER_ACCOUNT}:some"})
        sqs.change_message_visibility(**change)
        sqs.change_message_visibility_batch(QueueUrl=queue, Entries=batch)
        assert aws.used_rights() == {("aisoc-containment", "S0", "sqs:ChangeMessageVisibility")}

    @pytest.mark.parametrize(
        ("bounds", "is_allowed"),
        [
            ([{"Effect": "Allow", "Action": "dynamodb:*", "Resource": "*"}], True),
            ([{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}], False),
            (
                [
                    {"Effect": "Allow", "Action": "*", "Resource": "*"},
                    {"Effect": "Deny", "Action": "dynamodb:GetItem", "Resource": "*"},
                ],
                False,
            ),
        ],
    )
    def test_a_boundary_limits_what_policies_allow(
        self, bounds: list[dict[str, Any]], is_allowed: bool, aws: local.StandIn, get: Callable[[], Any]
    ) -> None:
        iam = aws.client("iam", credentials=aws.account(OTHER_ACCOUNT))
        document = json.dumps({"Version": "2012-10-17", "Statement": bounds})
        boundary = iam.create_policy(PolicyName="boundary", PolicyDocument=document)["Policy"]["Arn"]
        iam.put_role_permissions_boundary(RoleName="aisoc-containment", PermissionsBoundary=boundary)
        # A boundary by itself allows nothing.
        assert refusal(get) == ("AccessDeniedException", 403)
        allow(aws, READ)
        if is_allowed:
            get()
        else:
            assert refusal(get) == ("AccessDeniedException", 403)
        used = {("aisoc-containment", "S0", "dynamodb:GetItem")} if is_allowed else set()
        assert aws.used_rights() == used

    def test_a_managed_policy_is_one_of_the_role(self, aws: local.StandIn, get: Callable[[], Any]) -> None:
        iam = aws.client("iam", credentials=aws.account(OTHER_ACCOUNT))
        document = json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": "S", "Effect": "Allow", **READ}]})
        policy = iam.create_policy(PolicyName="read", PolicyDocument=document)["Policy"]["Arn"]
        iam.attach_role_policy(RoleName="aisoc-containment", PolicyArn=policy)
        get()
        assert aws.used_rights() == {("aisoc-containment", "S", "dynamodb:GetItem")}

    def test_a_boundary_in_a_template(self, aws: local.StandIn, get: Callable[[], Any]) -> None:
        theirs = aws.account(OTHER_ACCOUNT)
        version = {"Version": "2012-10-17"}
        bounds = {**version, "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
        trusts = {**version, "Statement": [trust({"AWS": "*"})]}
        rights = {**version, "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        resources = {
            "Boundary": {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": bounds}},
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": "bounded",
                    "AssumeRolePolicyDocument": trusts,
                    "PermissionsBoundary": {"Ref": "Boundary"},
                    "Policies": [{"PolicyName": "rights", "PolicyDocument": rights}],
                },
            },
        }
        aws.client("cloudformation", credentials=theirs).create_stack(
            StackName="bounded", TemplateBody=json.dumps({"Resources": resources})
        )
        credentials = assume(aws, f"arn:aws:iam::{OTHER_ACCOUNT}:role/bounded")
        aws.client("sqs", credentials=credentials).create_queue(QueueName="some")
        dynamodb = aws.client("dynamodb", credentials=credentials)
        assert refusal(dynamodb.scan, TableName="state") == ("AccessDeniedException", 403)

    def test_a_role_without_policies_may_do_nothing(self, get: Callable[[], Any]) -> None:
        assert refusal(get) == ("AccessDeniedException", 403)

    def test_what_the_stand_in_does_not_know_is_denied(self, aws: local.StandIn, get: Callable[[], Any]) -> None:
        allow(aws, {"Action": "*", "Resource": "*"})
        credentials = assume(aws)
        assert refusal(aws.client("logs", credentials=credentials).describe_log_groups)[1] == 403
        assert refusal(aws.client("ec2", credentials=credentials).create_vpc, CidrBlock="10.0.0.0/16")[1] == 403


class TestAssumeRole:
    @pytest.mark.parametrize(
        "statement",
        [
            trust({"AWS": FUNCTION_ROLE}),
            trust({"AWS": ["arn:aws:iam::999988887777:root", f"arn:aws:iam::{local.ACCOUNT}:root"]}),
            trust({"AWS": local.ACCOUNT}, Action=["sts:TagSession", "sts:AssumeRole"]),
            trust("*", {"StringEquals": {"aws:PrincipalArn": FUNCTION_ROLE}}),
            trust({"AWS": "*"}, {"ArnLike": {"aws:PrincipalArn": [f"arn:aws:iam::{local.ACCOUNT}:role/aisoc-*"]}}),
            trust({"AWS": "*"}, {"ArnEquals": {"AWS:principalarn": FUNCTION_ROLE}}),
            trust({"AWS": FUNCTION_ROLE}, {"StringEquals": {"sts:ExternalId": ["soc-1", "soc-2"]}}),
        ],
    )
    def test_a_role_that_trusts_the_caller(self, statement: dict[str, Any], aws: local.StandIn) -> None:
        create_role(aws, statement)
        credentials = assume(aws, ExternalId="soc-2")
        assert aws.client("sts", credentials=credentials).get_caller_identity()["Account"] == OTHER_ACCOUNT

    @pytest.mark.parametrize(
        "statements",
        [
            [],
            [trust({"AWS": f"arn:aws:iam::{local.ACCOUNT}:role/other"})],
            [trust({"AWS": f"arn:aws:iam::{OTHER_ACCOUNT}:root"})],
            [trust({"Service": "lambda.amazonaws.com"})],
            [trust({"AWS": FUNCTION_ROLE}, Action="sts:TagSession")],
            [trust({"AWS": FUNCTION_ROLE}, {"StringEquals": {"sts:ExternalId": "other"}})],
            [trust({"AWS": "*"}, {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/other"}})],
            [trust({"AWS": "*"}, {"ArnLike": {"aws:PrincipalArn": "arn:*"}})],
            [trust({"AWS": FUNCTION_ROLE}, {"Bool": {"aws:MultiFactorAuthPresent": "false"}})],
            [trust({"AWS": FUNCTION_ROLE}, {"StringEquals": {"aws:PrincipalOrgID": "o-1"}})],
            [trust({"AWS": FUNCTION_ROLE}), trust({"AWS": FUNCTION_ROLE}, Effect="Deny")],
        ],
    )
    def test_a_role_that_does_not(self, statements: list[dict[str, Any]], aws: local.StandIn) -> None:
        create_role(aws, *statements)
        with pytest.raises(ClientError) as error:
            assume(aws, ExternalId="soc-2")
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert error.value.response["Error"]["Code"] == "AccessDenied"
        assert error.value.response["Error"]["Message"] == (
            f"User: {FUNCTION_ROLE} is not authorized to perform: sts:AssumeRole on resource: {TARGET_ROLE}"
        )

    def test_an_external_id_that_is_not_given(self, aws: local.StandIn) -> None:
        create_role(aws, trust({"AWS": FUNCTION_ROLE}, {"StringEquals": {"sts:ExternalId": "soc-1"}}))
        assert refusal(assume, aws) == ("AccessDenied", 403)

    def test_the_path_is_part_of_a_role(self, aws: local.StandIn) -> None:
        role = create_role(aws, trust({"AWS": FUNCTION_ROLE}), path="/security/")
        assume(aws, role)
        assert refusal(assume, aws, TARGET_ROLE) == ("AccessDenied", 403)

    def test_a_role_that_does_not_exist(self, aws: local.StandIn) -> None:
        assume(aws)
        aws.settings(roles_must_exist=True)
        assert refusal(assume, aws) == ("AccessDenied", 403)
        assert aws.account(OTHER_ACCOUNT)["AccessKeyId"]

    def test_the_caller_is_a_setting_or_an_assumed_role(self, aws: local.StandIn) -> None:
        create_role(aws, trust({"AWS": FUNCTION_ROLE}))
        next_role = create_role(aws, trust({"AWS": TARGET_ROLE}), name="next")
        # What the role itself may do is another matter.
        assert refusal(assume, aws, next_role, assume(aws)) == ("AccessDenied", 403)
        allow(aws, {"Action": "sts:AssumeRole", "Resource": next_role})
        credentials = assume(aws)
        assume(aws, next_role, credentials)
        assert refusal(assume, aws, next_role) == ("AccessDenied", 403)
        aws.settings(caller_arn=TARGET_ROLE)
        assume(aws, next_role)

    def test_what_is_no_role(self, aws: local.StandIn) -> None:
        assert refusal(assume, aws, "arn:aws:iam::444455556666:user/someone") == ("ValidationError", 400)


QUEUE_ARN = f"arn:aws:sqs:{local.REGION}:{local.ACCOUNT}:scheduled.fifo"
SCHEDULE = {
    "Name": "expiry",
    "ScheduleExpression": "at(2030-01-01T00:00:00)",
    "FlexibleTimeWindow": {"Mode": "OFF"},
    "ActionAfterCompletion": "DELETE",
    "Target": {
        "Arn": QUEUE_ARN,
        "RoleArn": f"arn:aws:iam::{local.ACCOUNT}:role/expiry",
        "Input": '{"capability": "allow_ip"}',
        "SqsParameters": {"MessageGroupId": "sg-1"},
    },
}


class TestScheduler:
    def test_a_name_is_taken(self, scheduler: Any) -> None:
        scheduler.create_schedule(**SCHEDULE)
        assert refusal(scheduler.create_schedule, **SCHEDULE) == ("ConflictException", 409)

    def test_a_group_that_is_not_there(self, scheduler: Any) -> None:
        not_found = ("ResourceNotFoundException", 404)
        assert refusal(scheduler.create_schedule, **SCHEDULE, GroupName="expiries") == not_found
        scheduler.create_schedule_group(Name="expiries")
        scheduler.create_schedule(**SCHEDULE, GroupName="expiries")
        assert scheduler.get_schedule(Name="expiry", GroupName="expiries")["GroupName"] == "expiries"

    def test_an_update_replaces_all_of_a_schedule(self, scheduler: Any) -> None:
        scheduler.create_schedule(**{**SCHEDULE, "ActionAfterCompletion": "NONE", "State": "DISABLED"})
        scheduler.update_schedule(**SCHEDULE)
        schedule = scheduler.get_schedule(Name="expiry")
        assert (schedule["ActionAfterCompletion"], schedule["State"]) == ("DELETE", "ENABLED")
        assert schedule["Target"]["SqsParameters"] == {"MessageGroupId": "sg-1"}
        scheduler.update_schedule(**{n: v for n, v in SCHEDULE.items() if n != "ActionAfterCompletion"})
        assert scheduler.get_schedule(Name="expiry")["ActionAfterCompletion"] == "NONE"

    @pytest.mark.parametrize("after", ["DELETE", "NONE"])
    def test_fire(self, after: str, aws: local.StandIn, scheduler: Any) -> None:
        sqs = aws.client("sqs")
        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
        queue = sqs.create_queue(QueueName="scheduled.fifo", Attributes=attributes)["QueueUrl"]
        scheduler.create_schedule_group(Name="expiries")
        schedule = {**SCHEDULE, "ActionAfterCompletion": after, "GroupName": "expiries"}
        scheduler.create_schedule(**schedule)
        aws.fire("expiry", group="expiries")
        (message,) = local.drain(sqs, queue)
        assert (message["Body"], message["Attributes"]["MessageGroupId"]) == ('{"capability": "allow_ip"}', "sg-1")
        assert len(scheduler.list_schedules()["Schedules"]) == (after == "NONE")


class TestFront:
    def test_a_queue_can_refuse_some_entries_for_good(self, aws: local.StandIn) -> None:
        sqs = aws.client("sqs")
        url = sqs.create_queue(QueueName="some")["QueueUrl"]
        aws.fail({"operation": "SendMessageBatch", "effect": "refuse", "text": "bad", "code": "NoWay", "times": 2})
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(("good", "bad", "also good"))]
        answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
        assert [sent["Id"] for sent in answer["Successful"]] == ["0", "2"]
        assert [(f["Id"], f["Code"], f["SenderFault"]) for f in answer["Failed"]] == [("1", "NoWay", True)]
        answer = sqs.send_message_batch(QueueUrl=url, Entries=[entries[1]])
        assert (answer.get("Successful", []), len(answer["Failed"])) == ([], 1)
        assert [message["Body"] for message in local.drain(sqs, url)] == ["good", "also good"]

    def test_a_connection_that_is_forgotten_is_silent(self, aws: local.StandIn) -> None:
        def client() -> Any:
            return boto3.client(
                "sqs",
                region_name=local.REGION,
                endpoint_url=aws.url,
                aws_access_key_id="standin",
                aws_secret_access_key="standin",
                config=Config(retries={"total_max_attempts": 1}, read_timeout=1),
            )

        sqs = client()
        # Which of its connections the client takes is its own choice.
        with pytest.raises(ReadTimeoutError):
            for _ in range(5):
                sqs.list_queues()
                aws.forget_connections()
        # A new one is not silent.
        client().list_queues()

    def test_settings_are_set_all_at_once_or_not_at_all(self, aws: local.StandIn, ec2: Any, acl: str) -> None:
        aws.settings(page_size=3, acl_entries=2, latency_ms=1)
        with pytest.raises(urllib.error.HTTPError) as error:
            aws.settings(acl_entries=20, acl_entry=20)
        assert (error.value.code, error.value.read()) == (400, b"no such setting: acl_entry")
        assert refusal(deny, ec2, acl, 1) == ("NetworkAclEntryLimitExceeded", 400)
        aws.settings(page_size=3)
        deny(ec2, acl, 1)

    def test_a_reset_takes_back_settings(self, aws: local.StandIn) -> None:
        aws.settings(roles_must_exist=True)
        aws.reset()
        assume(aws)

    def test_latency(self, aws: local.StandIn, ec2: Any) -> None:
        aws.settings(latency_ms=300)
        started = time.monotonic()
        ec2.describe_vpcs()
        assert time.monotonic() - started >= 0.3

    def test_calls_at_once_and_one_after_the_other(self, aws: local.StandIn, ec2: Any) -> None:
        aws.settings(latency_ms=300)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: ec2.describe_vpcs(), range(2)))
        ec2.describe_subnets()
        one, other, last = aws.calls()
        assert max(one["began"], other["began"]) < min(one["ended"], other["ended"])
        assert max(one["ended"], other["ended"]) < last["began"] < last["ended"]

    def test_a_call_under_way_has_not_ended(self, aws: local.StandIn, ec2: Any) -> None:
        aws.settings(latency_ms=500)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ec2.describe_vpcs)
            while not aws.calls():
                time.sleep(0.01)
            assert aws.calls()[0]["ended"] is None
            answer.result()
        assert aws.calls()[0]["ended"] is not None

    def test_calls_and_faults_know_the_account(self, aws: local.StandIn, ec2: Any) -> None:
        theirs = aws.client("ec2", credentials=aws.account(OTHER_ACCOUNT))
        aws.fail({"service": "ec2", "account": OTHER_ACCOUNT, "code": "Unavailable", "status": 503})
        ec2.describe_vpcs()
        assert refusal(theirs.describe_vpcs) == ("Unavailable", 503)
        theirs.describe_vpcs()
        accounts = [call["account"] for call in aws.calls() if call["service"] == "ec2"]
        assert accounts == [local.ACCOUNT, OTHER_ACCOUNT, OTHER_ACCOUNT]

    def test_faults_by_operation(self, aws: local.StandIn, ec2: Any, acl: str) -> None:
        group = block_list(ec2)
        place = {"NetworkAclId": acl, "RuleNumber": 1, "Egress": False}
        aws.fail(
            {"operation": "AuthorizeSecurityGroupIngress", "skip": 1, "times": 2, "code": "Unavailable", "status": 503},
            {"operation": "CreateNetworkAclEntry", "effect": "lose"},
            {"operation": "DeleteNetworkAclEntry", "effect": "drop"},
        )
        answers = []
        for port in range(1, 5):
            try:
                answers.append(len(authorize(ec2, group, permission("203.0.113.45/32", port))))
            except ClientError as error:
                answers.append(error.response["Error"]["Code"])
        assert answers == [1, "Unavailable", "Unavailable", 1]
        # THEN what is lost was carried out, and what is dropped was not
        with pytest.raises(BotoCoreError):
            deny(ec2, acl, 1)
        assert 1 in numbers(ec2, acl)
        with pytest.raises(BotoCoreError):
            ec2.delete_network_acl_entry(**place)
        assert 1 in numbers(ec2, acl)
        ec2.delete_network_acl_entry(**place)
        assert 1 not in numbers(ec2, acl)

    def test_a_fault_has_the_members_of_its_error(self, aws: local.StandIn, table: str) -> None:
        dynamodb = aws.client("dynamodb")
        reasons = [{"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}]
        aws.fail(
            {
                "operation": "TransactWriteItems",
                "code": "TransactionCanceledException",
                "members": {"CancellationReasons": reasons},
            }
        )
        with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as error:
            dynamodb.transact_write_items(TransactItems=[{"Delete": {"TableName": table, "Key": key("a")}}])
        assert error.value.response["CancellationReasons"] == reasons

    def test_messages_are_kept_until_the_next_reset(self, aws: local.StandIn, scheduler: Any) -> None:
        sqs = aws.client("sqs")
        queue = sqs.create_queue(QueueName="some")["QueueUrl"]
        attributes = {"severity": {"DataType": "String", "StringValue": "low"}}
        sqs.send_message_batch(
            QueueUrl=queue,
            Entries=[{"Id": "1", "MessageBody": "a", "MessageAttributes": attributes}, {"Id": "2", "MessageBody": "b"}],
        )
        aws.fail({"service": "sqs", "operation": "SendMessage", "effect": "drop"})
        with pytest.raises(BotoCoreError):
            sqs.send_message(QueueUrl=queue, MessageBody="c")
        scheduler.create_schedule(**SCHEDULE)
        kept = [(message["queue"], message["body"], message["attributes"]) for message in aws.messages()]
        assert kept == [
            ("some", "a", {"severity": "low"}),
            ("some", "b", {}),
            ("some", "c", {}),
            ("scheduled.fifo", SCHEDULE["Target"]["Input"], {}),
        ]
        aws.reset()
        assert aws.messages() == []

    def test_operations_are_named(self, aws: local.StandIn, scheduler: Any) -> None:
        scheduler.create_schedule(**SCHEDULE)
        scheduler.update_schedule(**SCHEDULE)
        scheduler.get_schedule(Name="expiry", GroupName="default")
        scheduler.delete_schedule(Name="expiry")
        aws.client("iam").list_roles()
        aws.client("secretsmanager").create_secret(Name="key", SecretString="value")
        assert [call["operation"] for call in aws.calls()] == [
            "CreateSchedule",
            "UpdateSchedule",
            "GetSchedule",
            "DeleteSchedule",
            "ListRoles",
            "CreateSecret",
        ]

    @pytest.mark.parametrize(
        ("service", "operation", "method"),
        [
            ("iam", "ListRoles", "list_roles"),
            ("scheduler", "GetSchedule", "get_schedule"),
            ("secretsmanager", "GetSecretValue", "get_secret_value"),
        ],
    )
    def test_faults_in_the_form_of_the_service(
        self, service: str, operation: str, method: str, aws: local.StandIn
    ) -> None:
        aws.fail({"service": service, "operation": operation, "code": "InternalServerException", "status": 500})
        arguments = {"get_schedule": {"Name": "expiry"}, "get_secret_value": {"SecretId": "key"}}.get(method, {})
        call = getattr(aws.client(service), method)
        assert refusal(call, **arguments) == ("InternalServerException", 500)


Q = "https://sqs.us-east-1.amazonaws.com/123456789012/q"
SCHEDULER_PATH = "/schedules/expiry"
BARE_SCHEDULE = {
    "ClientToken": "t",
    **{name: value for name, value in SCHEDULE.items() if name != "Name"},
}
GOOD_INGRESS = {
    "GroupId": "sg-0123456789abcdef0",
    "IpPermissions.1.IpProtocol": "tcp",
    "IpPermissions.1.FromPort": "0",
    "IpPermissions.1.ToPort": "65535",
    "IpPermissions.1.IpRanges.1.CidrIp": "203.0.113.45/32",
    "IpPermissions.1.IpRanges.2.CidrIp": "203.0.113.46/32",
    "TagSpecification.1.ResourceType": "security-group-rule",
    "TagSpecification.1.Tag.1.Key": "owner",
    "TagSpecification.1.Tag.1.Value": "",
    "DryRun": "true",
}
GOOD_ROLE = {"RoleArn": TARGET_ROLE, "RoleSessionName": "aisoc", "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/A"}
EC2, STS = ("ec2", "2016-11-15"), ("sts", "2011-06-15")


class TestModelCheck:
    """Requests past what boto3 lets through."""

    @staticmethod
    def send(aws: local.StandIn, service: str, headers: dict[str, str], body: Any, method: str, path: str) -> str:
        """The error's code, or nothing."""
        scope = f"AWS4-HMAC-SHA256 Credential=standin/20261123/us-east-1/{service}/aws4_request, "
        request = urllib.request.Request(
            aws.url + path, method=method, headers={"Authorization": scope, **headers}, data=body
        )
        try:
            urllib.request.urlopen(request).read()
        except urllib.error.HTTPError as error:
            answer = error.read().decode()
            return (
                json.loads(answer)["__type"].split("#")[-1] if answer.startswith("{") else answer.split("Code>")[1][:-2]
            )
        return ""

    def form(self, aws: local.StandIn, service: tuple[str, str], operation: str, **fields: str) -> str:
        body = urllib.parse.urlencode({"Action": operation, "Version": service[1], **fields}).encode()
        return self.send(aws, service[0], {"Content-Type": "application/x-www-form-urlencoded"}, body, "POST", "/")

    def json(self, aws: local.StandIn, target: str, body: Any) -> str:
        service = {"DynamoDB_20120810": "dynamodb", "AmazonSQS": "sqs"}.get(target.partition(".")[0], "secretsmanager")
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": target}
        return self.send(aws, service, headers, json.dumps(body).encode(), "POST", "/")

    def rest(self, aws: local.StandIn, service: str, method: str, path: str, body: Any = None) -> str:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        return self.send(aws, service, headers, None if body is None else json.dumps(body).encode(), method, path)

    def test_what_is_well_formed_passes(self, aws: local.StandIn) -> None:
        # Refused, where it is, for what is there and what is not
        assert self.form(aws, EC2, "AuthorizeSecurityGroupIngress", **GOOD_INGRESS) == "DryRunOperation"
        assert self.form(aws, EC2, "DescribeVpcs", **{"Filter.1.Name": "vpc-id", "Filter.1.Value.1": "vpc-1"}) == ""
        assert self.form(aws, EC2, "DescribeNetworkAcls", MaxResults="5") == ""
        assert self.form(aws, STS, "AssumeRole", **GOOD_ROLE, DurationSeconds="900") == ""
        item = {"pk": {"S": "a"}, "n": {"N": "1"}, "b": {"B": "AAE="}, "l": {"L": [{"BOOL": True}, {"NULL": True}]}}
        put = {"TableName": "table", "Item": item, "ConditionExpression": None}
        assert self.json(aws, "DynamoDB_20120810.PutItem", put) == "ResourceNotFoundException"
        send = {
            "QueueUrl": Q,
            "MessageBody": "b",
            "MessageAttributes": {"a": {"DataType": "String", "StringValue": "v"}},
        }
        assert self.json(aws, "AmazonSQS.SendMessage", send) == "QueueDoesNotExist"
        assert self.json(aws, "secretsmanager.GetSecretValue", {"SecretId": "key"}) == "ResourceNotFoundException"
        assert self.rest(aws, "scheduler", "POST", SCHEDULER_PATH, {**BARE_SCHEDULE, "StartDate": 1.9e9}) == ""
        assert self.rest(aws, "scheduler", "GET", f"{SCHEDULER_PATH}?groupName=default") == ""
        assert self.rest(aws, "scheduler", "GET", "/schedules?MaxResults=1&NamePrefix=e") == ""
        assert self.rest(aws, "scheduler", "DELETE", f"{SCHEDULER_PATH}?clientToken=t") == ""
        assert self.rest(aws, "securityhub", "POST", "/accounts", {}) == ""
        assert self.rest(aws, "securityhub", "POST", "/findings", {"MaxResults": 100}) == ""
        assert aws.malformed() == []

    @pytest.mark.parametrize(
        ("service", "operation", "fields", "problem"),
        [
            (EC2, "CreateNetworkAclEntry", {"Egress": "false"}, "the required member NetworkAclId is missing"),
            (EC2, "DescribeVpcs", {"VpcIds.1": "vpc-1"}, "the request: there is no member 'VpcIds'"),
            (EC2, "DescribeVpcs", {"Filter.1.Names": "x"}, "Filters[0]: there is no member 'Names'"),
            (EC2, "DescribeVpcs", {"DryRun": "yes"}, "DryRun: 'yes' is no boolean"),
            (EC2, "DescribeVpcs", {"VpcId": "vpc-1"}, "VpcIds: 'vpc-1' is no list"),
            (EC2, "DescribeVpcs", {"VpcId.2": "vpc-1"}, "VpcIds: {'2': 'vpc-1'} is no list"),
            (EC2, "DescribeVpcs", {"MaxResults": "1001"}, "MaxResults: is 1001, more than 1000"),
            (EC2, "DescribeVpcs", {"MaxResults": "4"}, "MaxResults: is 4, less than 5"),
            (
                EC2,
                "DescribeNetworkInterfaces",
                {"MaxResults": "5", "NetworkInterfaceId.1": "eni-1"},
                "the request: has both MaxResults and NetworkInterfaceIds",
            ),
            (EC2, "DescribeVpcs", {"Version": "2000-01-01"}, "Version: 2000-01-01 is not 2016-11-15"),
            (EC2, "DescribeVpc", {}, "no operation of ec2: POST /"),
            (
                EC2,
                "DescribeVpcs",
                {f"Filter.1.Value.{i}": "x" for i in range(1, 202)},
                "Filters[0]: has more than 200 values",
            ),
            (
                EC2,
                "AuthorizeSecurityGroupIngress",
                {**GOOD_INGRESS, "IpPermissions.1.IpRanges.2.Cidr": "x"},
                "IpPermissions[0].IpRanges[1]: there is no member 'Cidr'",
            ),
            (
                EC2,
                "AuthorizeSecurityGroupIngress",
                {**GOOD_INGRESS, "TagSpecification.1.ResourceType": "rule"},
                "TagSpecifications[0].ResourceType: 'rule' is not one of ",
            ),
            (
                EC2,
                "AuthorizeSecurityGroupIngress",
                {**GOOD_INGRESS, "IpPermissions.1.IpRanges.1.Description": "the 'first'"},
                "IpPermissions[0].IpRanges[0]: Description \"the 'first'\" does not match",
            ),
            (
                EC2,
                "CreateTags",
                {"ResourceId.1": "sg-1", "Tag.1.Key": "owner", "Tag.1.Value": "v" * 257},
                "Tags[0]: Value 'vvv",
            ),
            (EC2, "CreateTags", {"ResourceId.1": "sg-1", "Tag.1.Key": "aws:owner"}, "Tags[0]: Key 'aws:owner' does"),
            (STS, "AssumeRole", {"RoleArn": TARGET_ROLE}, "the required member RoleSessionName is missing"),
            (STS, "AssumeRole", {**GOOD_ROLE, "RoleSessionName": "a b"}, "RoleSessionName: 'a b' does not match the"),
            (STS, "AssumeRole", {**GOOD_ROLE, "RoleSessionName": "a" * 65}, "a length of 65, more than 64"),
            (STS, "AssumeRole", {**GOOD_ROLE, "PolicyArns.1.arn": "x"}, "PolicyArns: {'member': {'1': {'arn': "),
        ],
    )
    def test_a_malformed_form(
        self, service: tuple[str, str], operation: str, fields: dict[str, str], problem: str, aws: local.StandIn
    ) -> None:
        code = {"ec2": "InvalidParameterValue", "sts": "ValidationError"}[service[0]]
        assert self.form(aws, service, operation, **fields) == code
        assert problem in " ".join(aws.malformed())
        assert aws.malformed() == []

    @pytest.mark.parametrize(
        ("target", "body", "problem"),
        [
            ("DynamoDB_20120810.GetItem", {"TableName": "table"}, "the required member Key is missing"),
            ("DynamoDB_20120810.GetItem", {"TableName": "table", "Key": {"pk": {}}}, "Key[pk]: has 0 members in place"),
            ("DynamoDB_20120810.GetItem", {"TableName": "table", "Key": {"pk": {"S": 1}}}, "Key[pk].S: 1 is no string"),
            ("DynamoDB_20120810.GetItem", {"TableName": "t", "Key": {"p": {"B": "?"}}}, "Key[p].B: '?' is no blob"),
            (
                "DynamoDB_20120810.GetItem",
                {"TableName": "t", "Key": [], "Ke": 1},
                "the request: there is no member 'Ke'",
            ),
            ("DynamoDB_20120810.Scan", {"TableName": "table", "Limit": True}, "Limit: True is no integer"),
            ("DynamoDB_20120810.Scan", {"TableName": "table", "Limit": 0}, "Limit: is 0, less than 1"),
            ("DynamoDB_20120810.BatchWriteItem", {"RequestItems": {"table": []}}, "[table]: has a length of 0, less"),
            (
                "DynamoDB_20120810.BatchWriteItem",
                {"RequestItems": {"t": [{"DeleteRequest": {"Key": {"pk": {"S": str(i)}}}} for i in range(26)]}},
                "RequestItems[t]: has a length of 26, more than 25",
            ),
            (
                "DynamoDB_20120810.Query",
                {
                    "TableName": "table",
                    "KeyConditionExpression": "#a = :a",
                    "ExpressionAttributeValues": {":a": {"S": ""}},
                },
                "the request: #a is used and not defined",
            ),
            (
                "DynamoDB_20120810.TransactWriteItems",
                {
                    "TransactItems": [
                        {
                            "Delete": {
                                "TableName": "table",
                                "Key": {"pk": {"S": "a"}},
                                "ConditionExpression": "a = :a",
                                "ExpressionAttributeValues": {":a": {"S": "a"}, ":b": {"S": "b"}},
                            }
                        }
                    ]
                },
                "TransactItems[0].Delete: :b is defined and not used",
            ),
            (
                "DynamoDB_20120810.Scan",
                {"TableName": "table", "ExpressionAttributeNames": {}},
                "the request: ExpressionAttributeNames is empty",
            ),
            ("DynamoDB_20120810.GetItem", [], "the body: is no object"),
            ("AmazonSQS.SendMessage", {"QueueUrl": Q, "MessageBody": None}, "required member MessageBody is missing"),
            ("AmazonSQS.ReceiveMessage", {"QueueUrl": Q, "MaxNumberOfMessages": "1"}, "'1' is no integer"),
            ("AmazonSQS.ReceiveMessage", {"QueueUrl": Q, "AttributeNames": ["Every"]}, "'Every' is not one of All,"),
            ("secretsmanager.GetSecretValue", {"SecretId": ""}, "SecretId: has a length of 0, less than 1"),
        ],
    )
    def test_a_malformed_json_body(self, target: str, body: Any, problem: str, aws: local.StandIn) -> None:
        assert self.json(aws, target, body) in ("ValidationException", "InvalidParameterValue")
        assert problem in " ".join(aws.malformed())

    @pytest.mark.parametrize(
        ("service", "method", "path", "body", "problem"),
        [
            ("scheduler", "GET", "/schedules/a%20b", None, "Name: 'a b' does not match the pattern"),
            ("scheduler", "GET", f"/schedules/{'a' * 65}", None, "Name: has a length of 65, more than 64"),
            ("scheduler", "GET", f"{SCHEDULER_PATH}?GroupName=g", None, "there is no member 'GroupName'"),
            ("scheduler", "GET", "/schedules?MaxResults=101", None, "MaxResults: is 101, more than 100"),
            ("scheduler", "GET", "/schedules?MaxResults=all", None, "MaxResults: 'all' is no integer"),
            ("scheduler", "POST", SCHEDULER_PATH, {}, "the required member FlexibleTimeWindow is missing"),
            ("scheduler", "POST", SCHEDULER_PATH, {**BARE_SCHEDULE, "State": "ON"}, "State: 'ON' is not one of"),
            ("scheduler", "POST", SCHEDULER_PATH, {**BARE_SCHEDULE, "StartDate": "now"}, "'now' is no timestamp"),
            ("securityhub", "POST", "/findings", {"MaxResults": 101}, "MaxResults: is 101, more than 100"),
            ("securityhub", "POST", "/finding", {}, "no operation of securityhub: POST /finding"),
            (
                "securityhub",
                "POST",
                "/findings",
                {"Filters": {"WorkflowStatus": [{"Value": " ", "Comparison": "IS"}]}},
                "Comparison: 'IS' is not one of EQUALS, ",
            ),
        ],
    )
    def test_a_malformed_rest_request(
        self, service: str, method: str, path: str, body: Any, problem: str, aws: local.StandIn
    ) -> None:
        assert self.rest(aws, service, method, path, body) in ("ValidationException", "InvalidInputException")
        assert problem in " ".join(aws.malformed())

    def test_a_test_that_leaves_a_malformed_request_fails(self, aws: local.StandIn) -> None:
        self.form(aws, EC2, "DescribeVpcs", MaxResults="4")
        with pytest.raises(AssertionError, match="ec2:DescribeVpcs: MaxResults: is 4, less than 5"):
            aws.reset()
        assert aws.malformed() == []

    def test_what_is_malformed_is_not_carried_out(self, aws: local.StandIn) -> None:
        queue = aws.client("sqs").create_queue(QueueName="some")["QueueUrl"]
        self.json(aws, "AmazonSQS.SendMessage", {"QueueUrl": queue, "MessageBody": "b", "DelaySecond": 1})
        assert aws.malformed() == ["sqs:SendMessage: the request: there is no member 'DelaySecond'"]
        assert (aws.messages(), local.drain(aws.client("sqs"), queue)) == ([], [])
