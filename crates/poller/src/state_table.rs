//! The delivery ledger in DynamoDB. Partition key `pk`, a string; TTL attribute `expires_at`, in seconds since 1970.
//!
//! | `pk` | other attributes |
//! |---|---|
//! | `event#<event_id>` | `expires_at` |
//! | `reading#…` | `revision`, `writer`, `through`, `open`, `start`, `end`, `position`, `unclean`, `unordered`, `token`, `token_start`, `token_end`; `expires_at` where the reading does not last |

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes, PutRequest, WriteRequest};
use aws_support::{AwsError, Clock, Deadline, ErrorKind, call};
use futures::future::try_join_all;
use jiff::Timestamp;

use crate::ledger::{DeliveryLedger, Keeping, Kept, ReadingKey};
use crate::query::Range;
use crate::reading::{NextPage, Reading, Window};

/// IAM action of the calls.
pub const BATCH_GET: &str = "dynamodb:BatchGetItem";
/// IAM action of the calls.
pub const BATCH_WRITE: &str = "dynamodb:BatchWriteItem";
/// IAM action of the calls.
pub const GET: &str = "dynamodb:GetItem";
/// IAM action of the calls.
pub const PUT: &str = "dynamodb:PutItem";

/// The most keys of one `BatchGetItem` (DynamoDB API reference).
const MAX_GET: usize = 100;
/// The most items of one `BatchWriteItem` (DynamoDB API reference).
const MAX_WRITE: usize = 25;
/// How often what DynamoDB left unprocessed is asked for again.
const MAX_ROUNDS: u32 = 8;
/// Wait before the second round; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The ledger in a DynamoDB table.
#[derive(Clone, Debug)]
pub struct DynamoLedger<C> {
    client: Client,
    table: String,
    ttl: Duration,
    clock: C,
}

type Item = HashMap<String, AttributeValue>;

impl<C: Clock> DynamoLedger<C> {
    /// The ledger in `table`; deliveries are remembered for `ttl`.
    #[must_use]
    pub fn new(client: Client, table: String, ttl: Duration, clock: C) -> Self {
        Self {
            client,
            table,
            ttl,
            clock,
        }
    }

    fn expires_at(&self) -> AttributeValue {
        let now = u64::try_from(self.clock.now().as_second()).unwrap_or_default();
        AttributeValue::N((now + self.ttl.as_secs()).to_string())
    }

    async fn read(&self, ids: &[&str], deadline: &Deadline) -> Result<HashSet<String>, AwsError> {
        let mut keys: Vec<Item> = ids.iter().map(|id| key(&event_key(id))).collect();
        let mut found = HashSet::new();
        let mut pause = Pause::new(BATCH_GET);
        while !keys.is_empty() {
            // A delivery may have been recorded the moment before, by the run before.
            let wanted = KeysAndAttributes::builder()
                .set_keys(Some(keys))
                .consistent_read(true)
                .projection_expression("pk")
                .build()
                .map_err(|error| malformed(BATCH_GET, &error))?;
            let request = self.client.batch_get_item().request_items(&self.table, wanted);
            let answer = call(BATCH_GET, deadline, request.send()).await?;
            let items = answer
                .responses
                .unwrap_or_default()
                .remove(&self.table)
                .unwrap_or_default();
            found.extend(items.iter().filter_map(|item| {
                let pk = item.get("pk")?.as_s().ok()?;
                pk.strip_prefix(EVENT).map(str::to_owned)
            }));
            keys = answer
                .unprocessed_keys
                .unwrap_or_default()
                .remove(&self.table)
                .map(|unprocessed| unprocessed.keys)
                .unwrap_or_default();
            if !keys.is_empty() {
                pause.wait(deadline).await?;
            }
        }
        Ok(found)
    }

    async fn write(&self, ids: &[String], deadline: &Deadline) -> Result<(), AwsError> {
        let expires_at = self.expires_at();
        let mut requests = ids
            .iter()
            .map(|id| {
                let mut item = key(&event_key(id));
                item.insert("expires_at".to_owned(), expires_at.clone());
                let put = PutRequest::builder().set_item(Some(item)).build()?;
                Ok(WriteRequest::builder().put_request(put).build())
            })
            .collect::<Result<Vec<_>, BuildError>>()
            .map_err(|error| malformed(BATCH_WRITE, &error))?;
        let mut pause = Pause::new(BATCH_WRITE);
        while !requests.is_empty() {
            let request = self.client.batch_write_item().request_items(&self.table, requests);
            let answer = call(BATCH_WRITE, deadline, request.send()).await?;
            requests = answer
                .unprocessed_items
                .unwrap_or_default()
                .remove(&self.table)
                .unwrap_or_default();
            if !requests.is_empty() {
                pause.wait(deadline).await?;
            }
        }
        Ok(())
    }
}

impl<C: Clock> DeliveryLedger for DynamoLedger<C> {
    async fn delivered(&self, event_ids: &[&str], deadline: &Deadline) -> Result<HashSet<String>, AwsError> {
        let chunks = event_ids.chunks(MAX_GET).map(|ids| self.read(ids, deadline));
        Ok(try_join_all(chunks).await?.into_iter().flatten().collect())
    }

    async fn record(&self, event_ids: &[String], deadline: &Deadline) -> Result<(), AwsError> {
        let chunks = event_ids.chunks(MAX_WRITE).map(|ids| self.write(ids, deadline));
        // All are tried, whatever becomes of one: what is not recorded would be sent again.
        futures::future::join_all(chunks).await.into_iter().collect()
    }

    async fn load(&self, reading: &ReadingKey, deadline: &Deadline) -> Result<Option<Kept>, AwsError> {
        let request = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(&reading.text)))
            .consistent_read(true);
        match call(GET, deadline, request.send()).await?.item {
            None => Ok(None),
            Some(item) => from_item(&item).map(Some).map_err(|problem| AwsError {
                kind: ErrorKind::Rejected,
                code: Some(NONSENSE.to_owned()),
                message: format!("the item {:?} of table {} {problem}", reading.text, self.table),
                ..AwsError::out_of_time(GET)
            }),
        }
    }

    async fn keep(
        &self,
        reading: &ReadingKey,
        kept: &Kept,
        revision: Option<u64>,
        deadline: &Deadline,
    ) -> Result<Keeping, AwsError> {
        let mut item = to_item(&reading.text, kept);
        if !reading.lasting {
            item.insert("expires_at".to_owned(), self.expires_at());
        }
        let request = self.client.put_item().table_name(&self.table).set_item(Some(item));
        let request = match revision {
            None => request.condition_expression("attribute_not_exists(pk)"),
            Some(revision) => request
                .condition_expression("revision = :revision")
                .expression_attribute_values(":revision", AttributeValue::N(revision.to_string())),
        };
        match call(PUT, deadline, request.send()).await {
            Ok(_) => Ok(Keeping::Kept),
            Err(error) if error.has_code("ConditionalCheckFailedException") => Ok(Keeping::Conflict),
            Err(error) => Err(error),
        }
    }
}

/// The code of an item that holds what the connector never wrote.
pub const NONSENSE: &str = "UnreadableItem";

const EVENT: &str = "event#";

fn event_key(id: &str) -> String {
    format!("{EVENT}{id}")
}

fn key(pk: &str) -> Item {
    HashMap::from([("pk".to_owned(), AttributeValue::S(pk.to_owned()))])
}

fn malformed(action: &'static str, error: &BuildError) -> AwsError {
    AwsError::new(action, ErrorKind::Rejected, error.to_string())
}

/// Waits between rounds, and ends them.
struct Pause {
    action: &'static str,
    round: u32,
    length: Duration,
}

impl Pause {
    fn new(action: &'static str) -> Self {
        Self {
            action,
            round: 1,
            length: FIRST_PAUSE,
        }
    }

    async fn wait(&mut self, deadline: &Deadline) -> Result<(), AwsError> {
        if self.round == MAX_ROUNDS {
            return Err(AwsError::new(
                self.action,
                ErrorKind::Throttled,
                format!("DynamoDB left some of it unprocessed {MAX_ROUNDS} times"),
            ));
        }
        deadline
            .bound(tokio::time::sleep(self.length))
            .await
            .map_err(|_| AwsError::out_of_time(self.action))?;
        self.round += 1;
        self.length *= 2;
        Ok(())
    }
}

fn to_item(pk: &str, kept: &Kept) -> Item {
    let mut item = key(pk);
    let mut put = |name: &str, value| item.insert(name.to_owned(), value);
    let time = |instant: Timestamp| AttributeValue::S(instant.to_string());
    put("revision", AttributeValue::N(kept.revision.to_string()));
    put("writer", AttributeValue::S(kept.writer.clone()));
    if let Some(through) = kept.reading.through {
        put("through", time(through));
    }
    if let Some(window) = &kept.reading.open {
        put("open", AttributeValue::Bool(true));
        if let Some(range) = window.range {
            put("start", time(range.start));
            put("end", time(range.end));
        }
        if let Some(position) = window.position {
            put("position", time(position));
        }
        for (name, holds) in [("unclean", window.unclean), ("unordered", window.unordered)] {
            if holds {
                put(name, AttributeValue::Bool(true));
            }
        }
        if let Some(page) = &window.page {
            put("token", AttributeValue::S(page.token.clone()));
            if let Some(range) = page.range {
                put("token_start", time(range.start));
                put("token_end", time(range.end));
            }
        }
    }
    item
}

/// Strict: what makes no sense must not be taken for a beginning, or for an end.
fn from_item(item: &Item) -> Result<Kept, String> {
    let text = |name: &str| match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("has no string in {name}")),
    };
    let time = |name: &str| match text(name)? {
        None => Ok(None),
        Some(text) => text
            .parse::<Timestamp>()
            .map(Some)
            .map_err(|_| format!("has no time in {name} but {text:?}")),
    };
    let range = |start: &str, end: &str| match (time(start)?, time(end)?) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start <= end => Ok(Some(Range { start, end })),
        _ => Err(format!("has no range in {start} and {end}")),
    };
    let revision = match item.get("revision") {
        Some(AttributeValue::N(number)) => number.parse().map_err(|_| "has no whole number in revision".to_owned()),
        _ => Err("has no number in revision".to_owned()),
    }?;
    let flag = |name: &str| match item.get(name) {
        None => Ok(false),
        Some(AttributeValue::Bool(true)) => Ok(true),
        Some(_) => Err(format!("has something else than true in {name}")),
    };
    let open = if flag("open")? {
        let page = match text("token")? {
            None => None,
            Some(token) => Some(NextPage {
                token,
                range: range("token_start", "token_end")?,
            }),
        };
        let window = Window {
            range: range("start", "end")?,
            position: time("position")?,
            page,
            unclean: flag("unclean")?,
            unordered: flag("unordered")?,
        };
        let is_outside = |range: Range| window.position.is_some_and(|at| at < range.start || at > range.end);
        if window.range.is_some_and(is_outside) {
            return Err("has a position outside of start and end".to_owned());
        }
        Some(window)
    } else {
        None
    };
    Ok(Kept {
        reading: Reading {
            through: time("through")?,
            open,
        },
        revision,
        writer: text("writer")?.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemOutput;
    use aws_sdk_dynamodb::operation::batch_write_item::BatchWriteItemOutput;
    use aws_sdk_dynamodb::operation::get_item::GetItemOutput;
    use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemOutput};
    use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
    use aws_smithy_mocks::{MockResponseInterceptor, Rule, RuleMode, create_mock_http_client, mock};

    use super::*;

    #[derive(Clone, Debug)]
    struct At;

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::constant(1_000_000, 0)
        }
    }

    fn ledger(rules: &[&Rule]) -> DynamoLedger<At> {
        let interceptor = rules.iter().fold(
            MockResponseInterceptor::new().rule_mode(RuleMode::MatchAny),
            |i, rule| i.with_rule(rule),
        );
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .http_client(create_mock_http_client())
            .interceptor(interceptor)
            .build();
        DynamoLedger::new(
            Client::from_conf(config),
            "state".to_owned(),
            Duration::from_mins(1),
            At,
        )
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_mins(1))
    }

    fn lasting() -> ReadingKey {
        ReadingKey {
            text: "reading#r".to_owned(),
            lasting: true,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::constant(second, 500_000_000)
    }

    fn kept(reading: Reading) -> Kept {
        Kept {
            reading,
            revision: 7,
            writer: "run".to_owned(),
        }
    }

    fn readings() -> Vec<Reading> {
        let range = Some(Range {
            start: at(1),
            end: at(9),
        });
        let page = Some(NextPage {
            token: "t".to_owned(),
            range,
        });
        vec![
            Reading::default(),
            Reading {
                through: Some(at(5)),
                open: Some(Window {
                    range,
                    position: Some(at(3)),
                    page: page.clone(),
                    unclean: true,
                    unordered: false,
                }),
            },
            Reading {
                through: None,
                open: Some(Window::new(None)),
            },
            Reading {
                through: None,
                open: Some(Window {
                    page: Some(NextPage {
                        token: "t".to_owned(),
                        range: None,
                    }),
                    unordered: true,
                    ..Window::new(None)
                }),
            },
        ]
    }

    #[test]
    fn a_reading_is_read_as_it_was_kept() {
        for reading in readings() {
            let kept = kept(reading);
            assert_eq!(from_item(&to_item("reading#r", &kept)), Ok(kept));
        }
    }

    #[tokio::test]
    async fn an_item_that_makes_no_sense_is_an_error_that_names_it() {
        let good = to_item("reading#r", &kept(readings().remove(1)));
        for (name, value) in [
            ("through", AttributeValue::S("yesterday".to_owned())),
            ("through", AttributeValue::N("5".to_owned())),
            ("revision", AttributeValue::S("7".to_owned())),
            ("open", AttributeValue::S("yes".to_owned())),
            ("end", AttributeValue::S("1960-01-01T00:00:00Z".to_owned())),
            ("position", AttributeValue::Bool(true)),
            ("position", AttributeValue::S("2026-01-01T00:00:00Z".to_owned())),
            ("unclean", AttributeValue::S("true".to_owned())),
            ("token", AttributeValue::N("1".to_owned())),
            ("token_start", AttributeValue::S(String::new())),
        ] {
            let mut item = good.clone();
            item.insert(name.to_owned(), value);
            let rule = mock!(Client::get_item)
                .match_requests(|r| r.consistent_read() == Some(true) && r.table_name() == Some("state"))
                .then_output(move || GetItemOutput::builder().set_item(Some(item.clone())).build());
            let error = ledger(&[&rule]).load(&lasting(), &deadline()).await.unwrap_err();
            assert!(error.has_code(NONSENSE));
            assert!(error.message.contains("\"reading#r\" of table state"), "{error}");
            assert!(!error.is_retryable());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_left_unprocessed_are_asked_for_again() {
        let ids: Vec<String> = (0..3).map(|n| n.to_string()).collect();
        let keys = |r: &aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemInput| {
            r.request_items().unwrap()["state"].keys().len()
        };
        let first = mock!(Client::batch_get_item)
            .match_requests(move |r| keys(r) == 3)
            .then_output(|| {
                let left = KeysAndAttributes::builder().keys(key("event#2")).build().unwrap();
                BatchGetItemOutput::builder()
                    .responses("state", vec![key("event#0")])
                    .unprocessed_keys("state", left)
                    .build()
            });
        let second = mock!(Client::batch_get_item)
            .match_requests(move |r| keys(r) == 1)
            .then_output(|| {
                BatchGetItemOutput::builder()
                    .responses("state", vec![key("event#2")])
                    .build()
            });
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let found = ledger(&[&first, &second]).delivered(&ids, &deadline()).await.unwrap();
        assert_eq!(found, HashSet::from(["0".to_owned(), "2".to_owned()]));
    }

    #[tokio::test(start_paused = true)]
    async fn items_left_unprocessed_are_written_again_and_not_without_end() {
        let left = |count: usize| {
            let put = PutRequest::builder().set_item(Some(key("event#1"))).build().unwrap();
            vec![WriteRequest::builder().put_request(put).build(); count]
        };
        let size = |r: &aws_sdk_dynamodb::operation::batch_write_item::BatchWriteItemInput| {
            r.request_items().unwrap()["state"].len()
        };
        let whole = mock!(Client::batch_write_item)
            .match_requests(move |r| size(r) == 25)
            .then_output(move || {
                BatchWriteItemOutput::builder()
                    .unprocessed_items("state", left(2))
                    .build()
            });
        let rest = mock!(Client::batch_write_item)
            .match_requests(move |r| size(r) == 2 || size(r) == 1)
            .then_output(|| BatchWriteItemOutput::builder().build());
        let ids: Vec<String> = (0..26).map(|n| n.to_string()).collect();
        ledger(&[&whole, &rest]).record(&ids, &deadline()).await.unwrap();
        assert_eq!((whole.num_calls(), rest.num_calls()), (1, 2));

        let never = mock!(Client::batch_write_item).then_output(move || {
            BatchWriteItemOutput::builder()
                .unprocessed_items("state", left(1))
                .build()
        });
        let error = ledger(&[&never]).record(&ids[..1], &deadline()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Throttled);
    }

    #[tokio::test]
    async fn a_reading_is_kept_only_over_the_one_that_was_read() {
        let fresh = mock!(Client::put_item)
            .match_requests(|r| {
                r.condition_expression() == Some("attribute_not_exists(pk)")
                    && !r.item().unwrap().contains_key("expires_at")
            })
            .then_output(|| PutItemOutput::builder().build());
        let kept = kept(readings().remove(1));
        let keeping = ledger(&[&fresh]).keep(&lasting(), &kept, None, &deadline()).await;
        assert_eq!(keeping.unwrap(), Keeping::Kept);

        let later = mock!(Client::put_item)
            .match_requests(|r| {
                r.condition_expression() == Some("revision = :revision")
                    && r.expression_attribute_values().unwrap()[":revision"] == AttributeValue::N("6".to_owned())
                    && r.item().unwrap()["expires_at"] == AttributeValue::N("1000060".to_owned())
            })
            .then_error(|| {
                PutItemError::ConditionalCheckFailedException(
                    ConditionalCheckFailedException::builder()
                        .meta(
                            aws_sdk_dynamodb::error::ErrorMetadata::builder()
                                .code("ConditionalCheckFailedException")
                                .build(),
                        )
                        .build(),
                )
            });
        let passing = ReadingKey {
            lasting: false,
            ..lasting()
        };
        let keeping = ledger(&[&later]).keep(&passing, &kept, Some(6), &deadline()).await;
        assert_eq!(keeping.unwrap(), Keeping::Conflict);
    }
}
