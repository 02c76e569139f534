"""EC2's network ACLs, security groups and network interfaces as AWS has them, over moto's.

moto carries out a dry run of a change to a network ACL, knows no quota of entries, and fails where there is no such
entry. The final refusals, shown as `*`, it puts into default ACLs only, and never those of IPv6. The quota of a
security group it takes for both address families together, and it does not say what a revocation did. It does not find
network interfaces by their public and IPv6 addresses, shows one public address of an interface only, and does not take
the values of a filter as alternatives where a resource has several values too.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2 import utils
from moto.ec2.exceptions import (
    EC2ClientError,
    InvalidNetworkAclIdError,
    InvalidPermissionNotFoundError,
    InvalidSecurityGroupRuleIdNotFoundError,
    RulesPerSecurityGroupLimitExceededError,
)
from moto.ec2.models import EC2Backend, network_acls
from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend
from moto.ec2.models.network_acls import NetworkAcl, NetworkAclBackend
from moto.ec2.models.security_groups import SecurityGroup, SecurityGroupBackend, SecurityGroupRule
from moto.ec2.models.subnets import Subnet, SubnetBackend
from moto.ec2.models.vpcs import VPC
from moto.ec2.responses.elastic_ip_addresses import ElasticIPAddresses
from moto.ec2.responses.network_acls import NetworkACLs
from moto.ec2.responses.security_groups import SecurityGroups

RULES_PER_GROUP = 60  # for each direction and address family (VPC quotas)
LAST_NUMBER = 32766  # above it stand the final refusals alone
# Of each family: the member, all addresses, and the numbers of the first permission and the final refusal.
_FAMILIES = (("cidr_block", "0.0.0.0/0", 100, 32767), ("ipv6_cidr_block", "::/0", 101, 32768))
_NO_RANGES = dict.fromkeys(
    ("cidr_block", "ipv6_cidr_block", "icmp_code", "icmp_type", "port_range_from", "port_range_to")
)


@dataclass
class Settings:
    """How EC2 behaves, beyond what it always does."""

    acl_entries: int = 20
    """The most entries of a network ACL, for each direction and address family, the final refusal included"""
    revoke_unknown: bool = False
    """To revoke a permission that is not there succeeds and names it, as in a default VPC: elsewhere it is an error"""
    vpc_owner: str | None = None
    """The account that owns the VPCs and network ACLs, as in one that shares its subnets: else it is the caller's"""


settings = Settings()
_changes = threading.RLock()


def _one_at_a_time(change: Callable[..., Any]) -> Callable[..., Any]:
    """In EC2 to see whether a change may be made and to make it are one step. moto takes calls at once as they come."""

    @wraps(change)
    def alone(*args: Any, **more: Any) -> Any:
        with _changes:
            return change(*args, **more)

    return alone


def _with_dry_run(operation: Callable[[NetworkACLs], Any]) -> Callable[[NetworkACLs], Any]:
    @wraps(operation)
    def checked(self: NetworkACLs) -> Any:
        self.error_on_dryrun()
        return operation(self)

    return checked


def _install_network_acls() -> None:
    for name in ("create_network_acl_entry", "replace_network_acl_entry", "delete_network_acl_entry"):
        setattr(NetworkACLs, name, _with_dry_run(getattr(NetworkACLs, name)))
    create_acl = NetworkAclBackend.create_network_acl
    create_entry = NetworkAclBackend.create_network_acl_entry
    delete_entry = NetworkAclBackend.delete_network_acl_entry
    delete_subnet = SubnetBackend.delete_subnet

    def create_network_acl(self: EC2Backend, vpc_id: str, tags: Any = None, default: bool = False) -> NetworkAcl:
        acl = create_acl(self, vpc_id, tags, default)
        has_ipv6 = self.get_vpc(vpc_id).get_cidr_block_association_set(ipv6=True)
        for member, everything, first, last in _FAMILIES[: 2 if has_ipv6 else 1]:
            for number, action in ([(first, "allow")] if default else []) + [(last, "deny")]:
                for egress in (True, False):
                    entry = {**_NO_RANGES, member: everything}
                    create_entry(self, acl.id, number, "-1", action, egress, **entry)
        return acl

    def create_network_acl_entry(
        self: EC2Backend,
        network_acl_id: str,
        rule_number: int,
        *,
        egress: bool,
        ipv6_cidr_block: str | None,
        **more: Any,
    ) -> Any:
        if not 1 <= rule_number <= LAST_NUMBER:
            raise EC2ClientError("InvalidParameterValue", f"Value ({rule_number}) for parameter ruleNumber is invalid.")
        entries = [
            entry
            for entry in self.get_network_acl(network_acl_id).network_acl_entries
            if (entry.egress, bool(entry.ipv6_cidr_block)) == (egress, bool(ipv6_cidr_block))
            and entry.rule_number <= LAST_NUMBER
        ]
        if len(entries) + 1 >= settings.acl_entries:
            message = f"The maximum number of entries of the network ACL '{network_acl_id}' has been reached."
            raise EC2ClientError("NetworkAclEntryLimitExceeded", message)
        return create_entry(self, network_acl_id, rule_number, egress=egress, ipv6_cidr_block=ipv6_cidr_block, **more)

    def delete_network_acl_entry(self: EC2Backend, network_acl_id: str, rule_number: int, egress: bool) -> Any:
        try:
            return delete_entry(self, network_acl_id, rule_number, egress)
        except StopIteration:
            direction = "egress" if egress else "ingress"
            message = f"There is no {direction} entry {rule_number} in the network ACL '{network_acl_id}'."
            raise EC2ClientError("InvalidNetworkAclEntry.NotFound", message) from None

    def delete_subnet_and_association(self: EC2Backend, subnet_id: str) -> Subnet:
        subnet = delete_subnet(self, subnet_id)
        for acl in self.network_acls.values():
            acl._associations = {key: a for key, a in acl._associations.items() if a.subnet_id != subnet_id}
        return subnet

    NetworkAclBackend.create_network_acl = create_network_acl
    NetworkAclBackend.add_default_entries = lambda self, network_acl_id: None
    NetworkAclBackend.create_network_acl_entry = _one_at_a_time(create_network_acl_entry)
    NetworkAclBackend.delete_network_acl_entry = _one_at_a_time(delete_network_acl_entry)
    NetworkAclBackend.replace_network_acl_entry = _one_at_a_time(NetworkAclBackend.replace_network_acl_entry)
    SubnetBackend.delete_subnet = delete_subnet_and_association
    # moto's DescribeNetworkAcls speaks of an unknown route table.
    network_acls.InvalidRouteTableIdError = InvalidNetworkAclIdError


def _verify_rule_count(
    self: SecurityGroupBackend,
    group: SecurityGroup,
    current_rule_nb: int,
    ip_ranges: list[dict[str, str]],
    source_groups: list[dict[str, str]] | None = None,
    egress: bool = False,
) -> None:
    rules = group.egress_rules if egress else group.ingress_rules
    for family in ("CidrIp", "CidrIpv6"):
        # A rule that names a group or a prefix list counts in both families.
        count = sum(family in rule.ip_range or not rule.ip_range for rule in rules)
        if count + sum(family in r for r in ip_ranges) + len(source_groups or []) > RULES_PER_GROUP:
            raise RulesPerSecurityGroupLimitExceededError


@_one_at_a_time
def _authorize_ingress(self: SecurityGroups) -> ActionResult:
    """As moto, but the answer names the rules of every permission, not of the last one only."""
    self.error_on_dryrun()
    rules: list[SecurityGroupRule] = []
    for permission in self._process_rules_from_querystring():
        rules += self.ec2_backend.authorize_security_group_ingress(**permission)[0]
    return ActionResult({"Return": True, "SecurityGroupRules": rules})


@_one_at_a_time
def _revoke_ingress(self: SecurityGroups) -> ActionResult:
    """As moto, but the answer names the rules that are gone and, where that is no error, what was not there."""
    self.error_on_dryrun()
    revoked: list[SecurityGroupRule] = []
    unknown = []
    for permission in self._process_rules_from_querystring():
        del permission["sgrule_tags"]
        group = self.ec2_backend.get_security_group_by_name_or_id(permission["group_name_or_id"])
        before = group.ingress_rules if group else []
        try:
            self.ec2_backend.revoke_security_group_ingress(**permission)
        except InvalidPermissionNotFoundError:
            if permission["security_rule_ids"]:
                ids = set(permission["security_rule_ids"]) - {rule.id for rule in before}
                raise InvalidSecurityGroupRuleIdNotFoundError(min(ids)) from None
            if not settings.revoke_unknown:
                raise
            unknown.append(
                {
                    "IpProtocol": permission["ip_protocol"],
                    "FromPort": permission["from_port"],
                    "ToPort": permission["to_port"],
                    "IpRanges": [r for r in permission["ip_ranges"] if "CidrIp" in r],
                    "Ipv6Ranges": [r for r in permission["ip_ranges"] if "CidrIpv6" in r],
                    "UserIdGroupPairs": permission["source_groups"],
                }
            )
        else:
            left = {rule.id for rule in group.ingress_rules}
            revoked += [rule for rule in before if rule.id not in left]
    return ActionResult({"Return": True, "RevokedSecurityGroupRules": revoked, "UnknownIpPermissions": unknown})


def _install_security_groups() -> None:
    SecurityGroupBackend._verify_group_will_respect_rule_count_limit = _verify_rule_count
    SecurityGroups.authorize_security_group_ingress = _authorize_ingress
    SecurityGroups.revoke_security_group_ingress = _revoke_ingress
    exist = EC2Backend.do_resources_exist

    def do_resources_exist(self: EC2Backend, resource_ids: list[str]) -> bool:
        """As moto, which asks this before it puts tags on something, but also of the rules of security groups."""
        rules = [resource_id for resource_id in resource_ids if resource_id.startswith("sgr-")]
        if rules:
            self.describe_security_group_rules(rules, {})
        return exist(self, resource_ids)

    EC2Backend.do_resources_exist = do_resources_exist


def _associate(self: NetworkInterface) -> None:
    """Shows at each private address of an interface the public one that belongs to it."""
    public = {}
    for address in self.ec2_backend.addresses:
        if address.eni is self:
            association = {"PublicIp": address.public_ip, "IpOwnerId": self.ec2_backend.account_id}
            association |= {"AllocationId": address.allocation_id, "AssociationId": address.association_id}
            public[getattr(address, "private_ip", None) or self.private_ip_address] = association
    for private in self.private_ip_addresses:
        private.pop("Association", None)
        if private["PrivateIpAddress"] in public:
            private["Association"] = public[private["PrivateIpAddress"]]


def _install_network_interfaces() -> None:
    get_all = NetworkInterfaceBackend.get_all_network_interfaces
    get_filter_value = NetworkInterface.get_filter_value
    associate = ElasticIPAddresses.associate_address
    matches = utils.is_filter_matching

    def is_filter_matching(resource: Any, name: str, values: Any) -> bool:
        have = resource.get_filter_value(name)
        if isinstance(have, list | set | tuple) and isinstance(values, list):
            patterns = [re.compile(utils.simple_aws_filter_to_re(value)) for value in values]
            return any(pattern.match(str(each)) for pattern in patterns for each in have)
        return matches(resource, name, values)

    def get_all_network_interfaces(self: EC2Backend, eni_ids: Any = None, filters: Any = None) -> list[Any]:
        for interface in self.enis.values():
            _associate(interface)
        return get_all(self, eni_ids, filters)

    def value_of(self: NetworkInterface, name: str, method_name: str | None = None) -> Any:
        match name:
            case "addresses.association.public-ip" | "association.public-ip":
                associations = [a["Association"] for a in self.private_ip_addresses if "Association" in a]
                of_primary = [self.public_ip] if self.public_ip else []
                others = [a["PublicIp"] for a in associations] if name.startswith("addresses") else []
                return [*of_primary, *others]
            case "addresses.private-ip-address":
                return [address["PrivateIpAddress"] for address in self.private_ip_addresses]
            case "ipv6-addresses.ipv6-address":
                return self.ipv6_addresses
            case "group-id":
                return [group.id for group in self.group_set]
        return get_filter_value(self, name, method_name)

    def associate_address(self: ElasticIPAddresses) -> ActionResult:
        """As moto, but with an address of the interface other than its first."""
        private_ip, interface_id = self._get_param("PrivateIpAddress"), self._get_param("NetworkInterfaceId")
        if not private_ip or not interface_id:
            return associate(self)
        interface = self.ec2_backend.get_network_interface(interface_id)
        of_first = interface.public_ip
        answer = associate(self)
        (address,) = self.ec2_backend.address_by_association([answer.result["AssociationId"]])
        address.private_ip = private_ip
        if private_ip != interface.private_ip_address:
            interface.public_ip = of_first
        return answer

    utils.is_filter_matching = is_filter_matching
    NetworkInterfaceBackend.get_all_network_interfaces = get_all_network_interfaces
    NetworkInterface.get_filter_value = value_of
    ElasticIPAddresses.associate_address = associate_address


def _install_owners() -> None:
    owner = property(
        lambda self: settings.vpc_owner or self.ec2_backend.account_id,
        lambda self, value: None,  # moto's constructors set it
    )
    NetworkAcl.owner_id = owner
    VPC.owner_id = owner


def install() -> None:
    """Puts this module's answers in the place of moto's."""
    _install_network_acls()
    _install_network_interfaces()
    _install_owners()
    _install_security_groups()
