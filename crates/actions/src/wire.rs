//! The request as it is sent, for its JSON Schema.
//!
//! [`Request::read`](crate::Request::read) reads by hand, so that it can name everything that is wrong at once. These
//! types say the same as far as a schema can; the tests of the schemas hold the two together. Nothing is written by them:
//! `skip_serializing_if` is how a schema is told that a member may be left out.

use aws_text::{NetworkAclId, Region, RoleArn, SecurityGroupId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::request::{MAX_NETWORK_ACLS, MAX_REQUEST_ID, MAX_TEXT};

/// A request to block an address, or to lift its block. A member that is not known refuses it: a typo must not become a
/// default.
///
/// Beyond this schema a CIDR block must have no host bits, the first port must be no greater than the last, no member may
/// stand twice, and whole numbers are written without a fraction.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, transform = agreeing_members)]
pub struct Request {
    /// Names the request in its result and on the rule. No control characters
    #[schemars(schema_with = "request_id")]
    pub request_id: String,
    /// What is asked for, in any case. Required, unless `capability` stands in its stead
    #[schemars(schema_with = "action", skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Another name of `action`. Where both stand they must agree
    #[schemars(schema_with = "action", skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// An IPv4 or IPv6 address, or a CIDR block. An IPv4-mapped IPv6 address is the IPv4 address
    #[schemars(schema_with = "target")]
    pub target: String,
    /// Where and how to block
    pub params: Params,
    /// Look, decide, ask EC2 for permission, and change nothing
    #[schemars(with = "bool", extend("default" = false), skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    /// Who asks; stands on the rule
    #[schemars(length(max = MAX_TEXT), skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// Recorded and echoed: the case that the request belongs to
    #[schemars(length(max = MAX_TEXT), skip_serializing_if = "Option::is_none")]
    pub case_id: Option<String>,
    /// Recorded and echoed: the run of the playbook that sends it
    #[schemars(length(max = MAX_TEXT), skip_serializing_if = "Option::is_none")]
    pub playbook_run_id: Option<String>,
    /// Recorded and echoed: the tenant it is sent for
    #[schemars(length(max = MAX_TEXT), skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Recorded and echoed: the event that led to the request
    #[schemars(length(max = MAX_TEXT), skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Recorded and echoed: why
    #[schemars(length(max = MAX_TEXT), skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    /// Of an `ALLOW_IP`: the request whose block it is to lift. It changes nothing if another has blocked since
    #[schemars(schema_with = "request_id", skip_serializing_if = "Option::is_none")]
    pub only_if_blocked_by: Option<String>,
    /// Of an `ALLOW_IP` with `only_if_blocked_by`: the end of the block it is to lift, RFC 3339. It changes nothing if
    /// the block has another end by now
    #[schemars(with = "String", extend("format" = "date-time"), skip_serializing_if = "Option::is_none")]
    pub only_if_expires_at: Option<String>,
}

/// Where and how to block. A member that is not known refuses the request.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Params {
    /// The security group that serves as block list
    pub aws_security_group_id: SecurityGroupId,
    /// Where the group is; the function's own region if not said
    #[schemars(with = "Region", skip_serializing_if = "Option::is_none")]
    pub aws_region: Option<Region>,
    /// `tcp` (6), `udp` (17), or -1 for all protocols, also ICMP; in any case
    #[schemars(schema_with = "protocol", extend("default" = "tcp"), skip_serializing_if = "Option::is_none")]
    pub aws_protocol: Option<String>,
    /// The first port. Ports are ignored where all protocols are meant
    #[schemars(with = "u16", extend("default" = 0), skip_serializing_if = "Option::is_none")]
    pub aws_from_port: Option<u16>,
    /// The last port
    #[schemars(with = "u16", extend("default" = 65535), skip_serializing_if = "Option::is_none")]
    pub aws_to_port: Option<u16>,
    /// The role to assume for the group's account; the function's own account if not said
    #[schemars(with = "RoleArn", length(max = 2048), skip_serializing_if = "Option::is_none")]
    pub aws_assume_role_arn: Option<RoleArn>,
    /// Of a block: the network ACLs that are to deny; every one of the VPC that has a subnet if not said
    #[schemars(with = "Vec<NetworkAclId>", length(min = 1, max = MAX_NETWORK_ACLS), skip_serializing_if = "Option::is_none")]
    pub aws_network_acl_ids: Option<Vec<NetworkAclId>>,
    /// Of a block: after how many seconds it ends by itself; it stays until it is lifted if not said
    #[schemars(
        with = "u32",
        range(min = 60, max = 31_536_000),
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_after_seconds: Option<u32>,
}

const BLOCK: &str = "^[Bb][Ll][Oo][Cc][Kk]_[Ii][Pp]$";
const ALLOW: &str = "^[Aa][Ll][Ll][Oo][Ww]_[Ii][Pp]$";
const IPV4: &str = r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(/(3[0-2]|[12]?[0-9]))?$";
const IPV6: &str = "^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$";
const IPV6_BLOCK: &str = "^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$";

fn request_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_REQUEST_ID,
        "not": {"pattern": r"[\x00-\x1f\x7f-\x9f]"},
    })
}

fn action(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "anyOf": [{"pattern": BLOCK}, {"pattern": ALLOW}], "examples": ["BLOCK_IP", "ALLOW_IP"]})
}

/// One of the two is there; they agree; and a block is bound to no other.
fn agreeing_members(schema: &mut Schema) {
    let blocks_by = |name: &str, other: &str| {
        json!({
            "if": {"properties": {name: {"type": "string", "pattern": BLOCK}}, "required": [name]},
            "then": {"properties": {
                other: {"pattern": BLOCK}, "only_if_blocked_by": false, "only_if_expires_at": false,
            }},
        })
    };
    let lifts_by = |name: &str| {
        json!({
            "if": {"properties": {name: {"type": "string", "pattern": ALLOW}}, "required": [name]},
            "then": {"properties": {
                "params": {"properties": {"aws_network_acl_ids": false, "expires_after_seconds": false}},
            }},
        })
    };
    schema.insert(
        "anyOf".to_owned(),
        json!([{"required": ["action"]}, {"required": ["capability"]}]),
    );
    schema.insert(
        "allOf".to_owned(),
        json!([
            blocks_by("action", "capability"),
            blocks_by("capability", "action"),
            lifts_by("action"),
            lifts_by("capability"),
        ]),
    );
    schema.insert(
        "dependentRequired".to_owned(),
        json!({"only_if_expires_at": ["only_if_blocked_by"]}),
    );
}

fn target(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "anyOf": [{"pattern": IPV4}, {"pattern": IPV6, "format": "ipv6"}, {"pattern": IPV6_BLOCK}],
        "examples": ["203.0.113.7", "198.51.100.0/24", "2001:db8::/64"],
    })
}

fn protocol(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            {"type": "string", "pattern": "^([Tt][Cc][Pp]|[Uu][Dd][Pp]|6|17|-1)$"},
            {"enum": [6, 17, -1]},
        ],
    })
}
