use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials};
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemError, DeleteItemOutput};
use aws_sdk_dynamodb::operation::get_item::GetItemOutput;
use aws_sdk_dynamodb::operation::put_item::PutItemOutput;
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_smithy_mocks::{MockResponseInterceptor, Rule, RuleMode, create_mock_http_client, mock};
use jiff::SignedDuration;

use super::*;
use crate::poll::checkpoint::{Incremental, Pass, Sweep};
use crate::security_hub::Filters;

const NOW: Timestamp = Timestamp::constant(1_000_000, 0);

#[derive(Clone, Debug)]
struct At;

impl Clock for At {
    fn now(&self) -> Timestamp {
        NOW
    }
}

fn table(rules: &[&Rule]) -> StateTable<At> {
    let interceptor = rules.iter().fold(
        MockResponseInterceptor::new().rule_mode(RuleMode::MatchAny),
        |i, rule| i.with_rule(rule),
    );
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(aws_sdk_dynamodb::config::Region::new("us-east-1"))
        .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
        .http_client(create_mock_http_client())
        .interceptor(interceptor)
        .build();
    StateTable::new(
        Client::from_conf(config),
        "state".to_owned(),
        Duration::from_mins(1),
        At,
    )
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

type Items = Arc<Mutex<Vec<Item>>>;

/// Takes what is put.
fn puts(items: &Items) -> Rule {
    let items = Arc::clone(items);
    mock!(Client::put_item)
        .match_requests(move |request| {
            assert_eq!(request.table_name(), Some("state"));
            items.lock().unwrap().push(request.item().unwrap().clone());
            true
        })
        .then_output(|| PutItemOutput::builder().build())
}

/// Gives it to every query, which has to be a consistent one.
fn queries(items: &Items) -> Rule {
    let items = Arc::clone(items);
    mock!(Client::query)
        .match_requests(|request| request.consistent_read() == Some(true))
        .then_output(move || {
            QueryOutput::builder()
                .set_items(Some(items.lock().unwrap().clone()))
                .build()
        })
}

fn key_of(filters: &Filters) -> CheckpointKey {
    CheckpointKey {
        region: "ap-southeast-1".parse().unwrap(),
        filters: filters.key(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::constant(second, 123_000_000)
}

fn full_window() -> Window {
    Window {
        position: Some(at(3)),
        split_end: Some(at(8)),
        instant: Some(at(3)),
        token: Some("t".to_owned()),
        has_failures: true,
        ..Window::new(Some(at(1)), at(9))
    }
}

#[tokio::test]
async fn a_checkpoint_is_read_as_it_was_kept() {
    let key = key_of(&Filters::default());
    let incrementals = [
        Incremental::default(),
        Incremental {
            through: Some(at(7)),
            window: Some(full_window()),
        },
    ];
    let sweeps = [
        Sweep::default(),
        Sweep {
            pass: Some(Pass {
                started_at: at(5),
                requested: true,
                window: Window::new(None, at(9)),
            }),
            last_started_at: Some(at(1)),
            last_completed_at: Some(at(2)),
        },
    ];
    for (incremental, sweep) in incrementals.into_iter().zip(sweeps) {
        let items = Items::default();
        let table = table(&[&puts(&items), &queries(&items)]);
        for checkpoint in [
            Checkpoint::Incremental(incremental.clone()),
            Checkpoint::Sweep(sweep.clone()),
        ] {
            table.save(&key, &checkpoint, &deadline()).await.unwrap();
        }
        let kept = table.load(&key, &deadline()).await.unwrap();
        assert_eq!(kept.incremental.unwrap(), Some(incremental));
        assert_eq!(kept.sweep.unwrap(), Some(sweep));
        // They last: what was read last decides what is read next.
        assert!(
            items
                .lock()
                .unwrap()
                .iter()
                .all(|item| !item.contains_key("expires_at"))
        );
    }
}

#[tokio::test]
async fn a_backfills_checkpoint_is_its_own_and_expires() {
    let items = Items::default();
    let range = Range {
        start: at(1),
        end: at(9),
    };
    let get = {
        let items = Arc::clone(&items);
        mock!(Client::get_item).then_output(move || {
            GetItemOutput::builder()
                .set_item(items.lock().unwrap().first().cloned())
                .build()
        })
    };
    let table = table(&[&puts(&items), &get]);
    let key = key_of(&Filters::default());
    assert_eq!(table.backfill(&key, range, &deadline()).await.unwrap(), None);
    let checkpoint = Checkpoint::Backfill(range, full_window());
    table.save(&key, &checkpoint, &deadline()).await.unwrap();
    assert_eq!(
        table.backfill(&key, range, &deadline()).await.unwrap(),
        Some(full_window())
    );
    let item = items.lock().unwrap()[0].clone();
    assert_eq!(item["expires_at"], AttributeValue::N("1000060".to_owned()));
    assert!(text(&item, "sk").starts_with("backfill#"));
}

#[tokio::test]
async fn an_item_that_makes_no_sense_is_an_error_that_names_it() {
    let key = key_of(&Filters::default());
    let items = Items::default();
    let mocked = table(&[&puts(&items), &queries(&items)]);
    let state = Incremental {
        through: Some(at(7)),
        window: Some(full_window()),
    };
    mocked
        .save(&key, &Checkpoint::Incremental(state), &deadline())
        .await
        .unwrap();
    let good = items.lock().unwrap()[0].clone();
    for (name, value) in [
        ("through", AttributeValue::S("yesterday".to_owned())),
        ("through", AttributeValue::N("7".to_owned())),
        ("window", AttributeValue::S("open".to_owned())),
        ("window", AttributeValue::M(HashMap::new())),
    ] {
        let mut bad = good.clone();
        bad.insert(name.to_owned(), value);
        *items.lock().unwrap() = vec![bad];
        let kept = mocked.load(&key, &deadline()).await.unwrap();
        let error = kept.incremental.unwrap_err();
        assert!(error.has_code(UNREADABLE) && error.kind == ErrorKind::Rejected);
        assert!(error.message.contains("pk=\"checkpoint#ap-southeast-1#"), "{error}");
        assert!(error.message.contains("sk=\"incremental\""), "{error}");
        // The other one can be read all the same.
        assert_eq!(kept.sweep.unwrap(), None);
    }
}

fn delivered() -> DeliveredItem {
    DeliveredItem {
        day: Day::of(Some(at(90_000))),
        first: Some(at(90_000)),
        last: Some(at(90_001)),
        digests: vec![[1; 16], [2; 16]],
        expires_at: 5_000_000,
    }
}

#[tokio::test]
async fn a_delivery_is_read_as_it_was_recorded() {
    let items = Items::default();
    let table = table(&[&puts(&items), &queries(&items)]);
    let undated = DeliveredItem {
        day: Day::of(None),
        first: None,
        last: None,
        ..delivered()
    };
    for (item, keys) in [
        (delivered(), ["delivered#1970-01-02", "1970-01-02T01:00:01.123Z#run#7"]),
        (undated, ["delivered#none", "none#run#7"]),
    ] {
        items.lock().unwrap().clear();
        table.add(&item, "run", 7, &deadline()).await.unwrap();
        let put = items.lock().unwrap()[0].clone();
        assert_eq!([text(&put, "pk"), text(&put, "sk")], keys);
        let (read, next) = table.items(item.day, item.first, None, &deadline()).await.unwrap();
        assert_eq!((read, next), (vec![item], None));
    }
}

#[tokio::test]
async fn deliveries_are_asked_for_from_an_instant_on_page_by_page() {
    let first = mock!(Client::query)
        .match_requests(|request| {
            let values = request.expression_attribute_values().unwrap();
            values[":pk"] == AttributeValue::S("delivered#1970-01-02".to_owned())
                && values[":from"] == AttributeValue::S("1970-01-02T01:00:00.123Z".to_owned())
                && request.key_condition_expression() == Some("pk = :pk AND sk >= :from")
                && request.exclusive_start_key().is_none()
        })
        .then_output(|| {
            QueryOutput::builder()
                .set_last_evaluated_key(Some(key("delivered#1970-01-02", "last")))
                .build()
        });
    let second = mock!(Client::query)
        .match_requests(|request| {
            request
                .exclusive_start_key()
                .is_some_and(|after| *after == key("delivered#1970-01-02", "last"))
        })
        .then_output(|| QueryOutput::builder().build());
    let table = table(&[&first, &second]);
    let (day, from) = (delivered().day, delivered().first);
    let (_, next) = table.items(day, from, None, &deadline()).await.unwrap();
    assert_eq!(next.as_deref(), Some("last"));
    let (_, next) = table.items(day, from, next.as_deref(), &deadline()).await.unwrap();
    assert_eq!(next, None);
}

#[tokio::test]
async fn a_delivery_edited_to_nonsense_is_an_error_that_names_it() {
    let items = Items::default();
    let mocked = table(&[&puts(&items), &queries(&items)]);
    mocked.add(&delivered(), "run", 7, &deadline()).await.unwrap();
    let good = items.lock().unwrap()[0].clone();
    for (name, value) in [
        ("digests", AttributeValue::B(Blob::new([1; 17]))),
        ("digests", AttributeValue::S("x".to_owned())),
        ("expires_at", AttributeValue::S("x".to_owned())),
    ] {
        let mut bad = good.clone();
        bad.insert(name.to_owned(), value);
        *items.lock().unwrap() = vec![bad];
        let error = mocked
            .items(delivered().day, None, None, &deadline())
            .await
            .unwrap_err();
        assert!(error.has_code(UNREADABLE) && error.message.contains("1970-01-02T01:00:01.123Z#run#7"));
    }
}

#[tokio::test]
async fn a_parked_event_is_read_as_it_was_kept() {
    let parked = Parked {
        event_id: EventId::new([7; 32]),
        region: "eu-west-1".parse().unwrap(),
        finding_id: Some("f".to_owned()),
        code: "InvalidMessageContents".to_owned(),
        message: "no".to_owned(),
        refusals: 2,
        is_parked: false,
        run: "run".to_owned(),
        offered_at: at(5),
    };
    let items = Items::default();
    let table = table(&[&puts(&items), &queries(&items)]);
    table.park(&parked, &deadline()).await.unwrap();
    assert_eq!(table.parked(9, &deadline()).await.unwrap(), vec![parked]);
    items.lock().unwrap()[0].insert("sk".to_owned(), AttributeValue::S("edited".to_owned()));
    let error = table.parked(9, &deadline()).await.unwrap_err();
    assert!(error.message.contains("sk=\"edited\""), "{error}");
}

fn lease() -> Lease {
    Lease {
        holder: "run".to_owned(),
        until: NOW + SignedDuration::from_mins(4),
    }
}

fn held(item: Item) -> Rule {
    mock!(Client::put_item)
        .match_requests(|request| {
            let values = request.expression_attribute_values().unwrap();
            let condition = request.condition_expression().unwrap();
            condition.contains("attribute_not_exists(pk)")
                && values[":now"] == AttributeValue::N("1000000000".to_owned())
        })
        .then_error(move || {
            let failed = ConditionalCheckFailedException::builder().set_item(Some(item.clone()));
            PutItemError::ConditionalCheckFailedException(failed.build())
        })
}

#[tokio::test]
async fn a_lease_is_taken_only_if_no_other_run_has_it() {
    let items = Items::default();
    let free = table(&[&puts(&items)]);
    assert_eq!(free.take(&lease(), NOW, &deadline()).await.unwrap(), Ok(()));
    let item = items.lock().unwrap()[0].clone();
    assert_eq!(item["until"], AttributeValue::N("1000240000".to_owned()));
    let busy = table(&[&held(item.clone())]);
    assert_eq!(busy.take(&lease(), NOW, &deadline()).await.unwrap(), Err(lease().until));
    let mut bad = item;
    bad.insert("until".to_owned(), AttributeValue::S("later".to_owned()));
    let error = table(&[&held(bad)]).take(&lease(), NOW, &deadline()).await.unwrap_err();
    assert!(error.message.contains("pk=\"lease\" sk=\"lease\""), "{error}");
}

#[tokio::test]
async fn a_lease_that_another_run_has_by_now_is_left_to_it() {
    let gone = mock!(Client::delete_item)
        .match_requests(|request| request.condition_expression() == Some("holder = :holder"))
        .then_error(|| {
            let meta = aws_sdk_dynamodb::error::ErrorMetadata::builder().code("ConditionalCheckFailedException");
            let failed = ConditionalCheckFailedException::builder().meta(meta.build());
            DeleteItemError::ConditionalCheckFailedException(failed.build())
        });
    table(&[&gone]).release(&lease(), &deadline()).await.unwrap();
    let given_back = mock!(Client::delete_item).then_output(|| DeleteItemOutput::builder().build());
    table(&[&given_back]).release(&lease(), &deadline()).await.unwrap();
    let denied = mock!(Client::delete_item).then_error(|| {
        let meta = aws_sdk_dynamodb::error::ErrorMetadata::builder().code("AccessDeniedException");
        DeleteItemError::generic(meta.build())
    });
    let error = table(&[&denied]).release(&lease(), &deadline()).await.unwrap_err();
    assert_eq!((error.kind, error.action), (ErrorKind::AccessDenied, DELETE));
}

#[test]
fn keys_stay_within_their_limits_whatever_the_filters() {
    let long = Filters {
        product_names: (0..20).map(|n| format!("{n:0112}")).collect(),
        ..Filters::default()
    };
    // 2048 bytes for a partition key, 1024 for a sort key (DynamoDB Developer Guide, "Quotas").
    assert!(checkpoint_key(&key_of(&long)).len() < 100);
    let range = Range {
        start: Timestamp::MIN,
        end: Timestamp::MAX,
    };
    assert!(backfill_key(range).len() < 100);
}
