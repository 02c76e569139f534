//! The audit: in every account and region of the settings, block lists that have become attached lose their rules.

use std::collections::BTreeMap;

use aws_support::{AwsError, Clock, Deadline};
use aws_text::{Region, RoleArn};
use containment_plan::audit::{Attached, Closed, Revoked, attached};
use containment_plan::{ErrorDetail, Outcome, Policy};
use futures::future::join_all;
use serde::Serialize;

use crate::accounts::Accounts;
use crate::ec2::NO_SUCH_RULE;
use crate::failure;
use crate::network::Network;

/// What is audited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditScope {
    /// `AUDIT_REGIONS`
    pub regions: Vec<Region>,
    /// `AUDIT_ROLE_ARNS`: the accounts beside the function's own
    pub roles: Vec<RoleArn>,
}

// For its JSON Schema; the handler reads it.
/// What asks for an audit.
#[cfg(feature = "schema")]
#[derive(Debug, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AuditInput {
    /// What is asked for
    #[schemars(extend("const" = "audit"))]
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
    /// Everywhere was looked
    pub complete: bool,
    /// One for each account and region
    pub places: Vec<PlaceReport>,
}

/// What was found in one account and region.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlaceReport {
    /// The role assumed for the account; null is the function's own
    pub role_arn: Option<RoleArn>,
    /// The region
    pub region: Region,
    /// Groups with the block-list tag
    pub groups_audited: usize,
    /// Those of them that are attached
    pub groups_in_use: usize,
    /// Ingress rules taken back
    pub rules_revoked: usize,
    /// Why it could not be audited, or not wholly
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "ErrorDetail"))]
    pub error: Option<ErrorDetail>,
}

/// An audit's report, and a result for each group that lost rules.
#[derive(Debug)]
pub struct Audited {
    /// The answer
    pub report: AuditReport,
    /// To the results queue
    pub outcomes: Vec<Outcome>,
}

/// Audits.
#[derive(Clone, Copy, Debug)]
pub struct Audit<'a, A, C> {
    /// What is audited
    pub scope: &'a AuditScope,
    /// What a block list is
    pub policy: &'a Policy,
    /// Where networks are
    pub accounts: &'a A,
    /// The time
    pub clock: &'a C,
    /// Names this audit in its results
    pub id: &'a str,
}

impl<A: Accounts, C: Clock> Audit<'_, A, C> {
    /// Looks everywhere, side by side. One place's failure stops no other.
    pub async fn run(&self, deadline: &Deadline) -> Audited {
        let roles = std::iter::once(None).chain(self.scope.roles.iter().map(Some));
        let places = roles.flat_map(|role| self.scope.regions.iter().map(move |region| (role, region)));
        let audited = join_all(places.map(|(role, region)| self.place(role, region, deadline))).await;
        let (places, outcomes): (Vec<PlaceReport>, Vec<Vec<Outcome>>) = audited.into_iter().unzip();
        Audited {
            report: AuditReport {
                mode: "audit",
                complete: places.iter().all(|place| place.error.is_none()),
                places,
            },
            outcomes: outcomes.into_iter().flatten().collect(),
        }
    }

    async fn place(&self, role: Option<&RoleArn>, region: &Region, deadline: &Deadline) -> (PlaceReport, Vec<Outcome>) {
        let mut report = PlaceReport {
            role_arn: role.cloned(),
            region: region.clone(),
            groups_audited: 0,
            groups_in_use: 0,
            rules_revoked: 0,
            error: None,
        };
        let mut outcomes = Vec::new();
        if let Err(error) = self
            .close_doors(role, region, &mut report, &mut outcomes, deadline)
            .await
        {
            if error.fresh_credentials_may_help() {
                self.accounts.forget(role).await;
            }
            report.error = Some(failure::of_audit(&error, role));
        }
        (report, outcomes)
    }

    async fn close_doors(
        &self,
        role: Option<&RoleArn>,
        region: &Region,
        report: &mut PlaceReport,
        outcomes: &mut Vec<Outcome>,
        deadline: &Deadline,
    ) -> Result<(), AwsError> {
        let network = self.accounts.network(role, region, deadline).await?;
        let groups = network.enrolled(&self.policy.tag, deadline).await?;
        report.groups_audited = groups.len();
        let ids: Vec<_> = groups.iter().map(|group| group.id.clone()).collect();
        let interfaces = if ids.is_empty() {
            BTreeMap::new()
        } else {
            network.interfaces(&ids, deadline).await?
        };
        let attached = attached(groups, &interfaces);
        report.groups_in_use = attached.len();
        let closed = join_all(attached.into_iter().map(|attached| close(&network, attached, deadline))).await;
        let mut failed = None;
        for closed in closed {
            match closed {
                Ok(Some(closed)) => {
                    report.rules_revoked += closed.rules.len();
                    outcomes.push(closed.outcome(region, self.id, self.policy, self.clock.stamp()));
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Takes the group's ingress rules back, if it has any.
async fn close<N: Network>(network: &N, attached: Attached, deadline: &Deadline) -> Result<Option<Closed>, AwsError> {
    let group = &attached.group;
    let mut rules = network.ingress_rules(&group.id, deadline).await?;
    if rules.is_empty() {
        tracing::warn!(group = %group.id, interfaces = ?attached.interfaces, "a block list is attached; it has no rules");
        return Ok(None);
    }
    let mut ids: Vec<String> = rules.iter().map(|rule| rule.id.clone()).collect();
    if let Err(error) = network.revoke_rules(&group.id, &ids, deadline).await {
        if !error.has_code(NO_SUCH_RULE) {
            return Err(error);
        }
        // One has been revoked since they were read, and EC2 then revokes none: one by one, what is left goes.
        tracing::warn!(group = %group.id, %error, "the rules are revoked one by one");
        let revoked = join_all(
            ids.iter()
                .map(|id| network.revoke_rules(&group.id, std::slice::from_ref(id), deadline)),
        );
        for (id, revoked) in ids.clone().into_iter().zip(revoked.await) {
            match revoked {
                Err(error) if error.has_code(NO_SUCH_RULE) => rules.retain(|rule| rule.id != id),
                revoked => revoked?,
            }
        }
        ids = rules.iter().map(|rule| rule.id.clone()).collect();
    }
    // The door is closed. What can still fail is only to see it.
    let (left, acls) = futures::join!(
        network.ingress_rules(&group.id, deadline),
        network.network_acls(&group.vpc_id, deadline)
    );
    let is_left = |left: &[Revoked]| left.iter().any(|rule| ids.contains(&rule.id));
    for error in left.as_ref().err().into_iter().chain(acls.as_ref().err()) {
        tracing::warn!(group = %group.id, %error, "what the audit did cannot be verified");
    }
    Ok(Some(Closed {
        rules,
        is_verified: left.is_ok_and(|left| !is_left(&left)),
        network_acls: acls.ok(),
        attached,
    }))
}
