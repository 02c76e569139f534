use std::time::Duration;

use std::collections::BTreeSet;

use actions::block::fault::FaultKind;
use actions::block::{Before, Placed, Terms, Touched};
use actions::request::Notes;
use aws_sdk_dynamodb::error::ErrorMetadata;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemOutput;
use aws_sdk_dynamodb::operation::put_item::PutItemOutput;
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::operation::scan::ScanOutput;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsOutput;
use aws_sdk_dynamodb::types::error::TransactionCanceledException;
use aws_smithy_mocks::{Rule, mock};

use super::*;
use crate::testing::mock_client;

fn table(rules: &[&Rule]) -> DynamoBlocks {
    DynamoBlocks::new(mock_client!(aws_sdk_dynamodb, rules), "blocks".to_owned())
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().unwrap()
}

fn terms(id: &str) -> Terms {
    Terms {
        request_id: id.to_owned(),
        requested_by: None,
        notes: Notes::default(),
        network_acl_ids: None,
        expires_at: None,
    }
}

/// A block of which nothing is said that need not be.
fn bare(revision: u64) -> Block {
    Block {
        region: "us-east-1".parse().unwrap(),
        group: "sg-0123abcd".parse().unwrap(),
        rule: "tcp 0-65535 from 203.0.113.7/32".parse().unwrap(),
        role: None,
        account_id: None,
        vpc_id: "vpc-1".to_owned(),
        state: State::Pending,
        terms: terms("r-1"),
        renews: None,
        entries: vec![],
        rule_stands: false,
        enforced: false,
        settled_at: Timestamp::UNIX_EPOCH,
        before: None,
        revision,
    }
}

/// A block of which all is said.
fn full(revision: u64) -> Block {
    let said = Terms {
        request_id: "r-\u{fffe}\"é".to_owned(),
        requested_by: Some(String::new()),
        notes: Notes {
            case_id: Some("c".to_owned()),
            playbook_run_id: Some("p".to_owned()),
            tenant_id: Some("t".to_owned()),
            event_id: Some("e".to_owned()),
            rationale: Some("why\nso".to_owned()),
        },
        network_acl_ids: Some(vec!["acl-0000000a".parse().unwrap()]),
        expires_at: Some("2026-11-25T10:00:00.123456789Z".parse().unwrap()),
    };
    Block {
        rule: "all protocols from 2001:db8::/64".parse().unwrap(),
        role: Some("arn:aws:iam::444455556666:role/aisoc".parse().unwrap()),
        account_id: Some("444455556666".to_owned()),
        state: State::Lifting { by: "l-1".to_owned() },
        terms: said.clone(),
        renews: Some(said),
        entries: vec![Placed {
            acl: "acl-0000000a".parse().unwrap(),
            number: 32766,
        }],
        rule_stands: true,
        enforced: true,
        settled_at: now(),
        before: Some(Before {
            request_id: "r-2".to_owned(),
            rule: true,
            entries: vec![Placed {
                acl: "acl-0000000b".parse().unwrap(),
                number: 1,
            }],
            touched: Some(Touched {
                rule: true,
                entries: BTreeSet::new(),
            }),
        }),
        ..bare(revision)
    }
}

fn lifted(revision: u64) -> Block {
    bare(revision).lifted("l-1", now())
}

fn lease(holder: &str) -> Lease {
    Lease {
        region: "us-east-1".parse().unwrap(),
        group: "sg-0123abcd".parse().unwrap(),
        holder: holder.to_owned(),
        until: "2026-11-24T10:01:00.5Z".parse().unwrap(),
    }
}

fn text(item: &Item, name: &str) -> String {
    item[name].as_s().unwrap().clone()
}

fn number(item: &Item, name: &str) -> String {
    item[name].as_n().unwrap().clone()
}

/// The item that the table holds once the block is written.
fn written(block: &Block) -> Item {
    table(&[]).put_block(block).unwrap().item().clone()
}

fn lease_item(lease: &Lease) -> Item {
    table(&[]).put_lease(lease, now()).unwrap().item().clone()
}

fn passed() -> CancellationReason {
    CancellationReason::builder().code("None").build()
}

fn failed(item: Option<Item>) -> CancellationReason {
    CancellationReason::builder()
        .code("ConditionalCheckFailed")
        .set_item(item)
        .build()
}

fn cancelled(reasons: Vec<CancellationReason>) -> Rule {
    mock!(Client::transact_write_items).then_error(move || cancelled_for(reasons.clone()))
}

fn cancelled_for(reasons: Vec<CancellationReason>) -> TransactWriteItemsError {
    let cancelled = TransactionCanceledException::builder().set_cancellation_reasons(Some(reasons));
    TransactWriteItemsError::TransactionCanceledException(cancelled.build())
}

fn all_written() -> Rule {
    mock!(Client::transact_write_items).then_output(|| TransactWriteItemsOutput::builder().build())
}

fn queried(items: Vec<Item>) -> Rule {
    mock!(Client::query).then_output(move || QueryOutput::builder().set_items(Some(items.clone())).build())
}

// ---- items -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn every_block_is_read_as_it_was_written() {
    for block in [bare(0), full(0), full(41), lifted(7), bare(3).in_force()] {
        let rule = queried(vec![written(&block)]);
        let found = table(&[&rule]).of_rule(&block.region, &block.rule, &deadline()).await;
        let stored = Block {
            revision: block.revision + 1,
            ..block
        };
        assert_eq!(found.unwrap(), [stored]);
    }
}

#[test]
fn a_block_is_written_over_the_revision_that_was_read_and_no_other() {
    let put = table(&[]).put_block(&bare(0)).unwrap();
    assert_eq!(put.table_name(), "blocks");
    assert_eq!(put.condition_expression(), Some("attribute_not_exists(pk)"));
    assert_eq!(put.expression_attribute_values(), None);
    assert_eq!(
        text(put.item(), "pk"),
        "block#us-east-1#tcp 0-65535 from 203.0.113.7/32"
    );
    assert_eq!(text(put.item(), "sk"), "sg-0123abcd");
    assert_eq!(number(put.item(), "revision"), "1");
    assert!(!put.item().contains_key("expires_at"), "a block is never forgotten");

    let put = table(&[]).put_block(&full(41)).unwrap();
    assert_eq!(put.condition_expression(), Some("revision = :revision"));
    let values = put.expression_attribute_values().unwrap();
    assert_eq!(values[":revision"].as_n().unwrap(), "41");
    assert_eq!(number(put.item(), "revision"), "42");
    assert_eq!(
        text(put.item(), "pk"),
        "block#us-east-1#all protocols from 2001:db8::/64"
    );
    assert!(!put.item().contains_key("expires_at"));
    // The answer to a failed condition holds what stands in the way.
    assert_eq!(
        put.return_values_on_condition_check_failure(),
        Some(&ReturnValuesOnConditionCheckFailure::AllOld)
    );
}

#[test]
fn a_lifted_block_is_remembered_for_a_day() {
    let expires_at: i64 = number(&written(&lifted(1)), "expires_at").parse().unwrap();
    assert_eq!(expires_at, now().as_second() + 86_400);
}

#[test]
fn a_lease_is_taken_if_no_other_holds_it_and_deleted_by_its_holder() {
    let put = table(&[]).put_lease(&lease("i-1"), now()).unwrap();
    assert_eq!(text(put.item(), "pk"), "lease#us-east-1#sg-0123abcd");
    assert_eq!(
        (text(put.item(), "sk"), text(put.item(), "holder")),
        ("lease".into(), "i-1".into())
    );
    assert_eq!(
        number(put.item(), "until"),
        lease("").until.as_millisecond().to_string()
    );
    assert_eq!(
        number(put.item(), "expires_at"),
        (lease("").until.as_second() + 86_400).to_string()
    );
    assert_eq!(
        put.condition_expression(),
        Some("attribute_not_exists(pk) OR #until < :now")
    );
    assert_eq!(put.expression_attribute_names().unwrap()["#until"], "until");
    let values = put.expression_attribute_values().unwrap();
    assert_eq!(values[":now"].as_n().unwrap(), &now().as_millisecond().to_string());

    let delete = table(&[]).delete_lease(&lease("i-1")).unwrap();
    assert_eq!(text(delete.key(), "pk"), "lease#us-east-1#sg-0123abcd");
    assert_eq!(text(delete.key(), "sk"), "lease");
    assert_eq!(
        delete.condition_expression(),
        "attribute_not_exists(pk) OR holder = :holder".into()
    );
    assert_eq!(
        delete.expression_attribute_values().unwrap()[":holder"].as_s().unwrap(),
        "i-1"
    );
}

#[tokio::test]
async fn the_blocks_of_a_rule_are_read_consistently_and_from_every_page() {
    let key = "block#us-east-1#tcp 0-65535 from 203.0.113.7/32";
    let is_asked = move |r: &aws_sdk_dynamodb::operation::query::QueryInput| {
        r.table_name() == Some("blocks")
            && r.consistent_read() == Some(true)
            && r.key_condition_expression() == Some("pk = :pk")
            && r.expression_attribute_values().unwrap()[":pk"].as_s().unwrap() == key
    };
    let other = Block {
        group: "sg-0123abce".parse().unwrap(),
        ..bare(0)
    };
    let (first_item, second_item) = (written(&bare(0)), written(&other));
    let next = HashMap::from([("pk".to_owned(), AttributeValue::S(key.to_owned()))]);
    let first = mock!(Client::query)
        .match_requests(move |r| is_asked(r) && r.exclusive_start_key().is_none())
        .then_output(move || {
            let page = QueryOutput::builder().set_items(Some(vec![first_item.clone()]));
            page.set_last_evaluated_key(Some(next.clone())).build()
        });
    let second = mock!(Client::query)
        .match_requests(move |r| is_asked(r) && r.exclusive_start_key().is_some())
        .then_output(move || {
            QueryOutput::builder()
                .set_items(Some(vec![second_item.clone()]))
                .build()
        });
    let found = table(&[&first, &second])
        .of_rule(&bare(0).region, &bare(0).rule, &deadline())
        .await;
    let groups: Vec<String> = found.unwrap().iter().map(|block| block.group.to_string()).collect();
    assert_eq!(groups, ["sg-0123abcd", "sg-0123abce"]);
}

#[tokio::test]
async fn all_of_the_table_is_read_but_its_leases() {
    let fault = KnownFault {
        fault: Fault {
            kind: FaultKind::NotEnforced,
            role: None,
            region: "us-east-1".parse().unwrap(),
            group: "sg-0123abcd".parse().unwrap(),
            rule: Some(bare(0).rule),
        },
        is_told: true,
    };
    let kept = fault.clone();
    let put = mock!(Client::put_item)
        .match_requests(move |r| {
            let item = r.item().unwrap();
            r.table_name() == Some("blocks")
                && r.condition_expression().is_none()
                && text(item, "pk") == "fault#us-east-1"
                && text(item, "sk") == "NotEnforced#sg-0123abcd#tcp 0-65535 from 203.0.113.7/32"
        })
        .then_output(|| PutItemOutput::builder().build());
    table(&[&put]).put_fault(&fault, &deadline()).await.unwrap();
    let delete = mock!(Client::delete_item)
        .match_requests(|r| {
            let key = r.key().unwrap();
            r.table_name() == Some("blocks")
                && text(key, "pk") == "fault#us-east-1"
                && text(key, "sk") == "NotEnforced#sg-0123abcd#tcp 0-65535 from 203.0.113.7/32"
        })
        .then_output(|| DeleteItemOutput::builder().build());
    table(&[&delete]).delete_fault(&fault, &deadline()).await.unwrap();
    let (pk, sk) = fault_key(&fault.fault);
    let item: Item = serde_dynamo::to_item(FaultItem { pk, sk, fault }).unwrap();
    let items = vec![lease_item(&lease("i-1")), written(&full(0)), item];
    let scan = mock!(Client::scan)
        .match_requests(|r| r.consistent_read() == Some(true) && r.table_name() == Some("blocks"))
        .then_output(move || ScanOutput::builder().set_items(Some(items.clone())).build());
    let contents = table(&[&scan]).all(&deadline()).await.unwrap();
    assert_eq!((contents.blocks, contents.faults), (vec![full(1)], vec![kept]));
}

#[test]
fn faults_of_a_list_and_of_its_blocks_are_items_of_their_own() {
    let of_list = Fault {
        kind: FaultKind::ListInUse,
        role: None,
        region: "us-east-1".parse().unwrap(),
        group: "sg-0123abcd".parse().unwrap(),
        rule: None,
    };
    assert_eq!(fault_key(&of_list).1, "ListInUse#sg-0123abcd");
}

#[tokio::test]
async fn an_item_edited_to_nonsense_is_named() {
    let mut item = written(&bare(0));
    item.insert("block".to_owned(), AttributeValue::S("x".to_owned()));
    let mut unknown_state = written(&bare(0));
    let mut block = unknown_state["block"].as_m().unwrap().clone();
    block.insert("state".to_owned(), AttributeValue::S("Paused".to_owned()));
    unknown_state.insert("block".to_owned(), AttributeValue::M(block));
    for item in [item, unknown_state] {
        let query = queried(vec![item.clone()]);
        let scan =
            mock!(Client::scan).then_output(move || ScanOutput::builder().set_items(Some(vec![item.clone()])).build());
        let table = table(&[&query, &scan]);
        let of_rule = table
            .of_rule(&bare(0).region, &bare(0).rule, &deadline())
            .await
            .map(|_| ());
        let all = table.all(&deadline()).await.map(|_| ());
        for error in [of_rule.unwrap_err(), all.unwrap_err()] {
            assert!(!error.is_retryable());
            let named =
                "the item pk=\"block#us-east-1#tcp 0-65535 from 203.0.113.7/32\" sk=\"sg-0123abcd\" cannot be read";
            assert!(error.message.starts_with(named), "{}", error.message);
        }
    }
}

// ---- leases ----------------------------------------------------------------------------------------------------

async fn begin(answer: &Rule, block: &mut Block) -> Result<Begun, AwsError> {
    table(&[answer]).begin(&lease("i-1"), block, now(), &deadline()).await
}

#[tokio::test]
async fn a_lease_and_a_block_are_written_in_one_call() {
    let written = mock!(Client::transact_write_items)
        .match_requests(|r| {
            let writes = r.transact_items();
            writes.len() == 2
                && text(writes[0].put().unwrap().item(), "pk").starts_with("lease#")
                && text(writes[1].put().unwrap().item(), "pk").starts_with("block#")
        })
        .then_output(|| TransactWriteItemsOutput::builder().build());
    let mut block = bare(4);
    assert_eq!(begin(&written, &mut block).await.unwrap(), Begun::Yes);
    assert_eq!((block.revision, written.num_calls()), (5, 1));
}

#[tokio::test]
async fn a_lease_that_another_holds_says_until_when() {
    let held = cancelled(vec![failed(Some(lease_item(&lease("i-2")))), passed()]);
    let mut block = bare(4);
    assert_eq!(begin(&held, &mut block).await.unwrap(), Begun::Busy(lease("").until));
    assert_eq!(block.revision, 4);
    // One that cannot be read, or does not show, is held all the same.
    for item in [None, Some(Item::new())] {
        let held = cancelled(vec![failed(item), passed()]);
        assert_eq!(begin(&held, &mut block).await.unwrap(), Begun::Busy(now()));
    }
    assert_eq!(block.revision, 4);
}

#[tokio::test]
async fn a_block_that_another_changed_is_told_apart_from_a_lease() {
    let changed = cancelled(vec![passed(), failed(Some(written(&bare(8))))]);
    let mut block = bare(4);
    assert_eq!(begin(&changed, &mut block).await.unwrap(), Begun::Changed);
    assert_eq!(block.revision, 4);
}

#[tokio::test]
async fn a_begin_whose_answer_was_lost_has_begun() {
    let own = cancelled(vec![
        failed(Some(lease_item(&lease("i-1")))),
        failed(Some(written(&bare(4)))),
    ]);
    let mut block = bare(4);
    assert_eq!(begin(&own, &mut block).await.unwrap(), Begun::Yes);
    assert_eq!(block.revision, 5);
}

#[tokio::test]
async fn a_lease_that_could_not_be_released_is_gone_on_with_and_the_block_is_written() {
    let held = mock!(Client::transact_write_items)
        .match_requests(|r| r.transact_items().len() == 2)
        .then_error(|| cancelled_for(vec![failed(Some(lease_item(&lease("i-1")))), passed()]));
    let saved = mock!(Client::transact_write_items)
        .match_requests(|r| r.transact_items().len() == 1)
        .then_output(|| TransactWriteItemsOutput::builder().build());
    let mut block = bare(4);
    let begun = table(&[&held, &saved])
        .begin(&lease("i-1"), &mut block, now(), &deadline())
        .await;
    assert_eq!(begun.unwrap(), Begun::Yes);
    assert_eq!((block.revision, held.num_calls(), saved.num_calls()), (5, 1, 1));
}

#[tokio::test]
async fn a_conflict_with_another_transaction_is_tried_again_later() {
    for code in [
        "TransactionConflict",
        "ThrottlingError",
        "ProvisionedThroughputExceeded",
    ] {
        let conflict = cancelled(vec![CancellationReason::builder().code(code).build(), failed(None)]);
        let mut block = bare(4);
        let error = begin(&conflict, &mut block).await.unwrap_err();
        assert_eq!((error.kind, error.is_retryable()), (ErrorKind::Throttled, true));
        assert!(error.message.contains(code), "{}", error.message);
        assert_eq!(block.revision, 4);
    }
}

#[tokio::test]
async fn a_denied_write_is_an_error() {
    let denied = mock!(Client::transact_write_items).then_error(|| {
        TransactWriteItemsError::generic(ErrorMetadata::builder().code("AccessDeniedException").build())
    });
    let error = begin(&denied, &mut bare(4)).await.unwrap_err();
    assert_eq!(
        (error.kind, error.action),
        (ErrorKind::AccessDenied, "dynamodb:PutItem")
    );
}

#[tokio::test]
async fn a_save_whose_answer_was_lost_is_saved() {
    let mut block = full(4);
    table(&[&all_written()]).save(&mut block, &deadline()).await.unwrap();
    assert_eq!(block.revision, 5);
    // WHEN the answer was lost
    let own = cancelled(vec![failed(Some(written(&block)))]);
    table(&[&own]).save(&mut block, &deadline()).await.unwrap();
    assert_eq!(block.revision, 6);
    // WHEN the lease has ended and another has gone on
    for item in [Some(written(&bare(6))), Some(Item::new()), None] {
        let theirs = cancelled(vec![failed(item)]);
        let error = table(&[&theirs]).save(&mut block, &deadline()).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert_eq!(block.revision, 6);
    }
}

#[tokio::test]
async fn a_finish_writes_the_block_and_releases_the_lease_in_one_call() {
    let finished = mock!(Client::transact_write_items)
        .match_requests(|r| {
            let writes = r.transact_items();
            writes.len() == 2 && writes[0].delete().is_some() && writes[1].put().is_some()
        })
        .then_output(|| TransactWriteItemsOutput::builder().build());
    let mut block = full(4);
    let finish =
        async |answer: &Rule, block: &mut Block| table(&[answer]).finish(&lease("i-1"), block, &deadline()).await;
    finish(&finished, &mut block).await.unwrap();
    assert_eq!((block.revision, finished.num_calls()), (5, 1));
    // WHEN the answer was lost: the lease is gone, the block written
    let own = cancelled(vec![passed(), failed(Some(written(&block)))]);
    finish(&own, &mut block).await.unwrap();
    assert_eq!(block.revision, 6);
    // WHEN another has the lease by now, and has or has not changed the block
    for second in [passed(), failed(Some(written(&bare(9))))] {
        let theirs = cancelled(vec![failed(None), second]);
        assert!(finish(&theirs, &mut block).await.unwrap_err().is_retryable());
        assert_eq!(block.revision, 6);
    }
}
