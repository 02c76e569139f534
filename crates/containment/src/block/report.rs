//! What an audit reports, and what `list_blocks` answers.

use actions::block::State;
use actions::{Block, ErrorDetail};
use aws_text::{Region, RoleArn, SecurityGroupId};
use serde::Serialize;

use crate::ports::Contents;

// For its JSON Schema; the handler reads it.
/// What asks for an audit, or for the blocks that there are.
#[cfg(feature = "schema")]
#[derive(Debug, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AuditInput {
    /// What is asked for
    #[schemars(extend("enum" = ["audit", "list_blocks"]))]
    pub mode: String,
}

/// Answer of an audit.
///
/// A later version may add members: readers should pass over those they do not know.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditReport {
    /// What was asked for
    #[cfg_attr(feature = "schema", schemars(extend("const" = "audit")))]
    pub mode: &'static str,
    /// Every place was read
    pub complete: bool,
    /// One for each account and region
    pub places: Vec<PlaceReport>,
}

/// What was found in one account and region. The counts of faults say what is left after repairs.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlaceReport {
    /// The role assumed for the account; null is the function's own
    pub role_arn: Option<RoleArn>,
    /// The region
    pub region: Region,
    /// Security groups with the block-list tag
    pub block_lists: usize,
    /// Those of them that are attached to a network interface
    pub block_lists_in_use: usize,
    /// Ingress rules revoked on them
    pub rules_revoked: usize,
    /// Blocks of the table, those that are to be lifted included
    pub blocks: usize,
    /// Blocks that lack an effective deny entry in some network ACL
    pub blocks_not_enforced: usize,
    /// Blocks whose missing entries or rule were added again
    pub blocks_restored: usize,
    /// Blocks past their end, or to be lifted, that are not gone
    pub blocks_overdue: usize,
    /// Blocks that the audit lifted, or finished lifting
    pub blocks_lifted: usize,
    /// Block lists with blocks that lost the tag, or were deleted
    pub block_lists_lost: usize,
    /// Deny entries within the function's numbers that no block explains. They are never touched
    pub entries_without_block: usize,
    /// Why it could not be audited, or not wholly
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "ErrorDetail"))]
    pub error: Option<ErrorDetail>,
}

/// Answer to `list_blocks`.
///
/// A later version may add members: readers should pass over those they do not know.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockListing {
    /// Every block of the table
    pub blocks: Vec<ListedBlock>,
}

/// A block, as of when it was last compared with EC2.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ListedBlock {
    /// What is blocked, as a CIDR block
    pub target: String,
    /// `tcp`, `udp`, or `-1` for all
    pub protocol: &'static str,
    /// First port; null for all protocols
    pub from_port: Option<u16>,
    /// Last port; null for all protocols
    pub to_port: Option<u16>,
    /// The block list
    pub security_group_id: SecurityGroupId,
    /// The account
    pub account_id: Option<String>,
    /// The region
    pub region: Region,
    /// The request whose block is in force
    pub request_id: String,
    /// Who asked for it
    pub requested_by: Option<String>,
    /// Its case
    pub case_id: Option<String>,
    /// When it ends by itself, RFC 3339 in UTC
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub expires_at: Option<String>,
    /// A deny entry stood before every allow entry that overlaps it, in each network ACL concerned
    pub enforced: bool,
}

/// The blocks that there are. An item alone, of which nothing was placed yet, is none.
#[must_use]
pub fn list(contents: &Contents) -> BlockListing {
    let is_block = |block: &&Block| {
        !block.is_lifted()
            && (block.state != State::Pending || block.renews.is_some() || block.enforced || block.rule_stands)
    };
    let listed = |block: &Block| {
        let terms = block.terms_in_force();
        ListedBlock {
            target: block.rule.source().to_string(),
            protocol: block.rule.protocol().as_str(),
            from_port: block.rule.ports().map(|(from, _)| from),
            to_port: block.rule.ports().map(|(_, to)| to),
            security_group_id: block.group.clone(),
            account_id: block.account_id.clone(),
            region: block.region.clone(),
            request_id: terms.request_id.clone(),
            requested_by: terms.requested_by.clone(),
            case_id: terms.notes.case_id.clone(),
            expires_at: terms.expires_at.map(|at| at.to_string()),
            enforced: block.enforced,
        }
    };
    BlockListing {
        blocks: contents.blocks.iter().filter(is_block).map(listed).collect(),
    }
}

impl PlaceReport {
    pub(super) fn new(role_arn: Option<RoleArn>, region: Region) -> Self {
        Self {
            role_arn,
            region,
            block_lists: 0,
            block_lists_in_use: 0,
            rules_revoked: 0,
            blocks: 0,
            blocks_not_enforced: 0,
            blocks_restored: 0,
            blocks_overdue: 0,
            blocks_lifted: 0,
            block_lists_lost: 0,
            entries_without_block: 0,
            error: None,
        }
    }
}
