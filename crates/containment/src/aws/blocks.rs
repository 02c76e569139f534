//! The blocks table in DynamoDB.
//!
//! | `pk` | `sk` | |
//! |---|---|---|
//! | `block#<region>#<rule>` | the security group | a [`Block`]; a lifted one expires after a day |
//! | `lease#<region>#<group>` | `lease` | who works on a block list, and until when |
//! | `fault#<region>` | the fault | a [`KnownFault`] of the audit |
//!
//! Writes are conditional: a lease is taken only if no other holds it, and a block is written only over the revision that
//! was read.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use actions::block::fault::{Fault, KnownFault};
use actions::block::{REMEMBERED_FOR, State};
use actions::{Block, IngressRule};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};
use aws_support::deadline::OutOfTime;
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::Region;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ports::{Begun, Blocks, Contents, Lease};

/// The blocks table in DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoBlocks {
    client: Client,
    table: String,
}

const QUERY: &str = "dynamodb:Query";
const SCAN: &str = "dynamodb:Scan";
/// The IAM action of `TransactWriteItems` is that of each write in it.
const PUT: &str = "dynamodb:PutItem";
const DELETE: &str = "dynamodb:DeleteItem";

const CANCELED: &str = "TransactionCanceledException";
/// Attempts at a transaction that others cancel, and the first pause between them; it doubles.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

type Item = HashMap<String, AttributeValue>;

/// A block with its keys.
#[derive(Serialize, Deserialize)]
struct BlockItem {
    pk: String,
    sk: String,
    /// Seconds since 1970, when DynamoDB may delete it
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at: Option<i64>,
    block: Block,
    /// The block's, where conditions find it
    revision: u64,
}

#[derive(Serialize, Deserialize)]
struct LeaseItem {
    pk: String,
    sk: String,
    expires_at: i64,
    holder: String,
    /// Milliseconds since 1970
    until: i64,
}

#[derive(Serialize, Deserialize)]
struct FaultItem {
    pk: String,
    sk: String,
    fault: KnownFault,
}

fn block_key(region: &Region, rule: &IngressRule) -> String {
    format!("block#{region}#{rule}")
}

fn lease_key(lease: &Lease) -> (String, String) {
    (format!("lease#{}#{}", lease.region, lease.group), "lease".to_owned())
}

fn fault_key(fault: &Fault) -> (String, String) {
    let kind = format!("{:?}", fault.kind);
    let rule = fault.rule.map(|rule| format!("#{rule}")).unwrap_or_default();
    (
        format!("fault#{}", fault.region),
        format!("{kind}#{}{rule}", fault.group),
    )
}

/// A lease that was left behind is deleted some time after its end.
const LEASE_KEPT_SECONDS: i64 = 86_400;

impl DynamoBlocks {
    /// The table of this name.
    #[must_use]
    pub fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    fn item<T: Serialize>(action: &'static str, item: &T) -> Result<Item, AwsError> {
        serde_dynamo::to_item(item).map_err(|error| unreadable(action, &error.to_string()))
    }

    /// Writes a block over the revision it has, which it then has one more of.
    fn put_block(&self, block: &Block) -> Result<Put, AwsError> {
        let mut written = block.clone();
        written.revision += 1;
        let expires_at = match &block.state {
            State::Lifted { at, .. } => Some((*at + REMEMBERED_FOR).as_second()),
            State::Pending | State::InForce | State::Lifting { .. } => None,
        };
        let item = BlockItem {
            pk: block_key(&block.region, &block.rule),
            sk: block.group.to_string(),
            expires_at,
            revision: written.revision,
            block: written,
        };
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(Self::item(PUT, &item)?))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let put = if block.revision == 0 {
            put.condition_expression("attribute_not_exists(pk)")
        } else {
            put.condition_expression("revision = :revision")
                .expression_attribute_values(":revision", AttributeValue::N(block.revision.to_string()))
        };
        put.build().map_err(|error| unreadable(PUT, &error.to_string()))
    }

    fn put_lease(&self, lease: &Lease, now: Timestamp) -> Result<Put, AwsError> {
        let (pk, sk) = lease_key(lease);
        let item = LeaseItem {
            pk,
            sk,
            expires_at: lease.until.as_second() + LEASE_KEPT_SECONDS,
            holder: lease.holder.clone(),
            until: lease.until.as_millisecond(),
        };
        Put::builder()
            .table_name(&self.table)
            .set_item(Some(Self::item(PUT, &item)?))
            .condition_expression("attribute_not_exists(pk) OR #until < :now")
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":now", AttributeValue::N(now.as_millisecond().to_string()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(|error| unreadable(PUT, &error.to_string()))
    }

    fn delete_lease(&self, lease: &Lease) -> Result<Delete, AwsError> {
        let (pk, sk) = lease_key(lease);
        Delete::builder()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S(sk))
            .condition_expression("attribute_not_exists(pk) OR holder = :holder")
            .expression_attribute_values(":holder", AttributeValue::S(lease.holder.clone()))
            .build()
            .map_err(|error| unreadable(DELETE, &error.to_string()))
    }

    /// Writes all of it or nothing. The reasons are in the order of the writes. Another transaction under way with the
    /// same items cancels this one: it is tried again a few times.
    async fn transact(
        &self,
        writes: Vec<TransactWriteItem>,
        deadline: &Deadline,
    ) -> Result<Result<(), Vec<CancellationReason>>, AwsError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.transact_once(writes.clone(), deadline).await {
                Err(error) if error.has_code(CANCELED) => {
                    // Out of time is found by the next attempt.
                    let _ = deadline.bound(tokio::time::sleep(pause)).await;
                    pause *= 2;
                }
                outcome => return outcome,
            }
        }
        self.transact_once(writes, deadline).await
    }

    async fn transact_once(
        &self,
        writes: Vec<TransactWriteItem>,
        deadline: &Deadline,
    ) -> Result<Result<(), Vec<CancellationReason>>, AwsError> {
        let request = self.client.transact_write_items().set_transact_items(Some(writes));
        let sent = Box::pin(deadline.bound(request.send())).await;
        let Err(error) = sent.map_err(|OutOfTime| AwsError::out_of_time(PUT))? else {
            return Ok(Ok(()));
        };
        let cancelled = error.as_service_error().and_then(|error| match error {
            TransactWriteItemsError::TransactionCanceledException(cancelled) => Some(cancelled.cancellation_reasons()),
            _ => None,
        });
        match cancelled {
            Some(reasons) if reasons.iter().all(is_condition_or_none) => Ok(Err(reasons.to_vec())),
            // Another write was under way at the same time, or there was not enough capacity: that passes.
            Some(reasons) => {
                let codes: Vec<&str> = reasons.iter().filter_map(CancellationReason::code).collect();
                Err(AwsError {
                    code: Some(CANCELED.to_owned()),
                    ..AwsError::new(PUT, ErrorKind::Throttled, codes.join(", "))
                })
            }
            None => Err(AwsError::from_sdk(PUT, &error)),
        }
    }
}

fn is_condition_or_none(reason: &CancellationReason) -> bool {
    matches!(reason.code(), None | Some("None" | "ConditionalCheckFailed"))
}

fn has_failed(reason: Option<&CancellationReason>) -> Option<&CancellationReason> {
    reason.filter(|reason| reason.code() == Some("ConditionalCheckFailed"))
}

/// What a reason says of the item that stood in the way.
fn in_the_way<T: DeserializeOwned>(reason: &CancellationReason) -> Option<T> {
    reason
        .item()
        .and_then(|item| serde_dynamo::from_item(item.clone()).ok())
}

/// Not a retry, but someone who corrects the item can help.
fn unreadable(action: &'static str, message: &str) -> AwsError {
    AwsError::new(action, ErrorKind::Rejected, message.to_owned())
}

fn read<T: DeserializeOwned>(action: &'static str, item: &Item) -> Result<T, AwsError> {
    serde_dynamo::from_item(item.clone()).map_err(|error| {
        let text = |name| {
            item.get(name)
                .and_then(|value| value.as_s().ok())
                .map_or("?", String::as_str)
        };
        let message = format!(
            "the item pk={:?} sk={:?} cannot be read: {error}",
            text("pk"),
            text("sk")
        );
        unreadable(action, &message)
    })
}

fn write(put: Put) -> TransactWriteItem {
    TransactWriteItem::builder().put(put).build()
}

impl Blocks for DynamoBlocks {
    async fn of_rule(&self, region: &Region, rule: &IngressRule, deadline: &Deadline) -> Result<Vec<Block>, AwsError> {
        let pages = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", AttributeValue::S(block_key(region, rule)))
            .into_paginator()
            .items()
            .send();
        let items = call(QUERY, deadline, pages.collect::<Result<Vec<_>, _>>()).await?;
        items
            .iter()
            .map(|item| read::<BlockItem>(QUERY, item).map(|item| item.block))
            .collect()
    }

    async fn all(&self, deadline: &Deadline) -> Result<Contents, AwsError> {
        let pages = self
            .client
            .scan()
            .table_name(&self.table)
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        let mut contents = Contents::default();
        for item in call(SCAN, deadline, pages.collect::<Result<Vec<_>, _>>()).await? {
            let kind = item
                .get("pk")
                .and_then(|value| value.as_s().ok())
                .and_then(|pk| pk.split_once('#'));
            match kind {
                Some(("block", _)) => contents.blocks.push(read::<BlockItem>(SCAN, &item)?.block),
                Some(("fault", _)) => contents.faults.push(read::<FaultItem>(SCAN, &item)?.fault),
                _ => {}
            }
        }
        Ok(contents)
    }

    async fn begin(
        &self,
        lease: &Lease,
        block: &mut Block,
        now: Timestamp,
        deadline: &Deadline,
    ) -> Result<Begun, AwsError> {
        let writes = vec![write(self.put_lease(lease, now)?), write(self.put_block(block)?)];
        let Err(reasons) = self.transact(writes, deadline).await? else {
            block.revision += 1;
            return Ok(Begun::Yes);
        };
        match has_failed(reasons.first()).and_then(in_the_way::<LeaseItem>) {
            // The answer to an earlier attempt was lost, and both were written; or the lease could not be released, and
            // the block is still to be written.
            Some(held) if held.holder == lease.holder => {
                if saved(Err(reasons), 1, block).is_err() {
                    self.save(block, deadline).await?;
                }
                Ok(Begun::Yes)
            }
            Some(held) => Ok(Begun::Busy(
                Timestamp::from_millisecond(held.until).unwrap_or(lease.until),
            )),
            None if has_failed(reasons.first()).is_some() => Ok(Begun::Busy(now)),
            None => Ok(Begun::Changed),
        }
    }

    async fn save(&self, block: &mut Block, deadline: &Deadline) -> Result<(), AwsError> {
        let written = self.transact(vec![write(self.put_block(block)?)], deadline).await?;
        saved(written, 0, block)
    }

    async fn finish(&self, lease: &Lease, block: &mut Block, deadline: &Deadline) -> Result<(), AwsError> {
        let release = TransactWriteItem::builder().delete(self.delete_lease(lease)?).build();
        let writes = vec![release, write(self.put_block(block)?)];
        let written = self.transact(writes, deadline).await?;
        saved(written, 1, block)
    }

    async fn put_fault(&self, fault: &KnownFault, deadline: &Deadline) -> Result<(), AwsError> {
        let (pk, sk) = fault_key(&fault.fault);
        let item = FaultItem {
            pk,
            sk,
            fault: fault.clone(),
        };
        let item = Self::item(PUT, &item)?;
        let request = self.client.put_item().table_name(&self.table).set_item(Some(item));
        call(PUT, deadline, request.send()).await.map(|_| ())
    }

    async fn delete_fault(&self, fault: &KnownFault, deadline: &Deadline) -> Result<(), AwsError> {
        let (pk, sk) = fault_key(&fault.fault);
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S(sk));
        call(DELETE, deadline, request.send()).await.map(|_| ())
    }
}

/// Under the lease nobody else writes: what stands in the way is what an earlier attempt wrote, whose answer was lost; or
/// the lease has ended, and another has gone on.
fn saved(written: Result<(), Vec<CancellationReason>>, position: usize, block: &mut Block) -> Result<(), AwsError> {
    if let Err(reasons) = written {
        let wrote = has_failed(reasons.get(position)).and_then(in_the_way::<BlockItem>);
        let mut own = block.clone();
        own.revision += 1;
        if wrote.is_none_or(|wrote| wrote.block != own) {
            let message = format!(
                "the lease of {} has ended, and another has changed its block",
                block.group
            );
            return Err(AwsError::new(PUT, ErrorKind::Throttled, message));
        }
    }
    block.revision += 1;
    Ok(())
}
