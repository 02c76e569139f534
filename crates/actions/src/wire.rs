//! Requests as they are sent, for their JSON Schema.
//!
//! [`Asked::read`](crate::Asked::read) reads by hand, so that it can name everything that is wrong at once. These
//! types say the same as far as a schema can; the tests of the schemas hold the two together. Nothing is written by them:
//! `skip_serializing_if` is how a schema is told that a member may be left out.

use aws_text::{NetworkAclId, Region, RoleArn, SecurityGroupId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::request::{Capability, MAX_NETWORK_ACLS, MAX_REQUEST_ID, MAX_TEXT, Vendor};
use crate::writeback::{Disposition, MAX_ID};

/// A request: AiSOC's `LiveActionRequest`, with the members that the connector knows. One that is not known refuses it: a
/// typo must not become a default.
///
/// Beyond this schema a CIDR block must have no host bits, the first port must be no greater than the last, two names of
/// one thing must say the same where both stand, no member may stand twice, and whole numbers are written without a
/// fraction.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Request {
    Block(BlockRequest),
    WriteBack(WriteBackRequest),
}

/// A request to block an address, or to lift its block.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, transform = one_capability, transform = members_of_one_action)]
pub struct BlockRequest {
    /// Names the request in its result and on the rule. No control characters
    #[schemars(schema_with = "request_id")]
    pub request_id: String,
    /// What is asked for, in any case. Required, unless `action` stands in its stead
    #[schemars(schema_with = "block_capability", skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// Another name of `capability`. Where both stand they must agree
    #[schemars(schema_with = "block_capability", skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The connector; null is as good
    #[schemars(schema_with = "vendor", skip_serializing_if = "Option::is_none")]
    pub vendor_id: Option<String>,
    /// An IPv4 or IPv6 address, or a CIDR block. An IPv4-mapped IPv6 address is the IPv4 address
    #[schemars(schema_with = "target")]
    pub target: String,
    /// Where and how to block
    pub params: BlockParams,
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
    /// Null or an empty object: credentials do not travel in messages
    #[schemars(schema_with = "nothing", skip_serializing_if = "Option::is_none")]
    pub auth_config: Option<()>,
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
pub struct BlockParams {
    /// The security group that serves as block list
    pub aws_security_group_id: SecurityGroupId,
    /// Where the group is; the function's own region if not said
    #[schemars(with = "Region", skip_serializing_if = "Option::is_none")]
    pub aws_region: Option<Region>,
    /// `tcp` (6), `udp` (17), or -1 for all protocols, also ICMP; in any case
    #[schemars(schema_with = "protocol", extend("default" = "tcp"), skip_serializing_if = "Option::is_none")]
    pub aws_protocol: Option<String>,
    /// Another name of `aws_protocol`. Where both stand they must agree
    #[schemars(schema_with = "protocol", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The first port. Ports are ignored where all protocols are meant
    #[schemars(with = "u16", extend("default" = 0), skip_serializing_if = "Option::is_none")]
    pub aws_from_port: Option<u16>,
    /// The last port
    #[schemars(with = "u16", extend("default" = 65535), skip_serializing_if = "Option::is_none")]
    pub aws_to_port: Option<u16>,
    /// In the stead of the first and the last port: the one port, or -1 for all. Where they stand too they must agree
    #[schemars(with = "i32", range(min = -1, max = 65535), skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// The role to assume for the group's account; the function's own account if not said
    #[schemars(with = "RoleArn", length(max = 2048), skip_serializing_if = "Option::is_none")]
    pub aws_assume_role_arn: Option<RoleArn>,
    /// Another name of `aws_assume_role_arn`. Where both stand they must agree
    #[schemars(with = "RoleArn", length(max = 2048), skip_serializing_if = "Option::is_none")]
    pub aws_role_arn: Option<RoleArn>,
    /// Taken, and not used: the session has a name by which it is known as the connector's
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    pub aws_session_name: Option<String>,
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

/// A request to write a verdict to a finding.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, transform = one_capability, transform = members_of_one_verdict)]
pub struct WriteBackRequest {
    /// Names the request in its result. No control characters
    #[schemars(schema_with = "request_id")]
    pub request_id: String,
    /// What is asked for, in any case. Required, unless `action` stands in its stead
    #[schemars(schema_with = "write_back_capability", skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// Another name of `capability`. Where both stand they must agree
    #[schemars(schema_with = "write_back_capability", skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The connector; null is as good
    #[schemars(schema_with = "vendor", skip_serializing_if = "Option::is_none")]
    pub vendor_id: Option<String>,
    /// The finding's id: an event's `external_id`. Not only blanks, and no control characters
    #[schemars(schema_with = "id")]
    pub target: String,
    /// Which finding, and what of it. Required for `update_alert_disposition`
    #[schemars(with = "WriteBackParams", skip_serializing_if = "Option::is_none")]
    pub params: Option<WriteBackParams>,
    /// Look, decide, and change nothing
    #[schemars(with = "bool", extend("default" = false), skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    /// Who asks; stands in the note
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
    /// Null or an empty object: credentials do not travel in messages
    #[schemars(schema_with = "nothing", skip_serializing_if = "Option::is_none")]
    pub auth_config: Option<()>,
}

/// Which finding, and what of it. A member that is not known refuses the request.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, transform = one_product)]
pub struct WriteBackParams {
    /// Of `update_alert_disposition`: what AiSOC found out; in any case, with blanks or hyphens for underscores
    #[schemars(schema_with = "disposition", skip_serializing_if = "Option::is_none")]
    pub disposition: Option<String>,
    /// How sure AiSOC is; stands in the note, and decides nothing
    #[schemars(schema_with = "confidence", skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// Why; stands in the note, as far as it fits. Another name of the request's `rationale`
    #[schemars(skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    /// The alert that the finding became; stands in the note and in `UserDefinedFields`
    #[schemars(schema_with = "id", skip_serializing_if = "Option::is_none")]
    pub aisoc_alert_id: Option<String>,
    /// Whom the alert was given to; stands in the note
    #[schemars(length(max = MAX_TEXT), skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Taken, and not used: AiSOC's action service chooses by it
    #[schemars(schema_with = "known_vendor", skip_serializing_if = "Option::is_none")]
    pub alert_vendor: Option<String>,
    /// Where the finding is; the function's own region if not said
    #[schemars(with = "Region", skip_serializing_if = "Option::is_none")]
    pub aws_region: Option<Region>,
    /// The ARN of the finding's product, an event's `product_arn`; looked up if not said
    #[schemars(schema_with = "product_arn", skip_serializing_if = "Option::is_none")]
    pub aws_product_arn: Option<String>,
    /// Of a finding of Security Hub (V2): its `metadata.uid`
    #[schemars(schema_with = "metadata_uid", skip_serializing_if = "Option::is_none")]
    pub aws_metadata_uid: Option<String>,
}

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

/// A pattern for a text in any case; an underscore may be one of `separators`.
fn in_any_case(text: &str, separators: &str) -> String {
    text.chars()
        .map(|c| match c {
            '_' => format!("[{separators}]"),
            c => format!("[{}{c}]", c.to_ascii_uppercase()),
        })
        .collect()
}

fn any_of(capabilities: &[Capability]) -> Schema {
    let patterns = capabilities
        .iter()
        .map(|capability| json!({"pattern": pattern_of(*capability)}));
    let examples = capabilities.iter().map(|capability| capability.as_str());
    json_schema!({
        "type": "string",
        "anyOf": patterns.collect::<Vec<_>>(),
        "examples": examples.collect::<Vec<_>>(),
    })
}

fn pattern_of(capability: Capability) -> String {
    format!("^{}$", in_any_case(capability.as_str(), "_"))
}

fn block_capability(_: &mut SchemaGenerator) -> Schema {
    any_of(&[Capability::BlockIp, Capability::AllowIp])
}

fn write_back_capability(_: &mut SchemaGenerator) -> Schema {
    any_of(&[
        Capability::UpdateAlertDisposition,
        Capability::AckAlert,
        Capability::SuppressAlert,
    ])
}

fn vendor(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": [Vendor::SecurityHub.as_str(), Vendor::SecurityGroups.as_str(), null]})
}

fn known_vendor(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": [Vendor::SecurityHub.as_str(), Vendor::SecurityGroups.as_str()]})
}

fn nothing(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["object", "null"], "maxProperties": 0})
}

fn one_capability(schema: &mut Schema) {
    schema.insert(
        "anyOf".to_owned(),
        json!([{"required": ["capability"]}, {"required": ["action"]}]),
    );
}

/// What holds of a request with this capability, by whichever name.
fn of_capability(capability: Capability, then: &serde_json::Value) -> [serde_json::Value; 2] {
    ["capability", "action"].map(|name| {
        let is_asked =
            json!({"properties": {name: {"type": "string", "pattern": pattern_of(capability)}}, "required": [name]});
        json!({"if": is_asked, "then": then})
    })
}

fn members_of_one_action(schema: &mut Schema) {
    let of_block = json!({"properties": {"only_if_blocked_by": false, "only_if_expires_at": false}});
    let of_lift = json!({
        "properties": {"params": {"properties": {"aws_network_acl_ids": false, "expires_after_seconds": false}}},
    });
    let of_each = [
        of_capability(Capability::BlockIp, &of_block),
        of_capability(Capability::AllowIp, &of_lift),
    ];
    schema.insert("allOf".to_owned(), json!(of_each.concat()));
    schema.insert(
        "dependentRequired".to_owned(),
        json!({"only_if_expires_at": ["only_if_blocked_by"]}),
    );
}

fn members_of_one_verdict(schema: &mut Schema) {
    let with_disposition = json!({"properties": {"params": {"required": ["disposition"]}}, "required": ["params"]});
    let without = json!({"properties": {"params": {"properties": {"disposition": false}}}});
    let of_each = [
        of_capability(Capability::UpdateAlertDisposition, &with_disposition),
        of_capability(Capability::AckAlert, &without),
        of_capability(Capability::SuppressAlert, &without),
    ];
    schema.insert("allOf".to_owned(), json!(of_each.concat()));
}

fn one_product(schema: &mut Schema) {
    schema.insert(
        "not".to_owned(),
        json!({"required": ["aws_product_arn", "aws_metadata_uid"]}),
    );
}

fn id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_ID,
        "pattern": r"\S",
        "not": {"pattern": r"[\x00-\x1f\x7f-\x9f]"},
    })
}

fn confidence(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "number", "minimum": 0, "maximum": 1})
}

fn product_arn(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": MAX_ID,
        "pattern": "^arn:aws(-[a-z-]+)?:securityhub:[a-z0-9-]*:[0-9]*:product/[!-~]+$",
        "examples": ["arn:aws:securityhub:us-east-1::product/aws/guardduty"],
    })
}

fn metadata_uid(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": MAX_ID, "pattern": "^[!-~]+$"})
}

fn disposition(_: &mut SchemaGenerator) -> Schema {
    let names = Disposition::ALL.map(Disposition::as_str);
    let patterns = names.map(|name| json!({"pattern": format!("^ *{} *$", in_any_case(name, "_ -"))}));
    json_schema!({"type": "string", "anyOf": patterns, "examples": names})
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
