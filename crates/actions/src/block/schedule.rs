//! What ends a block by itself: a one-time schedule that sends the matching ALLOW_IP.

use aws_text::{Region, SecurityGroupId};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::tags::hash;
use super::{Block, Terms};
use crate::request::Capability;
use crate::rule::IngressRule;

/// A one-time schedule that sends an ALLOW_IP to the actions queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Its name, which is that of every schedule for the same block list and rule
    pub name: String,
    pub at: Timestamp,
    /// The group of the message in the FIFO queue
    pub message_group: SecurityGroupId,
    /// The message
    pub request: Value,
}

/// EventBridge Scheduler invokes a schedule whose time is past never, and one whose time is near perhaps not.
const AHEAD: SignedDuration = SignedDuration::from_mins(1);

/// The name of the schedule that ends a block: one for each rule of each block list, so that a later request finds it.
#[must_use]
pub fn name(region: &Region, group: &SecurityGroupId, rule: &IngressRule) -> String {
    format!("aisoc-{group}-{}", hash(&format!("{region} {rule}")))
}

impl Schedule {
    /// The schedule that ends the block as the terms say; `None` where they name no end.
    ///
    /// Its ALLOW_IP is bound to the request and the end of the terms, so that it lifts no other block.
    #[must_use]
    pub fn of(block: &Block, terms: &Terms, now: Timestamp) -> Option<Self> {
        let end = terms.expires_at?;
        let rule = block.rule;
        let mut params = json!({
            "aws_security_group_id": block.group,
            "aws_region": block.region,
            "aws_protocol": rule.protocol().as_str(),
        });
        if let Some((from, to)) = rule.ports() {
            params["aws_from_port"] = json!(from);
            params["aws_to_port"] = json!(to);
        }
        if let Some(role) = &block.role {
            params["aws_assume_role_arn"] = json!(role);
        }
        Some(Self {
            name: name(&block.region, &block.group, &rule),
            at: end.max(now + AHEAD),
            message_group: block.group.clone(),
            request: json!({
                "request_id": lifting_id(&terms.request_id),
                "capability": Capability::AllowIp,
                "target": rule.source().to_string(),
                "params": params,
                "requested_by": terms.requested_by,
                "rationale": format!("the block ends by itself at {end}"),
                "only_if_blocked_by": terms.request_id,
                "only_if_expires_at": end,
            }),
        })
    }
}

/// The id of the request that ends a block: a UUID, as AiSOC's own are, that follows from the id of the request that
/// blocked.
#[must_use]
pub fn lifting_id(request_id: &str) -> String {
    let hash = hash(&format!("expiry:{request_id}")) + &hash(&format!("end:{request_id}"));
    let (start, end) = (&hash[..13], &hash[16..]);
    // Version 8 and the variant of RFC 9562
    format!(
        "{}-{}-8{}-8{}-{}",
        &start[..8],
        &start[8..12],
        &hash[13..16],
        &end[1..4],
        &end[4..]
    )
}
