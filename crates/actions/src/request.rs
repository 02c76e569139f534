//! Requests, read strictly.

use aws_text::{NetworkAclId, Region, RoleArn, SecurityGroupId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::members::{Members, shortened};
use crate::rule::{IngressRule, Protocol};
use crate::target::Target;
use crate::{ErrorCode, Refusal, writeback};

/// What a request can ask for, and an audit do, in AiSOC's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Put the target on the block list
    BlockIp,
    /// Take it off
    AllowIp,
    /// Write a verdict to a finding
    UpdateAlertDisposition,
    /// Say of a finding that someone works on it
    AckAlert,
    /// Suppress a finding
    SuppressAlert,
    /// What nobody asks for by a request: the audit
    Audit,
}

impl Capability {
    /// Those that a request can ask for.
    pub const REQUESTED: [Self; 5] = [
        Self::BlockIp,
        Self::AllowIp,
        Self::UpdateAlertDisposition,
        Self::AckAlert,
        Self::SuppressAlert,
    ];

    /// The name used in requests and results.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlockIp => "block_ip",
            Self::AllowIp => "allow_ip",
            Self::UpdateAlertDisposition => "update_alert_disposition",
            Self::AckAlert => "ack_alert",
            Self::SuppressAlert => "suppress_alert",
            Self::Audit => "audit",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::REQUESTED
            .into_iter()
            .find(|capability| name.eq_ignore_ascii_case(capability.as_str()))
    }
}

/// What is asked for about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put the target on the block list
    BlockIp,
    /// Take it off
    AllowIp,
}

impl Action {
    /// What a request calls it.
    #[must_use]
    pub fn capability(self) -> Capability {
        match self {
            Action::BlockIp => Capability::BlockIp,
            Action::AllowIp => Capability::AllowIp,
        }
    }
}

/// By which of its names the connector is addressed. The result repeats it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    /// Also where the request names none
    #[default]
    SecurityHub,
    /// The name of AiSOC's own arm for security groups
    SecurityGroups,
}

impl Vendor {
    /// The name used in requests and results.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Vendor::SecurityHub => "aws_security_hub",
            Vendor::SecurityGroups => "aws_security_groups",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Vendor::SecurityHub, Vendor::SecurityGroups]
            .into_iter()
            .find(|vendor| name == vendor.as_str())
    }
}

/// A message, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A target is to be blocked, or its block lifted
    Block(Box<Request>),
    /// A finding is to be changed
    WriteBack(Box<writeback::Request>),
}

/// A request about an address that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names the request in its result and on the rule
    pub request_id: String,
    /// What is asked for
    pub action: Action,
    /// By which name the connector is addressed
    pub vendor: Vendor,
    /// The block list
    pub group: SecurityGroupId,
    /// Where the group is; the function's own region if not said
    pub region: Option<Region>,
    /// The rule to add or to remove
    pub rule: IngressRule,
    /// The role to assume for the group's account
    pub role: Option<RoleArn>,
    /// Read and decide, change nothing
    pub dry_run: bool,
    /// Who asked, for the rule's tags and description
    pub requested_by: Option<String>,
    pub notes: Notes,
    /// Of a block: the network ACLs that are to deny; every one of the VPC that has a subnet if not said
    pub network_acl_ids: Option<Vec<NetworkAclId>>,
    /// Of a block: after how many seconds it ends by itself; 60 to 31,536,000
    pub expires_after_seconds: Option<u32>,
    /// Of an `ALLOW_IP` that a schedule sends: the request whose block it is to end. It ends no other
    pub only_if_blocked_by: Option<String>,
    /// And the end of that block: it ends none that was renewed with another end
    pub only_if_expires_at: Option<Timestamp>,
}

/// Texts that are recorded and echoed, and decide nothing; of at most 512 characters each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Notes {
    /// The case that the request belongs to
    pub case_id: Option<String>,
    /// The run of the playbook that sent it
    pub playbook_run_id: Option<String>,
    /// The tenant it was sent for
    pub tenant_id: Option<String>,
    /// The event that led to it
    pub event_id: Option<String>,
    /// Why
    pub rationale: Option<String>,
}

/// A request that is refused before anything is looked at, with as much of it as could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The request's id, or the one to use in its stead
    pub request_id: String,
    /// `capability`, as given
    pub capability: Option<String>,
    /// `vendor_id`, as given
    pub vendor: Option<String>,
    /// `target`, as given
    pub target: Option<String>,
    /// As far as they could be read
    pub notes: Notes,
    /// Why
    pub refusal: Refusal,
}

/// The most characters of `request_id`: it goes into a tag, and a tag's value holds 256.
pub(crate) const MAX_REQUEST_ID: usize = 256;
/// The most characters of a text that is only recorded.
pub(crate) const MAX_TEXT: usize = 512;
/// The most network ACLs that a request can name: more than a VPC has by its quotas.
pub(crate) const MAX_NETWORK_ACLS: usize = 40;

const CAPABILITY: &str =
    "\"block_ip\", \"allow_ip\", \"update_alert_disposition\", \"ack_alert\" or \"suppress_alert\"";
pub(crate) const VENDOR: &str = "\"aws_security_hub\" or \"aws_security_groups\"";
const REQUEST_ID: &str = "a string of 1 to 256 characters";
const TARGET: &str = "an IPv4 or IPv6 address, or a CIDR block such as 203.0.113.0/24";
const GROUP: &str = "the security group that serves as block list, such as \"sg-0123456789abcdef0\"";
const PORT: &str = "a whole number from 0 to 65535";
const ONE_PORT: &str = "a whole number from 0 to 65535, or -1 for all ports";
const TEXT: &str = "a string of at most 512 characters";
const TIME: &str = "a time such as \"2026-11-25T10:00:00Z\"";
const EXPIRY: &str = "a whole number from 60 to 31536000";
const NETWORK_ACLS: &str = "an array of 1 to 40 network ACL ids such as [\"acl-0123456789abcdef0\"]";
const NO_CREDENTIALS: &str = "credentials do not travel in messages. The function has a role, and \
                              STATIC_CREDENTIALS_SECRET_ARN for those who must use an access key";

/// The members that every request can have. What is missing or wrong is noted, and the value is then one that no request
/// is made of.
pub(crate) struct Common {
    pub(crate) request_id: Option<String>,
    pub(crate) vendor: Vendor,
    pub(crate) dry_run: bool,
    pub(crate) requested_by: Option<String>,
    pub(crate) notes: Notes,
}

impl Common {
    fn read(members: &mut Members) -> Self {
        let request_id = required(members, "request_id", REQUEST_ID, request_id);
        let vendor = members.optional("vendor_id", VENDOR, |value| match value {
            Value::Null => Some(Vendor::default()),
            value => value.as_str().and_then(Vendor::from_name),
        });
        let dry_run = members.optional("dry_run", "true or false", Value::as_bool);
        let requested_by = note(members, "requested_by");
        let notes = Notes {
            case_id: note(members, "case_id"),
            playbook_run_id: note(members, "playbook_run_id"),
            tenant_id: note(members, "tenant_id"),
            event_id: note(members, "event_id"),
            rationale: note(members, "rationale"),
        };
        let is_empty = |text: &str| {
            serde_json::from_str::<Value>(text)
                .is_ok_and(|value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty))
        };
        if !members.raw("auth_config").is_none_or(is_empty) {
            members.problem("auth_config", &format!("must be null or {{}}: {NO_CREDENTIALS}"));
        }
        Self {
            request_id,
            vendor: vendor.unwrap_or_default(),
            dry_run: dry_run.unwrap_or(false),
            requested_by,
            notes,
        }
    }
}

/// The parameters, in which no credentials may be. `None` where they are no object, which is noted.
pub(crate) fn params_of(members: &mut Members) -> Option<Members> {
    let text = members.raw("params").unwrap_or("{}").to_owned();
    match Members::read(&text, "params.") {
        Ok(mut params) => {
            for name in ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"] {
                if params.has(name) {
                    params.raw(name);
                    params.problem(name, &format!("must be left out: {NO_CREDENTIALS}"));
                }
            }
            Some(params)
        }
        Err(found) => {
            members.problem("params", &format!("must be a JSON object, not {found}"));
            None
        }
    }
}

impl Asked {
    /// Reads the body of a message.
    ///
    /// # Errors
    /// [`Rejection`], which names every member that is wrong and what it should be. Its id is `stand_in_id` where the
    /// request has none.
    pub fn read(body: &str, stand_in_id: &str) -> Result<Self, Box<Rejection>> {
        let mut members = match Members::read(body, "") {
            Ok(members) => members,
            Err(found) => {
                let problem = format!("the body must be a JSON object, not {found}");
                return Err(Box::new(Rejection {
                    request_id: stand_in_id.to_owned(),
                    capability: None,
                    vendor: None,
                    target: None,
                    notes: Notes::default(),
                    refusal: invalid(&[problem]),
                }));
            }
        };
        let given = |members: &mut Members, name| {
            members
                .raw(name)
                .and_then(|text| serde_json::from_str::<String>(text).ok())
                .map(|text| shortened(&text))
        };
        let mut rejection = Rejection {
            request_id: stand_in_id.to_owned(),
            capability: given(&mut members, "capability").or_else(|| given(&mut members, "action")),
            vendor: given(&mut members, "vendor_id"),
            target: given(&mut members, "target"),
            notes: Notes::default(),
            refusal: invalid(&[]),
        };
        let capability = capability(&mut members);
        let mut common = Common::read(&mut members);
        rejection.notes = common.notes.clone();
        if let Some(id) = &common.request_id {
            rejection.request_id.clone_from(id);
        }
        let action = match capability {
            Some(
                capability @ (Capability::UpdateAlertDisposition | Capability::AckAlert | Capability::SuppressAlert),
            ) => {
                let read = writeback::Request::of(&mut members, capability, &mut common);
                rejection.notes = common.notes;
                return finished(
                    members,
                    read.map(|request| Self::WriteBack(Box::new(request))),
                    rejection,
                );
            }
            Some(Capability::BlockIp) => Some(Action::BlockIp),
            Some(Capability::AllowIp) => Some(Action::AllowIp),
            Some(Capability::Audit) | None => None,
        };
        let read = Request::of(&mut members, action, common);
        finished(members, read.map(|request| Self::Block(Box::new(request))), rejection)
    }
}

fn finished(members: Members, asked: Option<Asked>, rejection: Rejection) -> Result<Asked, Box<Rejection>> {
    let problems = members.finish();
    match asked {
        Some(asked) if problems.is_empty() => Ok(asked),
        _ => Err(Box::new(Rejection {
            refusal: invalid(&problems),
            ..rejection
        })),
    }
}

impl Request {
    /// Reads the body of a message that is about an address.
    ///
    /// # Errors
    /// As [`Asked::read`]; and where it is about a finding.
    pub fn read(body: &str, stand_in_id: &str) -> Result<Self, Box<Rejection>> {
        match Asked::read(body, stand_in_id)? {
            Asked::Block(request) => Ok(*request),
            Asked::WriteBack(request) => Err(Box::new(Rejection {
                request_id: request.request_id,
                capability: Some(request.verdict.capability().as_str().to_owned()),
                vendor: Some(request.vendor.as_str().to_owned()),
                target: Some(request.finding.id),
                notes: request.notes,
                refusal: invalid(&["capability must be \"block_ip\" or \"allow_ip\"".to_owned()]),
            })),
        }
    }

    fn of(members: &mut Members, action: Option<Action>, common: Common) -> Option<Self> {
        let target = if members.has("target") {
            members.checked("target", |value| {
                let text = value.as_str().ok_or_else(|| TARGET.to_owned())?;
                text.parse::<Target>().map_err(|error| error.to_string())
            })
        } else {
            members.missing("target", TARGET);
            None
        };
        let only_if_blocked_by = members.optional("only_if_blocked_by", REQUEST_ID, self::request_id);
        let only_if_expires_at = members.optional("only_if_expires_at", TIME, |value| value.as_str()?.parse().ok());
        if action == Some(Action::BlockIp) {
            for name in ["only_if_blocked_by", "only_if_expires_at"] {
                if members.has(name) {
                    members.problem(
                        name,
                        "must be left out of a BLOCK_IP: it belongs to the ALLOW_IP that ends one",
                    );
                }
            }
        } else if members.has("only_if_expires_at") && !members.has("only_if_blocked_by") {
            members.problem("only_if_expires_at", "must come with only_if_blocked_by");
        }
        let params = params(members, action)?;
        Some(Self {
            request_id: common.request_id?,
            action: action?,
            vendor: common.vendor,
            group: params.group?,
            region: params.region,
            rule: IngressRule::new(target?, params.protocol, params.ports),
            role: params.role,
            dry_run: common.dry_run,
            requested_by: common.requested_by,
            notes: common.notes,
            network_acl_ids: params.network_acl_ids,
            expires_after_seconds: params.expires_after_seconds,
            only_if_blocked_by,
            only_if_expires_at,
        })
    }
}

struct Params {
    group: Option<SecurityGroupId>,
    region: Option<Region>,
    protocol: Protocol,
    ports: (u16, u16),
    role: Option<RoleArn>,
    network_acl_ids: Option<Vec<NetworkAclId>>,
    expires_after_seconds: Option<u32>,
}

/// The parameters; their problems go to those of the request.
fn params(members: &mut Members, action: Option<Action>) -> Option<Params> {
    let mut params = params_of(members)?;
    let group = if params.has("aws_security_group_id") {
        parsed(&mut params, "aws_security_group_id")
    } else {
        params.missing("aws_security_group_id", GROUP);
        None
    };
    let region = parsed(&mut params, "aws_region");
    let protocol = params.either("aws_protocol", "protocol", |params, name| {
        params.checked(name, protocol)
    });
    let protocol = protocol.unwrap_or(Protocol::Tcp);
    let ports = ports(&mut params, protocol);
    let role = params.either("aws_assume_role_arn", "aws_role_arn", parsed);
    // The session has a name of its own, by which CloudTrail shows that it is the connector's.
    params.optional("aws_session_name", "a string", text);
    let network_acl_ids = params.optional("aws_network_acl_ids", NETWORK_ACLS, network_acl_ids);
    let expires_after_seconds = params.optional("expires_after_seconds", EXPIRY, |value| {
        let seconds = value.as_u64().filter(|seconds| (60..=31_536_000).contains(seconds));
        seconds.and_then(|seconds| u32::try_from(seconds).ok())
    });
    if action == Some(Action::AllowIp) {
        for name in ["aws_network_acl_ids", "expires_after_seconds"] {
            if params.has(name) {
                params.problem(
                    name,
                    "must be left out of an ALLOW_IP: it lifts a block whole, and at once",
                );
            }
        }
    }
    members.add_problems_of(params);
    Some(Params {
        group,
        region,
        protocol,
        ports,
        role,
        network_acl_ids,
        expires_after_seconds,
    })
}

/// `aws_from_port` and `aws_to_port`, or `port` in the stead of both.
fn ports(params: &mut Members, protocol: Protocol) -> (u16, u16) {
    const ALL: (u16, u16) = (0, u16::MAX);
    let from = params.optional("aws_from_port", PORT, port);
    let to = params.optional("aws_to_port", PORT, port);
    let one = params.optional("port", ONE_PORT, |value| match value.as_i64() {
        Some(-1) => Some(ALL),
        _ => port(value).map(|port| (port, port)),
    });
    if let Some(one) = one {
        if from.is_some_and(|from| from != one.0) || to.is_some_and(|to| to != one.1) {
            params.problem(
                "port",
                "stands for params.aws_from_port and params.aws_to_port, and must agree with them",
            );
        }
        return one;
    }
    let (from, to) = (from.unwrap_or(ALL.0), to.unwrap_or(ALL.1));
    if from > to && protocol != Protocol::All {
        params.problem(
            "aws_from_port",
            &format!("must be no greater than params.aws_to_port, not {from} and {to}"),
        );
    }
    (from, to)
}

/// `capability`, or `action` in its stead; where both stand they must agree.
fn capability(members: &mut Members) -> Option<Capability> {
    if !members.has("action") && !members.has("capability") {
        members.missing("capability", CAPABILITY);
    }
    members.either("capability", "action", |members, name| {
        members.optional(name, CAPABILITY, |value| value.as_str().and_then(Capability::from_name))
    })
}

fn protocol(value: &Value) -> Result<Protocol, String> {
    let name = match value {
        Value::String(name) => name.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    Protocol::from_name(&name).ok_or_else(|| {
        let known = "\"tcp\", \"udp\", \"6\", \"17\" or \"-1\" for all protocols";
        match name.to_ascii_lowercase().as_str() {
            "icmp" | "icmpv6" | "1" | "58" => {
                format!("{known} (to block ICMP use \"-1\", which blocks every protocol)")
            }
            _ => known.to_owned(),
        }
    })
}

fn request_id(value: &Value) -> Option<String> {
    text(value).filter(|id| (1..=MAX_REQUEST_ID).contains(&id.chars().count()) && !id.chars().any(char::is_control))
}

/// At least one, each once; their order does not matter.
fn network_acl_ids(value: &Value) -> Option<Vec<NetworkAclId>> {
    let mut ids = value
        .as_array()?
        .iter()
        .map(|id| id.as_str()?.parse().ok())
        .collect::<Option<Vec<NetworkAclId>>>()?;
    ids.sort_unstable();
    ids.dedup();
    (1..=MAX_NETWORK_ACLS).contains(&ids.len()).then_some(ids)
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok())
}

pub(crate) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

pub(crate) fn required<T>(
    members: &mut Members,
    name: &'static str,
    expected: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Option<T> {
    if members.has(name) {
        members.optional(name, expected, read)
    } else {
        members.missing(name, expected);
        None
    }
}

pub(crate) fn parsed<T: std::str::FromStr<Err = aws_text::NotAName>>(
    members: &mut Members,
    name: &'static str,
) -> Option<T> {
    members.checked(name, |value| {
        value
            .as_str()
            .unwrap_or_default()
            .parse()
            .map_err(|error: aws_text::NotAName| error.expected().to_owned())
    })
}

/// A member that is kept for the record; null counts as absent.
pub(crate) fn note(members: &mut Members, name: &'static str) -> Option<String> {
    members
        .optional(name, TEXT, |value| match value {
            Value::Null => Some(None),
            other => text(other).filter(|text| text.chars().count() <= MAX_TEXT).map(Some),
        })
        .flatten()
}

/// The most problems that are named: the answer must fit into a message, whatever the request was.
const MAX_PROBLEMS: usize = 20;

fn invalid(problems: &[String]) -> Refusal {
    let mut named: Vec<String> = problems.iter().take(MAX_PROBLEMS).cloned().collect();
    if problems.len() > MAX_PROBLEMS {
        named.push(format!("and {} more", problems.len() - MAX_PROBLEMS));
    }
    Refusal::new(
        ErrorCode::InvalidRequest,
        named.join("; "),
        "correct what is named and send the request again",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn minimal() -> Value {
        json!({"request_id": "r-1", "capability": "block_ip", "target": "203.0.113.7",
               "params": {"aws_security_group_id": "sg-0123456789abcdef0"}})
    }

    fn read(body: &Value) -> Result<Request, Box<Rejection>> {
        Request::read(&body.to_string(), "message-1")
    }

    fn rejection(body: &str) -> Rejection {
        *Request::read(body, "message-1").unwrap_err()
    }

    /// The minimal request with one change.
    fn with(pointer: &str, value: Value) -> Value {
        let mut body = minimal();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        body
    }

    #[test]
    fn defaults() {
        assert_eq!(
            read(&minimal()),
            Ok(Request {
                request_id: "r-1".to_owned(),
                action: Action::BlockIp,
                vendor: Vendor::SecurityHub,
                group: "sg-0123456789abcdef0".parse().unwrap(),
                region: None,
                rule: IngressRule::new("203.0.113.7".parse().unwrap(), Protocol::Tcp, (0, 65535)),
                role: None,
                dry_run: false,
                requested_by: None,
                notes: Notes::default(),
                network_acl_ids: None,
                expires_after_seconds: None,
                only_if_blocked_by: None,
                only_if_expires_at: None,
            })
        );
    }

    #[test]
    fn every_member_can_be_given() {
        let body = json!({
            "request_id": "r-2", "action": "allow_ip", "capability": "Allow_IP", "target": "2001:db8::/64",
            "vendor_id": "aws_security_groups", "auth_config": {},
            "params": {"aws_security_group_id": "sg-0123abcd", "aws_region": "eu-west-1", "aws_protocol": "UDP",
                       "aws_from_port": 53, "aws_to_port": 53, "aws_assume_role_arn": "arn:aws:iam::111122223333:role/r"},
            "only_if_blocked_by": "r-1", "only_if_expires_at": "2026-11-25T10:00:00Z", "dry_run": true,
            "requested_by": "analyst", "case_id": "c", "playbook_run_id": "p", "tenant_id": "t", "event_id": "e",
            "rationale": null
        });
        assert_eq!(
            read(&body),
            Ok(Request {
                request_id: "r-2".to_owned(),
                action: Action::AllowIp,
                vendor: Vendor::SecurityGroups,
                group: "sg-0123abcd".parse().unwrap(),
                region: Some("eu-west-1".parse().unwrap()),
                rule: IngressRule::new("2001:db8::/64".parse().unwrap(), Protocol::Udp, (53, 53)),
                role: Some("arn:aws:iam::111122223333:role/r".parse().unwrap()),
                dry_run: true,
                requested_by: Some("analyst".to_owned()),
                notes: Notes {
                    case_id: Some("c".to_owned()),
                    playbook_run_id: Some("p".to_owned()),
                    tenant_id: Some("t".to_owned()),
                    event_id: Some("e".to_owned()),
                    rationale: None,
                },
                network_acl_ids: None,
                expires_after_seconds: None,
                only_if_blocked_by: Some("r-1".to_owned()),
                only_if_expires_at: Some("2026-11-25T10:00:00Z".parse().unwrap()),
            })
        );
    }

    #[test]
    fn action_is_another_name_of_capability() {
        let mut body = minimal();
        body.as_object_mut().unwrap().remove("capability");
        body["action"] = json!("BLOCK_IP");
        assert_eq!(read(&body).unwrap().action, Action::BlockIp);
    }

    #[test]
    fn every_capability_is_written_as_serde_writes_it() {
        for capability in Capability::REQUESTED.into_iter().chain([Capability::Audit]) {
            assert_eq!(serde_json::to_value(capability).unwrap(), capability.as_str());
        }
    }

    #[test]
    fn a_request_may_name_the_connector() {
        for (vendor, expected) in [
            (json!(null), Vendor::SecurityHub),
            (json!("aws_security_hub"), Vendor::SecurityHub),
            (json!("aws_security_groups"), Vendor::SecurityGroups),
        ] {
            assert_eq!(read(&with("/vendor_id", vendor)).unwrap().vendor, expected);
        }
        let rejection = *read(&with("/vendor_id", json!("panos"))).unwrap_err();
        assert_eq!(
            rejection.refusal.message,
            "vendor_id must be \"aws_security_hub\" or \"aws_security_groups\", not \"panos\""
        );
        assert_eq!(rejection.vendor.as_deref(), Some("panos"));
    }

    #[test]
    fn credentials_are_refused_and_appear_nowhere() {
        const SECRET: &str = "wJalrXUtnFEMI";
        for (pointer, value, part) in [
            (
                "/auth_config",
                json!({"aws_secret_access_key": SECRET}),
                "auth_config must be null or {}: credentials",
            ),
            ("/auth_config", json!(SECRET), "auth_config must be null or {}"),
            ("/auth_config", json!([SECRET]), "auth_config must be null or {}"),
            (
                "/params/aws_access_key_id",
                json!(SECRET),
                "params.aws_access_key_id must be left out: credentials",
            ),
            (
                "/params/aws_secret_access_key",
                json!(SECRET),
                "params.aws_secret_access_key must be left out",
            ),
            (
                "/params/aws_session_token",
                json!({"a": SECRET}),
                "params.aws_session_token must be left out",
            ),
        ] {
            for capability in Capability::REQUESTED {
                let mut body = with(pointer, value.clone());
                body["capability"] = json!(capability.as_str());
                let rejection = Asked::read(&body.to_string(), "m").unwrap_err();
                assert!(
                    rejection.refusal.message.contains(part),
                    "{}",
                    rejection.refusal.message
                );
                assert!(!format!("{rejection:?}").contains(SECRET));
            }
        }
        // Nor where they stand in the wrong place.
        for body in [
            format!(r#"{{"auth_config":{{"k":"{SECRET}"}},"auth_config":"{SECRET}","params":"{SECRET}"}}"#),
            format!(r#"{{"aws_secret_access_key":"{SECRET}","params":{{"aws_secret_access_key":"{SECRET}"}}}}"#),
            format!(r#"{{"auth_config":{{"k":"{SECRET}"#),
        ] {
            assert!(!format!("{:?}", Asked::read(&body, "m").unwrap_err()).contains(SECRET));
        }
    }

    #[test]
    fn parameters_have_the_names_of_aisocs_own_arm_too() {
        let mut body = minimal();
        let others = json!({"aws_role_arn": "arn:aws:iam::111122223333:role/r", "aws_session_name": "aisoc",
                            "protocol": "UDP", "port": 53});
        body["params"]
            .as_object_mut()
            .unwrap()
            .extend(others.as_object().unwrap().clone());
        let request = read(&body).unwrap();
        assert_eq!(
            request.role.as_ref().map(RoleArn::as_str),
            Some("arn:aws:iam::111122223333:role/r")
        );
        assert_eq!(
            (request.rule.protocol(), request.rule.ports()),
            (Protocol::Udp, Some((53, 53)))
        );
        // Both names may stand where they say the same.
        let same = json!({"aws_assume_role_arn": "arn:aws:iam::111122223333:role/r", "aws_protocol": "17",
                          "aws_from_port": 53, "aws_to_port": 53});
        body["params"]
            .as_object_mut()
            .unwrap()
            .extend(same.as_object().unwrap().clone());
        assert_eq!(read(&body), Ok(request));
        let mut all = with("/params/port", json!(-1));
        assert_eq!(read(&all).unwrap().rule.ports(), Some((0, 65535)));
        all["params"]["aws_from_port"] = json!(0);
        assert!(read(&all).is_ok());
        for (name, value, message) in [
            (
                "aws_assume_role_arn",
                json!("arn:aws:iam::111122223333:role/other"),
                "params.aws_assume_role_arn and params.aws_role_arn must agree where both stand",
            ),
            (
                "aws_protocol",
                json!("tcp"),
                "params.aws_protocol and params.protocol must agree where both stand",
            ),
            (
                "aws_from_port",
                json!(52),
                "params.port stands for params.aws_from_port and params.aws_to_port, and must agree with them",
            ),
            (
                "aws_to_port",
                json!(54),
                "params.port stands for params.aws_from_port and params.aws_to_port, and must agree with them",
            ),
        ] {
            let mut body = body.clone();
            body["params"][name] = value;
            assert_eq!(read(&body).unwrap_err().refusal.message, message);
        }
        for port in [json!(-2), json!(65536), json!("53"), json!(null)] {
            let message = read(&with("/params/port", port.clone())).unwrap_err().refusal.message;
            let expected = "params.port must be a whole number from 0 to 65535, or -1 for all ports";
            assert_eq!(message, format!("{expected}, not {port}"));
        }
    }

    #[test]
    fn a_request_about_a_finding_is_none_about_an_address() {
        let body =
            json!({"request_id": "r", "capability": "ack_alert", "target": "f", "vendor_id": "aws_security_hub"});
        assert!(matches!(Asked::read(&body.to_string(), "m"), Ok(Asked::WriteBack(_))));
        let rejection = Request::read(&body.to_string(), "m").unwrap_err();
        assert_eq!(
            rejection.refusal.message,
            "capability must be \"block_ip\" or \"allow_ip\""
        );
        assert!(matches!(Asked::read(&minimal().to_string(), "m"), Ok(Asked::Block(_))));
    }

    #[test]
    fn with_all_protocols_the_ports_do_not_count() {
        let mut body = with("/params/aws_protocol", json!("-1"));
        body["params"]["aws_from_port"] = json!(9);
        body["params"]["aws_to_port"] = json!(1);
        assert_eq!(read(&body).unwrap().rule.ports(), None);
        assert_eq!(
            read(&with("/params/aws_protocol", json!(-1))).unwrap().rule.protocol(),
            Protocol::All
        );
    }

    #[test]
    fn what_is_no_object_is_answered_under_the_id_of_the_message() {
        for (body, found) in [
            ("", "no JSON"),
            ("BLOCK_IP 203.0.113.7", "no JSON"),
            ("{\"request_id\":\"r\"", "no JSON"),
            ("null", "null"),
            ("[]", "an array"),
            ("7", "a number"),
            ("\"{}\"", "a string"),
        ] {
            let rejection = rejection(body);
            assert_eq!(rejection.request_id, "message-1");
            assert_eq!(rejection.refusal.code, ErrorCode::InvalidRequest);
            let message = rejection.refusal.message;
            assert!(
                message.starts_with(&format!("the body must be a JSON object, not {found}")),
                "{message}"
            );
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn every_refusal_names_the_member_and_what_it_should_be() {
        for (pointer, value, message) in [
            (
                "/request_id",
                json!(7),
                "request_id must be a string of 1 to 256 characters, not 7",
            ),
            (
                "/request_id",
                json!(""),
                "request_id must be a string of 1 to 256 characters, not \"\"",
            ),
            (
                "/capability",
                json!("BLOCK"),
                "capability must be \"block_ip\", \"allow_ip\", \"update_alert_disposition\", \"ack_alert\" or \"suppress_alert\", not \"BLOCK\"",
            ),
            (
                "/action",
                json!("ALLOW_IP"),
                "capability and action must agree where both stand",
            ),
            (
                "/target",
                json!("300.1.1.1"),
                "target must be an IPv4 or IPv6 address, or a CIDR block such as 203.0.113.0/24 (host names are not looked up), not \"300.1.1.1\"",
            ),
            (
                "/target",
                json!("10.0.0.0/33"),
                "target must be a CIDR block with a prefix length from 0 to 32, not \"10.0.0.0/33\"",
            ),
            (
                "/target",
                json!("host.example"),
                "target must be an IPv4 or IPv6 address, or a CIDR block such as 203.0.113.0/24 (host names are not looked up), not \"host.example\"",
            ),
            (
                "/target",
                json!("203.0.113.7/24"),
                "target must be a CIDR block without host bits: the network is 203.0.113.0/24, the single address 203.0.113.7, not \"203.0.113.7/24\"",
            ),
            (
                "/target",
                json!(["203.0.113.7"]),
                "target must be an IPv4 or IPv6 address, or a CIDR block such as 203.0.113.0/24, not [\"203.0.113.7\"]",
            ),
            ("/params", json!([]), "params must be a JSON object, not an array"),
            (
                "/params/aws_security_group_id",
                json!("web"),
                "params.aws_security_group_id must be sg- and 8 or 17 hexadecimal digits, not \"web\"",
            ),
            (
                "/params/aws_region",
                json!("Ireland"),
                "params.aws_region must be a region's code such as us-east-1, not \"Ireland\"",
            ),
            (
                "/params/aws_region",
                json!(null),
                "params.aws_region must be a region's code such as us-east-1, not null",
            ),
            (
                "/params/aws_protocol",
                json!("foo"),
                "params.aws_protocol must be \"tcp\", \"udp\", \"6\", \"17\" or \"-1\" for all protocols, not \"foo\"",
            ),
            (
                "/params/aws_protocol",
                json!("icmp"),
                "params.aws_protocol must be \"tcp\", \"udp\", \"6\", \"17\" or \"-1\" for all protocols (to block ICMP use \"-1\", which blocks every protocol), not \"icmp\"",
            ),
            (
                "/params/aws_from_port",
                json!(65536),
                "params.aws_from_port must be a whole number from 0 to 65535, not 65536",
            ),
            (
                "/params/aws_from_port",
                json!(-1),
                "params.aws_from_port must be a whole number from 0 to 65535, not -1",
            ),
            (
                "/params/aws_to_port",
                json!("443"),
                "params.aws_to_port must be a whole number from 0 to 65535, not \"443\"",
            ),
            (
                "/params/aws_to_port",
                json!(80.5),
                "params.aws_to_port must be a whole number from 0 to 65535, not 80.5",
            ),
            (
                "/params/aws_from_port",
                json!(null),
                "params.aws_from_port must be a whole number from 0 to 65535, not null",
            ),
            (
                "/params/aws_assume_role_arn",
                json!("admin"),
                "params.aws_assume_role_arn must be a role's ARN such as arn:aws:iam::111122223333:role/name, not \"admin\"",
            ),
            (
                "/params/expires_after_seconds",
                json!(0),
                "params.expires_after_seconds must be a whole number from 60 to 31536000, not 0",
            ),
            (
                "/params/expires_after_seconds",
                json!(1.5),
                "params.expires_after_seconds must be a whole number from 60 to 31536000, not 1.5",
            ),
            (
                "/params/expires_after_seconds",
                json!(1_000_000_000_000u64),
                "params.expires_after_seconds must be a whole number from 60 to 31536000, not 1000000000000",
            ),
            (
                "/params/aws_network_acl_ids",
                json!(["acl-1"]),
                "params.aws_network_acl_ids must be an array of 1 to 40 network ACL ids such as [\"acl-0123456789abcdef0\"], not [\"acl-1\"]",
            ),
            ("/dry_run", json!("yes"), "dry_run must be true or false, not \"yes\""),
            (
                "/requested_by",
                json!(7),
                "requested_by must be a string of at most 512 characters, not 7",
            ),
            (
                "/Target",
                json!("x"),
                "Target is not known; known are capability, vendor_id, target, action, request_id, dry_run, requested_by, case_id, playbook_run_id, tenant_id, event_id, rationale, auth_config, only_if_blocked_by, only_if_expires_at, params",
            ),
        ] {
            let body = with(pointer, value);
            let refusal = read(&body).unwrap_err().refusal;
            assert_eq!(refusal.code, ErrorCode::InvalidRequest);
            assert_eq!(refusal.message, message, "{body}");
        }
    }

    #[test]
    fn reversed_ports_are_refused() {
        let mut body = with("/params/aws_from_port", json!(443));
        body["params"]["aws_to_port"] = json!(80);
        assert_eq!(
            read(&body).unwrap_err().refusal.message,
            "params.aws_from_port must be no greater than params.aws_to_port, not 443 and 80"
        );
    }

    #[test]
    fn a_typo_never_becomes_a_default() {
        let refusal = read(&with("/params/aws_form_port", json!(443))).unwrap_err().refusal;
        assert_eq!(
            refusal.message,
            "params.aws_form_port is not known; known are aws_security_group_id, aws_region, aws_protocol, \
             protocol, aws_from_port, aws_to_port, port, aws_assume_role_arn, aws_role_arn, aws_session_name, \
             aws_network_acl_ids, expires_after_seconds"
        );
    }

    #[test]
    fn everything_wrong_is_named_at_once_with_what_could_be_read() {
        let rejection = rejection(r#"{"action":"block_ip","target":"host.example","params":{"aws_from_port":70000}}"#);
        assert_eq!(rejection.request_id, "message-1");
        assert_eq!(rejection.capability.as_deref(), Some("block_ip"));
        assert_eq!(rejection.target.as_deref(), Some("host.example"));
        for part in [
            "request_id is missing: a string",
            "target must be",
            "params.aws_security_group_id is missing: the security group",
            "params.aws_from_port must be",
        ] {
            assert!(
                rejection.refusal.message.contains(part),
                "{part}: {}",
                rejection.refusal.message
            );
        }
    }

    #[test]
    fn each_required_member_is_asked_for() {
        for (name, message) in [
            ("request_id", "request_id is missing: a string of 1 to 256 characters"),
            (
                "capability",
                "capability is missing: \"block_ip\", \"allow_ip\", \"update_alert_disposition\", \"ack_alert\" or \"suppress_alert\"",
            ),
            (
                "target",
                "target is missing: an IPv4 or IPv6 address, or a CIDR block such as 203.0.113.0/24",
            ),
            (
                "params",
                "params.aws_security_group_id is missing: the security group that serves as block list, such as \"sg-0123456789abcdef0\"",
            ),
        ] {
            let mut body = minimal();
            body.as_object_mut().unwrap().remove(name);
            assert_eq!(read(&body).unwrap_err().refusal.message, message);
        }
    }

    #[test]
    fn the_answer_to_a_request_of_any_size_is_short() {
        let members: Vec<String> = (0..20_000).map(|n| format!("\"{n}{}\":1", "x".repeat(20))).collect();
        let message = rejection(&format!("{{{}}}", members.join(","))).refusal.message;
        assert!(message.len() < 10_000, "{}", message.len());
        assert!(message.ends_with(" more"), "{message}");
        let with = |count: usize| invalid(&vec!["x".to_owned(); count]).message;
        assert_eq!(with(20), vec!["x"; 20].join("; "), "all of them");
        assert_eq!(with(21), format!("{}; and 1 more", with(20)));
    }

    #[test]
    fn a_member_that_stands_twice_is_refused() {
        let rejection = rejection(
            r#"{"request_id":"r","action":"BLOCK_IP","target":"203.0.113.7","target":"203.0.113.8",
                "params":{"aws_security_group_id":"sg-0123abcd","aws_to_port":1,"aws_to_port":2}}"#,
        );
        assert_eq!(
            rejection.refusal.message,
            "target stands there twice; params.aws_to_port stands there twice"
        );
    }

    #[test]
    fn a_block_can_end_by_itself_and_name_its_acls() {
        let mut body = with("/params/expires_after_seconds", json!(3600));
        body["params"]["aws_network_acl_ids"] = json!(["acl-0123abce", "acl-0123abcd", "acl-0123abce"]);
        let request = read(&body).unwrap();
        assert_eq!(request.expires_after_seconds, Some(3600));
        let ids = request.network_acl_ids.unwrap();
        assert_eq!(
            ids.iter().map(NetworkAclId::as_str).collect::<Vec<_>>(),
            ["acl-0123abcd", "acl-0123abce"]
        );
    }

    #[test]
    fn only_an_allow_is_bound_to_a_block() {
        let mut body = with("/only_if_blocked_by", json!("r-0"));
        assert_eq!(
            read(&body).unwrap_err().refusal.message,
            "only_if_blocked_by must be left out of a BLOCK_IP: it belongs to the ALLOW_IP that ends one"
        );
        body["capability"] = json!("allow_ip");
        assert_eq!(read(&body).unwrap().only_if_blocked_by.as_deref(), Some("r-0"));
        body["only_if_blocked_by"] = json!("");
        assert!(
            read(&body)
                .unwrap_err()
                .refusal
                .message
                .starts_with("only_if_blocked_by must be a string of 1 to 256")
        );
    }

    #[test]
    fn a_block_that_was_renewed_with_another_end_is_told_apart() {
        let mut body = with("/only_if_expires_at", json!("2026-11-25T10:00:00Z"));
        let message = |body: &Value| read(body).unwrap_err().refusal.message;
        assert_eq!(
            message(&body),
            "only_if_expires_at must be left out of a BLOCK_IP: it belongs to the ALLOW_IP that ends one"
        );
        body["capability"] = json!("allow_ip");
        assert_eq!(message(&body), "only_if_expires_at must come with only_if_blocked_by");
        body["only_if_blocked_by"] = json!("r-0");
        assert!(read(&body).is_ok());
        body["only_if_expires_at"] = json!("soon");
        assert_eq!(
            message(&body),
            "only_if_expires_at must be a time such as \"2026-11-25T10:00:00Z\", not \"soon\""
        );
    }

    #[test]
    fn members_of_a_block_are_refused_in_a_lift() {
        for (name, value) in [
            ("expires_after_seconds", json!(60)),
            ("aws_network_acl_ids", json!(["acl-0123abcd"])),
        ] {
            let mut body = with(&format!("/params/{name}"), value);
            assert!(read(&body).is_ok());
            body["capability"] = json!("allow_ip");
            assert_eq!(
                read(&body).unwrap_err().refusal.message,
                format!("params.{name} must be left out of an ALLOW_IP: it lifts a block whole, and at once")
            );
        }
    }

    #[test]
    fn texts_and_lists_are_bounded() {
        let names = [
            "requested_by",
            "case_id",
            "playbook_run_id",
            "tenant_id",
            "event_id",
            "rationale",
        ];
        for name in names {
            for (length, is_taken) in [(512, true), (513, false), (300_000, false)] {
                let body = with(&format!("/{name}"), json!("é".repeat(length)));
                assert_eq!(read(&body).is_ok(), is_taken, "{name} {length}");
            }
        }
        for (count, is_taken) in [(1, true), (40, true), (41, false), (42_000, false)] {
            let ids: Vec<String> = (0..count).map(|n| format!("acl-{n:08x}")).collect();
            let body = with("/params/aws_network_acl_ids", json!(ids));
            let read = read(&body);
            assert_eq!(read.is_ok(), is_taken, "{count}");
            if let Err(rejection) = read {
                assert!(rejection.refusal.message.len() < 1000);
            }
        }
    }

    proptest! {
        #[test]
        fn any_body_is_answered(body in "\\PC*") {
            let _ = Request::read(&body, "m");
        }

        #[test]
        fn any_value_of_any_member_is_answered(index in 0usize..29, value in prop_oneof![
            Just("null".to_owned()), Just("{}".to_owned()), Just("[1]".to_owned()), Just("1e999".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()), any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
        ]) {
            let names = ["request_id", "action", "capability", "vendor_id", "auth_config", "target", "params", "dry_run", "requested_by", "case_id",
                         "playbook_run_id", "tenant_id", "event_id", "rationale", "only_if_blocked_by",
                         "only_if_expires_at", "other"];
            let params = ["aws_security_group_id", "aws_region", "aws_protocol", "aws_from_port", "aws_to_port",
                          "aws_assume_role_arn", "aws_network_acl_ids", "expires_after_seconds", "port", "protocol",
                          "aws_role_arn", "disposition"];
            let body = match names.get(index) {
                Some(name) => format!(r#"{{"{name}":{value}}}"#),
                None => format!(r#"{{"params":{{"{}":{value}}}}}"#, params[index - names.len()]),
            };
            let rejection = Request::read(&body, "m").unwrap_err();
            prop_assert_eq!(rejection.refusal.code, ErrorCode::InvalidRequest);
        }
    }
}
