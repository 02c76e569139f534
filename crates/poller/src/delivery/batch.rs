//! Events to the queue: packing into batches, and seeing to every entry of them.

use std::time::Duration;

use asff::EventId;
use aws_support::{AwsError, Deadline, ErrorKind};
use futures::stream::{self, StreamExt};

use super::sqs::SEND_MESSAGE;

/// The most entries `SendMessageBatch` takes (SQS API reference).
pub const MAX_BATCH_ENTRIES: usize = 10;
/// The most bytes of one message and of a whole batch: bodies, and names, types and values of attributes (SQS
/// Developer Guide, "Amazon SQS message quotas").
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Batches on their way at once.
pub(super) const CONCURRENT_BATCHES: usize = 4;
/// How often an entry is offered that SQS, by its own fault, did not take.
const MAX_ROUNDS: u32 = 4;
/// Wait before the second round; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// One SQS message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The event's id, by which the message is named in reports
    pub event_id: EventId,
    /// The finding's `Id`, for the log
    pub finding_id: Option<String>,
    /// The message body
    pub body: String,
    /// Message attributes, each of type `String`
    pub attributes: Vec<(&'static str, String)>,
}

impl Message {
    /// What SQS counts against its limits, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(name, value)| name.len() + "String".len() + value.len())
            .sum();
        self.body.len() + attributes
    }
}

/// What SQS said of one entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryOutcome {
    /// It is in the queue
    Confirmed,
    /// It is not
    Failed {
        /// SQS's error code
        code: String,
        /// What SQS said
        message: String,
        /// The entry is at fault: the same entry will fail again
        sender_fault: bool,
    },
}

/// A queue that takes batches.
pub trait EventSink {
    /// Sends one batch, within the limits of a batch. On success there is one outcome for each message, in their order.
    ///
    /// # Errors
    /// Where the batch failed as a whole: nothing is known to be in the queue.
    fn send(
        &self,
        batch: &[&Message],
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Vec<EntryOutcome>, AwsError>>;
}

/// A message that SQS did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The event it carries
    pub event_id: EventId,
    /// The finding's `Id`
    pub finding_id: Option<String>,
    /// SQS's error code
    pub code: String,
    /// What SQS said
    pub message: String,
    /// The event is at fault: it will be refused again
    pub is_for_good: bool,
}

/// What became of a list of messages.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Event ids that SQS confirmed
    pub confirmed: Vec<EventId>,
    /// Messages SQS did not take, though it took others
    pub refused: Vec<Refused>,
    /// Why sending was given up, if it was. What is neither confirmed nor refused was not delivered
    pub error: Option<AwsError>,
}

impl Delivery {
    /// Adds what became of other messages.
    pub fn absorb(&mut self, other: Self) {
        self.confirmed.extend(other.confirmed);
        self.refused.extend(other.refused);
        self.error = self.error.take().or(other.error);
    }

    fn refuse(&mut self, message: &Message, code: &str, reason: &str, is_for_good: bool) {
        self.refused.push(Refused {
            is_for_good,
            event_id: message.event_id,
            finding_id: message.finding_id.clone(),
            code: code.to_owned(),
            message: reason.to_owned(),
        });
    }
}

/// Splits messages into batches within both limits, in order. A message that is too large for any batch is not in one.
#[must_use]
pub fn pack(messages: &[Message]) -> Vec<Vec<&Message>> {
    let mut batches: Vec<Vec<&Message>> = Vec::new();
    let mut bytes = 0;
    for message in messages.iter().filter(|m| m.size() <= MAX_BATCH_BYTES) {
        bytes += message.size();
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_BATCH_ENTRIES && bytes <= MAX_BATCH_BYTES => {
                batch.push(message);
            }
            _ => {
                bytes = message.size();
                batches.push(vec![message]);
            }
        }
    }
    batches
}

/// Sends messages. Entries that failed by SQS's fault are sent again, the others are reported; a batch that SQS
/// refuses as a whole is sent entry by entry, so that one bad message costs no other.
pub async fn deliver<S: EventSink>(sink: &S, messages: &[Message], deadline: &Deadline) -> Delivery {
    let mut delivery = Delivery::default();
    for message in messages.iter().filter(|m| m.size() > MAX_BATCH_BYTES) {
        let reason = format!("{} bytes, of {MAX_BATCH_BYTES} at most", message.size());
        delivery.refuse(message, "MessageTooLong", &reason, true);
    }
    let mut batches = stream::iter(pack(messages))
        .map(|batch| deliver_batch(sink, batch, deadline))
        .buffer_unordered(CONCURRENT_BATCHES);
    while let Some(outcome) = batches.next().await {
        delivery.absorb(outcome);
    }
    delivery
}

async fn deliver_batch<S: EventSink>(sink: &S, batch: Vec<&Message>, deadline: &Deadline) -> Delivery {
    match deliver_entries(sink, batch.clone(), deadline).await {
        Delivery {
            error: Some(error),
            confirmed,
            ..
        } if error.kind == ErrorKind::Rejected && confirmed.is_empty() => {
            if batch.len() > 1 || is_about_the_message(&error) {
                deliver_one_by_one(sink, &batch, error, deadline).await
            } else {
                Delivery {
                    error: Some(error),
                    ..Delivery::default()
                }
            }
        }
        delivery => delivery,
    }
}

/// Offers the entries until each is confirmed or refused, `MAX_ROUNDS` times at most.
async fn deliver_entries<S: EventSink>(sink: &S, mut pending: Vec<&Message>, deadline: &Deadline) -> Delivery {
    let mut delivery = Delivery::default();
    let mut pause = FIRST_PAUSE;
    for round in 1..=MAX_ROUNDS {
        let outcomes = match sink.send(&pending, deadline).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                delivery.error = Some(error);
                return delivery;
            }
        };
        let mut again = Vec::new();
        for (message, outcome) in pending.iter().zip(outcomes) {
            match outcome {
                EntryOutcome::Confirmed => delivery.confirmed.push(message.event_id),
                EntryOutcome::Failed {
                    sender_fault: false, ..
                } if round < MAX_ROUNDS => again.push(*message),
                EntryOutcome::Failed {
                    code,
                    message: reason,
                    sender_fault,
                } => delivery.refuse(message, &code, &reason, sender_fault),
            }
        }
        if again.is_empty() {
            break;
        }
        if deadline.bound(tokio::time::sleep(pause)).await.is_err() {
            delivery.error = Some(AwsError::out_of_time(SEND_MESSAGE));
            break;
        }
        pause *= 2;
        pending = again;
    }
    delivery
}

/// SQS says that a message is at fault, not the queue (`SendMessageBatch` in the SQS API reference).
fn is_about_the_message(error: &AwsError) -> bool {
    ["InvalidMessageContents", "BatchRequestTooLong"]
        .iter()
        .any(|code| error.has_code(code))
}

/// For a batch that SQS refused as a whole with `refusal`. Where each entry is refused by itself too, for no reason of its
/// own, it is not the entries: the refusal is then that of the queue.
async fn deliver_one_by_one<S: EventSink>(
    sink: &S,
    batch: &[&Message],
    refusal: AwsError,
    deadline: &Deadline,
) -> Delivery {
    let mut delivery = Delivery::default();
    for message in batch {
        let mut one = deliver_entries(sink, vec![message], deadline).await;
        match one.error.take() {
            Some(error) if error.kind == ErrorKind::Rejected => {
                let code = error.code.as_deref().unwrap_or("Rejected");
                delivery.refuse(message, code, &error.message, is_about_the_message(&error));
            }
            Some(error) => {
                delivery.absorb(one);
                delivery.error = Some(error);
                return delivery;
            }
            None => delivery.absorb(one),
        }
    }
    if delivery.refused.len() == batch.len() && !delivery.refused.iter().any(|refused| refused.is_for_good) {
        return Delivery {
            error: Some(refusal),
            ..Delivery::default()
        };
    }
    delivery
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> EventId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        EventId::new(bytes)
    }

    fn number(id: EventId) -> usize {
        (0..1000).find(|number| super::tests::id(*number) == id).unwrap()
    }

    fn message(number: usize, size: usize) -> Message {
        Message {
            event_id: id(number),
            finding_id: None,
            body: "x".repeat(size),
            attributes: vec![],
        }
    }

    fn messages(count: usize) -> Vec<Message> {
        (0..count).map(|id| message(id, 10)).collect()
    }

    fn error(kind: ErrorKind, code: &str) -> AwsError {
        AwsError {
            code: Some(code.to_owned()),
            ..AwsError::new(SEND_MESSAGE, kind, "no".to_owned())
        }
    }

    fn failed(sender_fault: bool) -> EntryOutcome {
        EntryOutcome::Failed {
            code: "Code".to_owned(),
            message: "reason".to_owned(),
            sender_fault,
        }
    }

    /// A queue that does with an entry what the table says for its id, each time it is offered; confirmed otherwise.
    #[derive(Default)]
    struct Queue {
        outcomes: HashMap<usize, EntryOutcome>,
        poison: Option<(usize, &'static str)>,
        down: Option<ErrorKind>,
        failures_left: RefCell<HashMap<usize, u32>>,
        batches: RefCell<Vec<Vec<usize>>>,
    }

    impl EventSink for Queue {
        async fn send(&self, batch: &[&Message], _: &Deadline) -> Result<Vec<EntryOutcome>, AwsError> {
            let ids: Vec<usize> = batch.iter().map(|m| number(m.event_id)).collect();
            self.batches.borrow_mut().push(ids.clone());
            if let Some(kind) = self.down {
                return Err(error(kind, "Code"));
            }
            if let Some((poison, code)) = self.poison
                && ids.contains(&poison)
            {
                return Err(error(ErrorKind::Rejected, code));
            }
            let outcome = |id: &usize| {
                if let Some(left) = self.failures_left.borrow_mut().get_mut(id)
                    && *left > 0
                {
                    *left -= 1;
                    return failed(false);
                }
                self.outcomes.get(id).cloned().unwrap_or(EntryOutcome::Confirmed)
            };
            Ok(ids.iter().map(outcome).collect())
        }
    }

    async fn run(queue: &Queue, messages: &[Message]) -> Delivery {
        let mut delivery = deliver(queue, messages, &Deadline::after(Duration::from_mins(1))).await;
        delivery.confirmed.sort();
        delivery
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_send_is_no_call() {
        let queue = Queue::default();
        assert!(run(&queue, &[]).await.confirmed.is_empty());
        assert!(queue.batches.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_more_than_a_batch_is_two_batches() {
        for (count, batches) in [(10, 1), (11, 2)] {
            let queue = Queue::default();
            assert_eq!(run(&queue, &messages(count)).await.confirmed.len(), count);
            assert_eq!(queue.batches.borrow().len(), batches);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_failed_entries_are_sent_again() {
        let queue = Queue {
            failures_left: RefCell::new(HashMap::from([(1, 1), (3, 2)])),
            ..Queue::default()
        };
        let delivery = run(&queue, &messages(5)).await;
        assert_eq!(delivery.confirmed, [0, 1, 2, 3, 4].map(id));
        assert!(delivery.refused.is_empty());
        assert_eq!(*queue.batches.borrow(), [vec![0, 1, 2, 3, 4], vec![1, 3], vec![3]]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_keeps_failing_is_reported_and_holds_back_no_other() {
        let queue = Queue {
            outcomes: HashMap::from([(1, failed(false)), (2, failed(true))]),
            ..Queue::default()
        };
        let delivery = run(&queue, &messages(4)).await;
        assert_eq!(delivery.confirmed, [0, 3].map(id));
        let refused: Vec<_> = delivery.refused.iter().map(|r| (r.event_id, r.is_for_good)).collect();
        assert_eq!(refused, [(id(2), true), (id(1), false)]);
        // The entry at fault itself is not offered again.
        assert_eq!(queue.batches.borrow().len(), MAX_ROUNDS as usize);
        assert_eq!(queue.batches.borrow()[1], [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_message_for_which_sqs_refuses_the_batch_costs_no_other() {
        let queue = Queue {
            poison: Some((7, "Code")),
            ..Queue::default()
        };
        let delivery = run(&queue, &messages(12)).await;
        assert_eq!(delivery.confirmed.len(), 11);
        assert_eq!(delivery.refused.len(), 1);
        assert_eq!(delivery.refused[0].event_id, id(7));
        assert!(!delivery.refused[0].is_for_good);
        assert!(delivery.error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_at_fault_by_itself_is_refused_for_good_also_where_it_is_alone() {
        let queue = Queue {
            poison: Some((0, "InvalidMessageContents")),
            ..Queue::default()
        };
        let delivery = run(&queue, &messages(1)).await;
        assert!(delivery.error.is_none() && delivery.refused[0].is_for_good);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_refuses_everything_is_an_error_of_the_queue() {
        for kind in [ErrorKind::Rejected, ErrorKind::AccessDenied, ErrorKind::Unreachable] {
            let queue = Queue {
                down: Some(kind),
                ..Queue::default()
            };
            for count in [1, 3] {
                let delivery = run(&queue, &messages(count)).await;
                assert_eq!(delivery.error.map(|e| e.kind), Some(kind));
                assert!(delivery.confirmed.is_empty() && delivery.refused.is_empty());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_too_large_for_sqs_is_reported() {
        let queue = Queue::default();
        let list = [message(0, 5), message(1, MAX_BATCH_BYTES + 1), message(2, 5)];
        let delivery = run(&queue, &list).await;
        assert_eq!(delivery.confirmed, [0, 2].map(id));
        assert_eq!(delivery.refused[0].code, "MessageTooLong");
        assert!(delivery.refused[0].is_for_good);
    }

    #[test]
    fn attributes_count() {
        let message = Message {
            event_id: id(0),
            finding_id: None,
            body: "12345".to_owned(),
            attributes: vec![("source", "x".to_owned())],
        };
        assert_eq!(message.size(), 5 + 6 + 6 + 1);
    }

    proptest! {
        #[test]
        fn batches_keep_both_limits_and_lose_nothing(
            sizes in prop::collection::vec(prop_oneof![0..2000usize, 200_000..300_000usize, Just(MAX_BATCH_BYTES)], 0..40)
        ) {
            let list: Vec<_> = sizes.iter().enumerate().map(|(id, size)| message(id, *size)).collect();
            let batches = pack(&list);
            for batch in &batches {
                prop_assert!(!batch.is_empty() && batch.len() <= MAX_BATCH_ENTRIES);
                prop_assert!(batch.iter().map(|m| m.size()).sum::<usize>() <= MAX_BATCH_BYTES);
            }
            let packed: Vec<_> = batches.concat().into_iter().cloned().collect();
            prop_assert_eq!(packed, list);
        }
    }
}
