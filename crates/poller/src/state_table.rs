//! The state table in DynamoDB. Partition key `pk` and sort key `sk`, both strings; TTL attribute `expires_at`, in seconds
//! since 1970.
//!
//! | `pk` | `sk` | other attributes |
//! |---|---|---|
//! | `delivered#<UTC day of UpdatedAt, or none>` | `<UpdatedAt of the latest version>#<run>#<n>` | `digests`, `first`, `expires_at` |
//! | `checkpoint#<region>#<filters>` | `incremental`, `sweep`, `backfill#<start>#<end>` | see [`crate::poll::checkpoint`] |
//! | `lease` | `lease` | `holder`, `until`, `expires_at` |
//! | `parked#events` | the event id | see [`crate::delivery::parking::Parked`] |

use std::collections::HashMap;
use std::time::Duration;

use asff::{Digest, EventId};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use aws_support::deadline::OutOfTime;
use aws_support::{AwsError, Clock, Deadline, ErrorKind, call};
use aws_text::Region;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::delivery::ledger::{Day, DeliveredItem, DeliveredItems, ItemPage};
use crate::delivery::parking::{Parked, ParkedEvents};
use crate::poll::checkpoint::{Checkpoint, CheckpointKey, Checkpoints, INCREMENTAL, Kept, SWEEP, Window};
use crate::poll::lease::{LONGEST, Lease, Leases};
use crate::security_hub::Range;

const QUERY: &str = "dynamodb:Query";
const GET: &str = "dynamodb:GetItem";
const PUT: &str = "dynamodb:PutItem";
const DELETE: &str = "dynamodb:DeleteItem";

/// The code of an item that holds what the connector never wrote.
pub const UNREADABLE: &str = "UnreadableItem";

/// The state table.
#[derive(Clone, Debug)]
pub struct StateTable<C> {
    client: Client,
    table: String,
    ttl: Duration,
    clock: C,
}

type Item = HashMap<String, AttributeValue>;

const LEASE: &str = "lease";
const PARKED: &str = "parked#events";
/// A lease that was left behind is deleted some time after its end.
const LEASE_KEPT_SECONDS: i64 = 86_400;

#[derive(Serialize, Deserialize)]
struct WithKey<T> {
    pk: String,
    sk: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize, Deserialize)]
struct BackfillItem {
    window: Window,
}

#[derive(Serialize, Deserialize)]
struct LeaseItem {
    holder: String,
    /// Milliseconds since 1970
    until: i64,
}

/// A refused event. Its body is not kept: it may be larger than an item.
#[derive(Serialize, Deserialize)]
struct ParkedItem {
    region: Region,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finding_id: Option<String>,
    code: String,
    message: String,
    refusals: u32,
    is_parked: bool,
    run: String,
    offered_at: Timestamp,
}

impl<C: Clock> StateTable<C> {
    /// The table of this name; what is of use for a time only is kept for `ttl`.
    #[must_use]
    pub fn new(client: Client, table: String, ttl: Duration, clock: C) -> Self {
        Self {
            client,
            table,
            ttl,
            clock,
        }
    }

    fn expires_at(&self) -> i64 {
        let ttl = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        self.clock.now().as_second().saturating_add(ttl)
    }

    fn unreadable(&self, action: &'static str, pk: &str, sk: &str, problem: &str) -> AwsError {
        AwsError {
            code: Some(UNREADABLE.to_owned()),
            ..AwsError::new(
                action,
                ErrorKind::Rejected,
                format!("the item pk={pk:?} sk={sk:?} of table {} {problem}", self.table),
            )
        }
    }

    fn read<T: DeserializeOwned>(&self, action: &'static str, item: Item) -> Result<T, AwsError> {
        let (pk, sk) = (text(&item, "pk").to_owned(), text(&item, "sk").to_owned());
        serde_dynamo::from_item(item)
            .map_err(|error| self.unreadable(action, &pk, &sk, &format!("cannot be read: {error}")))
    }

    /// Consistent: what counts may have been written the moment before.
    async fn query(
        &self,
        pk: &str,
        from: Option<&str>,
        after: Option<&str>,
        deadline: &Deadline,
    ) -> Result<(Vec<Item>, Option<String>), AwsError> {
        let mut request = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()))
            .set_exclusive_start_key(after.map(|sk| key(pk, sk)));
        request = match from {
            None => request.key_condition_expression("pk = :pk"),
            Some(from) => request
                .key_condition_expression("pk = :pk AND sk >= :from")
                .expression_attribute_values(":from", AttributeValue::S(from.to_owned())),
        };
        let answer = call(QUERY, deadline, request.send()).await?;
        let next = answer.last_evaluated_key.map(|last| text(&last, "sk").to_owned());
        Ok((answer.items.unwrap_or_default(), next))
    }

    async fn put<T: Serialize>(
        &self,
        pk: &str,
        sk: &str,
        expires_at: Option<i64>,
        rest: &T,
        deadline: &Deadline,
    ) -> Result<(), AwsError> {
        let item = self.item(pk, sk, expires_at, rest)?;
        let request = self.client.put_item().table_name(&self.table).set_item(Some(item));
        call(PUT, deadline, request.send()).await.map(|_| ())
    }

    fn item<T: Serialize>(&self, pk: &str, sk: &str, expires_at: Option<i64>, rest: &T) -> Result<Item, AwsError> {
        let item = WithKey {
            pk: pk.to_owned(),
            sk: sk.to_owned(),
            expires_at,
            rest,
        };
        serde_dynamo::to_item(item)
            .map_err(|error| self.unreadable(PUT, pk, sk, &format!("cannot be written: {error}")))
    }

    async fn delete(&self, pk: &str, sk: &str, deadline: &Deadline) -> Result<(), AwsError> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key(pk, sk)));
        call(DELETE, deadline, request.send()).await.map(|_| ())
    }

    fn delivered(&self, item: &Item, day: Day, pk: &str) -> Result<DeliveredItem, AwsError> {
        let sk = text(item, "sk");
        let nonsense = |name: &str| self.unreadable(QUERY, pk, sk, &format!("has no usable {name}"));
        let bytes = match item.get("digests") {
            Some(AttributeValue::B(bytes)) => bytes.as_ref(),
            _ => return Err(nonsense("digests")),
        };
        let (digests, rest) = bytes.as_chunks::<{ size_of::<Digest>() }>();
        if !rest.is_empty() {
            return Err(nonsense("digests"));
        }
        let expires_at = match item.get("expires_at") {
            Some(AttributeValue::N(number)) => number.parse().map_err(|_| nonsense("expires_at"))?,
            _ => return Err(nonsense("expires_at")),
        };
        Ok(DeliveredItem {
            day,
            // Without it, the item may hold any version of the day.
            first: text(item, "first").parse().ok(),
            last: sk.split('#').next().and_then(|time| time.parse().ok()),
            digests: digests.to_vec(),
            expires_at,
        })
    }
}

/// The text of an attribute; empty where there is none.
fn text<'i>(item: &'i Item, name: &str) -> &'i str {
    item.get(name)
        .and_then(|value| value.as_s().ok())
        .map_or("", String::as_str)
}

fn key(pk: &str, sk: &str) -> Item {
    let text = |value: &str| AttributeValue::S(value.to_owned());
    HashMap::from([("pk".to_owned(), text(pk)), ("sk".to_owned(), text(sk))])
}

fn delivered_key(day: Day) -> String {
    format!("delivered#{day}")
}

/// Of one width, so that texts are in order as times are.
fn stamp(updated: Option<Timestamp>) -> String {
    updated.map_or_else(|| "none".to_owned(), |updated| format!("{updated:.3}"))
}

fn checkpoint_key(key: &CheckpointKey) -> String {
    format!("checkpoint#{}#{}", key.region, key.filters)
}

fn backfill_key(range: Range) -> String {
    format!("backfill#{}#{}", range.start, range.end)
}

impl<C: Clock> DeliveredItems for StateTable<C> {
    async fn items(
        &self,
        day: Day,
        from: Option<Timestamp>,
        after: Option<&str>,
        deadline: &Deadline,
    ) -> Result<ItemPage, AwsError> {
        let pk = delivered_key(day);
        let from = from.map(|from| stamp(Some(from)));
        let (items, next) = self.query(&pk, from.as_deref(), after, deadline).await?;
        let items = items.iter().map(|item| self.delivered(item, day, &pk));
        Ok((items.collect::<Result<_, _>>()?, next))
    }

    async fn add(&self, item: &DeliveredItem, run: &str, number: u64, deadline: &Deadline) -> Result<(), AwsError> {
        let mut attributes = key(
            &delivered_key(item.day),
            &format!("{}#{run}#{number}", stamp(item.last)),
        );
        attributes.extend([
            (
                "digests".to_owned(),
                AttributeValue::B(Blob::new(item.digests.concat())),
            ),
            ("expires_at".to_owned(), AttributeValue::N(item.expires_at.to_string())),
        ]);
        if item.first.is_some() {
            attributes.insert("first".to_owned(), AttributeValue::S(stamp(item.first)));
        }
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(attributes));
        call(PUT, deadline, request.send()).await.map(|_| ())
    }
}

impl<C: Clock> ParkedEvents for StateTable<C> {
    async fn parked(&self, most: usize, deadline: &Deadline) -> Result<Vec<Parked>, AwsError> {
        let mut parked = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let (items, next) = self.query(PARKED, None, after.as_deref(), deadline).await?;
            for item in items {
                let WithKey { pk, sk, rest, .. }: WithKey<ParkedItem> = self.read(QUERY, item)?;
                let event_id = EventId::parse(&sk)
                    .ok_or_else(|| self.unreadable(QUERY, &pk, &sk, "has no event id as its sort key"))?;
                parked.push(Parked {
                    event_id,
                    region: rest.region,
                    finding_id: rest.finding_id,
                    code: rest.code,
                    message: rest.message,
                    refusals: rest.refusals,
                    is_parked: rest.is_parked,
                    run: rest.run,
                    offered_at: rest.offered_at,
                });
            }
            after = next;
            if after.is_none() || parked.len() >= most {
                parked.truncate(most);
                return Ok(parked);
            }
        }
    }

    async fn park(&self, parked: &Parked, deadline: &Deadline) -> Result<(), AwsError> {
        let item = ParkedItem {
            region: parked.region.clone(),
            finding_id: parked.finding_id.clone(),
            code: parked.code.clone(),
            message: parked.message.clone(),
            refusals: parked.refusals,
            is_parked: parked.is_parked,
            run: parked.run.clone(),
            offered_at: parked.offered_at,
        };
        let sk = parked.event_id.to_string();
        self.put(PARKED, &sk, Some(self.expires_at()), &item, deadline).await
    }

    async fn unpark(&self, event_id: &EventId, deadline: &Deadline) -> Result<(), AwsError> {
        self.delete(PARKED, &event_id.to_string(), deadline).await
    }
}

impl<C: Clock> Checkpoints for StateTable<C> {
    async fn load(&self, key: &CheckpointKey, deadline: &Deadline) -> Result<Kept, AwsError> {
        let pk = checkpoint_key(key);
        let mut kept = Kept {
            incremental: Ok(None),
            sweep: Ok(None),
        };
        let mut after: Option<String> = None;
        loop {
            let (items, next) = self.query(&pk, None, after.as_deref(), deadline).await?;
            for item in items {
                match text(&item, "sk") {
                    INCREMENTAL => kept.incremental = self.read(QUERY, item).map(|item: WithKey<_>| Some(item.rest)),
                    SWEEP => kept.sweep = self.read(QUERY, item).map(|item: WithKey<_>| Some(item.rest)),
                    _ => {}
                }
            }
            after = next;
            if after.is_none() {
                return Ok(kept);
            }
        }
    }

    async fn backfill(
        &self,
        of: &CheckpointKey,
        range: Range,
        deadline: &Deadline,
    ) -> Result<Option<Window>, AwsError> {
        let (pk, sk) = (checkpoint_key(of), backfill_key(range));
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(&pk, &sk)))
            .consistent_read(true);
        let Some(item) = call(GET, deadline, request.send()).await?.item else {
            return Ok(None);
        };
        let window = self.read::<WithKey<BackfillItem>>(GET, item)?.rest.window;
        match window.check() {
            Ok(()) => Ok(Some(window)),
            Err(problem) => Err(self.unreadable(GET, &pk, &sk, &problem)),
        }
    }

    async fn save(&self, key: &CheckpointKey, checkpoint: &Checkpoint, deadline: &Deadline) -> Result<(), AwsError> {
        let pk = checkpoint_key(key);
        match checkpoint {
            Checkpoint::Incremental(state) => self.put(&pk, INCREMENTAL, None, state, deadline).await,
            Checkpoint::Sweep(state) => self.put(&pk, SWEEP, None, state, deadline).await,
            Checkpoint::Backfill(range, window) => {
                let item = BackfillItem { window: window.clone() };
                self.put(&pk, &backfill_key(*range), Some(self.expires_at()), &item, deadline)
                    .await
            }
        }
    }

    async fn forget_backfill(&self, key: &CheckpointKey, range: Range, deadline: &Deadline) -> Result<(), AwsError> {
        self.delete(&checkpoint_key(key), &backfill_key(range), deadline).await
    }

    fn nonsense(&self, key: &CheckpointKey, sort_key: &str, problem: &str) -> AwsError {
        self.unreadable(QUERY, &checkpoint_key(key), sort_key, problem)
    }
}

impl<C: Clock> Leases for StateTable<C> {
    async fn take(
        &self,
        lease: &Lease,
        now: Timestamp,
        deadline: &Deadline,
    ) -> Result<Result<(), Timestamp>, AwsError> {
        let milliseconds = |instant: Timestamp| AttributeValue::N(instant.as_millisecond().to_string());
        let item = LeaseItem {
            holder: lease.holder.clone(),
            until: lease.until.as_millisecond(),
        };
        let expires_at = lease.until.as_second() + LEASE_KEPT_SECONDS;
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(self.item(LEASE, LEASE, Some(expires_at), &item)?))
            // A retry of the SDK finds its own lease where the first answer was lost.
            .condition_expression("attribute_not_exists(pk) OR #until < :now OR #until > :latest OR holder = :holder")
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":now", milliseconds(now))
            .expression_attribute_values(":latest", milliseconds(now.saturating_add(LONGEST).unwrap_or(now)))
            .expression_attribute_values(":holder", AttributeValue::S(lease.holder.clone()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let sent = Box::pin(deadline.bound(request.send())).await;
        match sent.map_err(|OutOfTime| AwsError::out_of_time(PUT))? {
            Ok(_) => Ok(Ok(())),
            Err(SdkError::ServiceError(error)) if error.err().is_conditional_check_failed_exception() => {
                let held = match error.into_err() {
                    PutItemError::ConditionalCheckFailedException(failed) => failed.item,
                    _ => None,
                };
                let held: WithKey<LeaseItem> = self.read(PUT, held.unwrap_or_default())?;
                let until = Timestamp::from_millisecond(held.rest.until);
                until
                    .map(Err)
                    .map_err(|_| self.unreadable(PUT, LEASE, LEASE, "has no time in until"))
            }
            Err(error) => Err(AwsError::from_sdk(PUT, &error)),
        }
    }

    async fn release(&self, lease: &Lease, deadline: &Deadline) -> Result<(), AwsError> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key(LEASE, LEASE)))
            .condition_expression("holder = :holder")
            .expression_attribute_values(":holder", AttributeValue::S(lease.holder.clone()));
        match call(DELETE, deadline, request.send()).await {
            Err(error) if !error.has_code("ConditionalCheckFailedException") => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
