//! A simulation: random histories of requests, redeliveries, faults of any call, kills, edits by hand and audits, with EC2
//! lagging behind. After each, what is denied must be what the table says; and every result must have told the truth.
//!
//! `SIMULATION_HISTORIES` sets how many are run; `SIMULATION_SEED` runs one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use actions::block::compare::{Goal, compare};
use actions::block::network_acl::{Effect, Entry};
use actions::block::{ListState, Seen, Step};
use actions::{Block, Enforcement};
use aws_support::{Clock, ErrorKind};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::testing::{ACL_A, ACL_B, GROUP_A, GROUP_B, World, acl, aws_error, entry};
use crate::testing::{CallFault, When};

const HISTORIES: u64 = 600;
const ACL_C: &str = "acl-0000000c";
const TARGETS: [&str; 3] = ["203.0.113.7", "203.0.113.0/24", "198.51.100.9"];

/// `SplitMix64` (Steele, Lea, Flood 2014): one seed, one history.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap();
        &of[index]
    }
}

/// A message in the actions queue.
#[derive(Clone, Debug)]
struct Message {
    body: Value,
    receives: u32,
    /// Where in the log of changes its deliveries began and ended
    spans: Vec<(usize, usize)>,
    /// An edit, an audit or another request came between its deliveries
    is_disturbed: bool,
    /// A result was decided before, and perhaps sent
    was_decided: bool,
    /// When it came first, EC2 did not show an edit yet: where the function is killed, nobody can tell whose change it was
    was_edited_before: bool,
}

struct Simulation {
    world: World,
    random: Random,
    queue: Vec<Message>,
    requests: u64,
    edited_at: Timestamp,
    /// Lists that were without their tag at some time: a rule that could not be revoked then is left, and named
    untagged: BTreeSet<String>,
    log: Vec<String>,
    seed: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let world = World::default();
        world.lag.set(Duration::from_secs(*random.pick(&[0, 0, 1, 5, 11])));
        world.quota.set(usize::try_from(4 + random.below(6)).unwrap());
        Self {
            edited_at: world.clock().now(),
            world,
            random,
            queue: Vec::new(),
            requests: 0,
            untagged: BTreeSet::new(),
            log: Vec::new(),
            seed,
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!(
            "seed {}: {what}\nhistory:\n{}\ntable: {:#?}",
            self.seed,
            self.log.join("\n"),
            self.world.blocks.borrow().values().collect::<Vec<_>>()
        )
    }

    fn note(&mut self, what: impl Into<String>) {
        let at = self.world.clock().now();
        self.log.push(format!("{at:.1} {}", what.into()));
    }

    fn disturb(&mut self) {
        for message in &mut self.queue {
            message.is_disturbed = true;
        }
    }

    async fn history(mut self) {
        for _ in 0..8 + self.random.below(16) {
            match self.random.below(13) {
                0..=3 => self.send(),
                4..=6 => self.deliver_one().await,
                7 | 8 => self.edit(),
                9 => self.audit().await,
                10 => self.pass(1 + self.random.0 % 90).await,
                11 => self.two_at_once().await,
                _ => self.fire_schedules().await,
            }
            self.check_violations();
        }
        self.come_to_rest().await;
        self.check_end();
    }

    async fn pass(&mut self, seconds: u64) {
        self.note(format!("{seconds} s pass"));
        sleep(Duration::from_secs(seconds)).await;
    }

    /// A new request.
    fn send(&mut self) {
        self.requests += 1;
        let id = format!("r-{}", self.requests);
        let action = if self.random.one_in(3) { "ALLOW_IP" } else { "BLOCK_IP" };
        let group = if self.random.one_in(3) { GROUP_B } else { GROUP_A };
        let target = *self.random.pick(&TARGETS);
        let mut params = json!({"aws_security_group_id": group});
        if action == "BLOCK_IP" {
            if self.random.one_in(3) {
                params["expires_after_seconds"] = json!(60 + self.random.below(400));
            }
            if self.random.one_in(4) {
                let named: [&[&str]; 3] = [&[ACL_A], &[ACL_B], &[ACL_A, ACL_B]];
                params["aws_network_acl_ids"] = json!(*self.random.pick(&named));
            }
        }
        let body = json!({"request_id": id, "action": action, "target": target, "params": params,
                          "dry_run": self.random.one_in(12)});
        self.enqueue(body);
    }

    fn enqueue(&mut self, body: Value) {
        self.note(format!("sent: {body}"));
        self.queue.push(Message {
            body,
            receives: 0,
            spans: Vec::new(),
            is_disturbed: false,
            was_decided: false,
            was_edited_before: false,
        });
    }

    /// What the schedules send whose time has come.
    async fn fire_schedules(&mut self) {
        let now = self.world.clock().now();
        let due: Vec<_> = {
            let schedules = self.world.schedules.borrow();
            schedules
                .values()
                .filter(|schedule| schedule.at <= now)
                .cloned()
                .collect()
        };
        for schedule in due {
            self.world.schedules.borrow_mut().remove(&schedule.name);
            self.enqueue(schedule.request);
        }
        self.deliver_one().await;
    }

    /// Faults of the next calls.
    fn plan_faults(&mut self) {
        let operations = [
            "any",
            "read",
            "add",
            "remove",
            "authorize",
            "revoke",
            "begin",
            "save",
            "finish",
            "of-rule",
            "send",
            "put",
            "delete",
            "retag",
            "acls",
            "put-fault",
            "delete-fault",
            "survey",
            "all",
        ];
        for _ in 0..self.random.below(3) {
            let operation = *self.random.pick(&operations);
            let (error, when) = match self.random.below(5) {
                0 => (aws_error(ErrorKind::Throttled, "RequestLimitExceeded"), When::Before),
                1 => (aws_error(ErrorKind::Unreachable, "Unavailable"), When::Before),
                2 | 3 => (aws_error(ErrorKind::Unreachable, "RequestTimeout"), When::After),
                _ => (
                    aws_error(ErrorKind::AccessDenied, "UnauthorizedOperation"),
                    When::Before,
                ),
            };
            self.note(format!("fault of {operation}: {:?} {when:?}", error.kind));
            self.world.call_faults.borrow_mut().push(CallFault {
                operation: operation.to_owned(),
                error,
                when,
            });
        }
    }

    /// The function is killed at one of the next calls.
    fn plan_kill(&mut self) {
        if self.random.one_in(8) {
            let denied = *self
                .random
                .pick(&["read", "add", "remove", "authorize", "revoke", "put", "delete", "save"]);
            self.note(format!("{denied} is denied"));
            self.world.denied_operation.set(Some(denied));
        }
        if self.random.one_in(6) {
            let calls = self.world.calls.borrow().len() + usize::try_from(self.random.below(25)).unwrap();
            self.world.killed_at.set(Some(calls));
        }
    }

    /// What the function answers, if it is not killed.
    async fn unless_killed<T>(&self, work: Pin<Box<dyn Future<Output = T> + '_>>) -> Option<T> {
        let killed = self.world.killed.notified();
        tokio::select! {
            biased;
            () = killed => None,
            outcome = work => Some(outcome),
        }
    }

    async fn deliver_one(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        // Messages of one block list come in their order; another list's may come first.
        let index = usize::try_from(self.random.below(self.queue.len() as u64)).unwrap();
        let group = self.queue[index].body["params"]["aws_security_group_id"].clone();
        let first = self
            .queue
            .iter()
            .position(|message| message.body["params"]["aws_security_group_id"] == group);
        let message = self.queue.remove(first.unwrap());
        if self.random.one_in(2) {
            self.plan_faults();
        }
        self.plan_kill();
        self.deliver(message).await;
        self.clear_faults();
    }

    fn clear_faults(&self) {
        self.world.killed_at.set(None);
        self.world.denied_operation.set(None);
        self.world.call_faults.borrow_mut().clear();
    }

    async fn deliver(&mut self, mut message: Message) {
        message.receives += 1;
        if message.receives == 1 {
            let since = self.world.clock().now().duration_since(self.edited_at);
            message.was_edited_before = since <= actions::block::LAG && !self.world.lag.get().is_zero();
        }
        let id = message.body["request_id"].as_str().unwrap().to_owned();
        let made = self.world.made.borrow().len();
        let sends = self.world.calls_of(&["send"]).len();
        self.note(format!("delivered, {}: {id}", message.receives));
        let outcome = self
            .unless_killed(Box::pin(self.world.deliver(&message.body, message.receives)))
            .await;
        message.spans.push((made, self.world.made.borrow().len()));
        self.note(format!(
            "  made: {:?}",
            self.made(&message.spans[message.spans.len() - 1..])
        ));
        // Whatever another message now changes comes between this one's deliveries.
        let others: Vec<Message> = std::mem::take(&mut self.queue);
        self.queue = others
            .into_iter()
            .map(|other| Message {
                is_disturbed: true,
                ..other
            })
            .collect();
        match outcome {
            Some(Some(result)) => {
                self.note(format!("  result: {result}"));
                self.check_result(&message, &result);
            }
            Some(None) => {
                self.note("  is retried");
                message.was_decided |= self.world.calls_of(&["send"]).len() > sends;
                self.retry(message).await;
            }
            None => {
                self.note("  was killed");
                message.was_decided |= self.world.calls_of(&["send"]).len() > sends;
                sleep(Duration::from_secs(61)).await;
                self.retry(message).await;
            }
        }
    }

    /// Two invocations at the same time: a message each of two lists, or a message and an audit.
    async fn two_at_once(&mut self) {
        let Some(mut first) = (!self.queue.is_empty()).then(|| self.queue.remove(0)) else {
            return;
        };
        let group = first.body["params"]["aws_security_group_id"].clone();
        let other = self
            .queue
            .iter()
            .position(|message| message.body["params"]["aws_security_group_id"] != group);
        let second = other.map(|index| self.queue.remove(index));
        if self.random.one_in(2) {
            self.plan_faults();
        }
        self.disturb();
        first.receives += 1;
        first.is_disturbed = true;
        let mut messages = vec![first];
        self.note(format!("at once: {} and {second:?}", messages[0].body["request_id"]));
        let done = if let Some(mut second) = second {
            second.receives += 1;
            second.is_disturbed = true;
            let (one, other) = tokio::join!(
                Box::pin(self.world.deliver(&messages[0].body, messages[0].receives)),
                Box::pin(self.world.deliver(&second.body, second.receives))
            );
            messages.push(second);
            vec![one, other]
        } else {
            let (one, _) = tokio::join!(
                Box::pin(self.world.deliver(&messages[0].body, messages[0].receives)),
                Box::pin(self.world.run(r#"{"mode":"audit"}"#))
            );
            vec![one]
        };
        self.note(format!(
            "  done: {:?}",
            done.iter().map(Option::is_some).collect::<Vec<_>>()
        ));
        self.clear_faults();
        for (message, result) in messages.into_iter().zip(done) {
            if result.is_none() {
                self.retry(message).await;
            }
        }
    }

    async fn retry(&mut self, message: Message) {
        if message.receives < 13 {
            self.queue.insert(0, message);
            sleep(Duration::from_secs(5 + self.random.below(30))).await;
        } else {
            self.note("  rests in the dead-letter queue");
        }
    }

    /// What the deliveries changed: entries and rules, without what was undone.
    fn made(&self, spans: &[(usize, usize)]) -> (BTreeMap<(String, u16), bool>, i32) {
        let made = self.world.made.borrow();
        let mut entries: BTreeMap<(String, u16), bool> = BTreeMap::new();
        let mut rules = 0;
        for step in spans.iter().flat_map(|(from, to)| &made[*from..*to]) {
            match step {
                Step::AddDeny(entry) | Step::RemoveDeny(entry) => {
                    let key = (entry.acl.to_string(), entry.number);
                    if entries.remove(&key).is_none() {
                        entries.insert(key, matches!(step, Step::AddDeny(_)));
                    }
                }
                Step::Authorize { .. } => rules += 1,
                Step::Revoke { .. } => rules -= 1,
                Step::Retag { .. } | Step::PutSchedule(_) | Step::DeleteSchedule { .. } => {}
            }
        }
        (entries, rules)
    }

    fn check_result(&self, message: &Message, result: &Value) {
        let (entries, rules) = self.made(&message.spans);
        let told: BTreeSet<(String, u16)> = result["details"]["network_acl_entries"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["changed"] == true)
            .map(|entry| {
                let number = u16::try_from(entry["rule_number"].as_u64().unwrap()).unwrap();
                (entry["network_acl_id"].as_str().unwrap().to_owned(), number)
            })
            .collect();
        let is_first = message.receives == 1;
        let is_sure = is_first || !message.is_disturbed && !message.was_decided && !message.was_edited_before;
        if is_sure {
            let made: BTreeSet<(String, u16)> = entries.keys().cloned().collect();
            if told != made {
                self.fail(&format!("result says entries {told:?}, made were {made:?}"));
            }
            let is_changed = !made.is_empty() || rules != 0;
            if result["changed"] != is_changed {
                self.fail(&format!(
                    "result says changed {}, made were {made:?} and {rules} rules",
                    result["changed"]
                ));
            }
        }
        let since_edit = self.world.clock().now().duration_since(self.edited_at).as_secs();
        let is_settled = since_edit > 13 || self.world.lag.get().is_zero();
        let is_block = message.body["action"] == "BLOCK_IP" && message.body["dry_run"] == false;
        if result["enforced"] == true && is_block && is_settled {
            let rule = self.find(&message.body);
            if let Some(block) = rule
                && !self.is_enforced(&block)
            {
                self.fail("result says enforced, and it is not");
            }
        }
    }

    fn find(&self, body: &Value) -> Option<Block> {
        let target = body["target"].as_str().unwrap().parse::<actions::Target>().unwrap();
        let blocks = self.world.blocks.borrow();
        blocks
            .values()
            .find(|block| {
                block.rule.source() == target && block.group.as_str() == body["params"]["aws_security_group_id"]
            })
            .cloned()
    }

    fn seen(&self, block: &Block) -> Seen {
        let things = self.world.things.borrow();
        Seen {
            group: things.groups.get(block.group.as_str()).cloned(),
            rule: things
                .rules
                .get(block.group.as_str())
                .and_then(|rules| rules.get(&block.rule))
                .cloned(),
            network_acls: Some(things.acls.values().cloned().collect()),
        }
    }

    fn is_enforced(&self, block: &Block) -> bool {
        let policy = self.world.policy.borrow();
        let terms = &block.terms;
        compare(
            block,
            Goal::Stands(terms),
            &self.seen(block),
            &self.others(block),
            &policy,
        )
        .is_enforced()
    }

    fn others(&self, block: &Block) -> Vec<Block> {
        let blocks = self.world.blocks.borrow();
        let others = blocks
            .values()
            .filter(|other| other.rule == block.rule && other.group != block.group);
        others.cloned().collect()
    }

    /// Somebody or something changes EC2 or the settings.
    #[expect(clippy::too_many_lines, reason = "a list of edits")]
    fn edit(&mut self) {
        self.edited_at = self.world.clock().now();
        self.disturb();
        let acl_id = *self.random.pick(&[ACL_A, ACL_B]);
        let group = *self.random.pick(&[GROUP_A, GROUP_B]);
        let number = u16::try_from(50 + self.random.below(40)).unwrap();
        let target = *self.random.pick(&TARGETS);
        let source = if target.contains('/') {
            target.to_owned()
        } else {
            format!("{target}/32")
        };
        // Not a number that EC2 still shows another's entry at: nobody could tell the two apart, and EC2 deletes entries by
        // their number alone.
        let is_free = |number: u16| {
            let (now, shown) = (self.world.things.borrow(), self.world.shown());
            [&*now, &shown]
                .iter()
                .all(|things| things.acls.get(acl_id).is_some_and(|acl| acl.is_free(number)))
                && now.acls[acl_id].entries.len() < 12
        };
        let what = match self.random.below(16) {
            0 | 1 => {
                let ours: Vec<_> = self.world.ours.borrow().iter().cloned().collect();
                if ours.is_empty() {
                    return;
                }
                let (acl, number) = self.random.pick(&ours).clone();
                self.world.delete_entry(&acl, number);
                format!("our entry {number} of {acl} is deleted")
            }
            2 if is_free(number) => {
                let equal = Entry {
                    protocol: Some(6),
                    ports: Some((0, u16::MAX)),
                    ..entry(number, Effect::Deny, &source)
                };
                self.world.put_entry(acl_id, equal);
                format!("somebody denies {source} in {acl_id} at {number}")
            }
            3 => {
                let before = u16::try_from(1 + self.random.below(3)).unwrap();
                if !is_free(before) {
                    return;
                }
                self.world
                    .put_entry(acl_id, entry(before, Effect::Allow, "203.0.113.128/25"));
                format!("somebody allows 203.0.113.128/25 in {acl_id} at {before}")
            }
            4 => {
                let low = u16::try_from(1 + self.random.below(3)).unwrap();
                if !is_free(low) {
                    return;
                }
                self.world.put_entry(acl_id, entry(low, Effect::Deny, "192.0.2.1/32"));
                format!("somebody denies 192.0.2.1/32 in {acl_id} at {low}")
            }
            5 => {
                self.world.untag(group);
                self.untagged.insert(group.to_owned());
                format!("{group} loses its tag")
            }
            6 => {
                self.world.change(|things| {
                    if let Some(found) = things.groups.get_mut(group) {
                        found.tags = crate::testing::group(group).tags;
                    }
                });
                format!("{group} has its tag again")
            }
            7 => {
                self.world.attach(group, Some("eni-1"));
                format!("{group} is attached")
            }
            8 => {
                self.world.attach(group, None);
                format!("{group} is detached")
            }
            9 => {
                self.world.change(|things| {
                    let found = things.acls.get_mut(acl_id).unwrap();
                    found.has_subnet = !found.has_subnet;
                });
                format!("{acl_id} loses its subnets, or has some again")
            }
            10 => {
                self.world.change(|things| {
                    things.acls.entry(ACL_C.to_owned()).or_insert_with(|| acl(ACL_C));
                });
                format!("there is {ACL_C}")
            }
            12 => {
                self.world.change(|things| {
                    for rule in things.rules.entry(group.to_owned()).or_default().values_mut() {
                        rule.tags.clear();
                    }
                });
                format!("the rules of {group} lose their tags")
            }
            13 => {
                self.world.change(|things| {
                    things.groups.remove(group);
                    things.rules.remove(group);
                });
                format!("{group} is deleted")
            }
            14 => {
                self.world.change(|things| {
                    things
                        .groups
                        .entry(group.to_owned())
                        .or_insert_with(|| crate::testing::group(group));
                });
                format!("there is {group}")
            }
            15 => {
                let mut policy = self.world.policy.borrow_mut();
                let target: actions::Target = self.random.pick(&TARGETS).parse().unwrap();
                let protected = vec![target.network()];
                policy.protected = if policy.protected.is_empty() {
                    protected
                } else {
                    Vec::new()
                };
                format!("PROTECTED_CIDRS are {:?}", policy.protected)
            }
            11 => {
                self.world
                    .change(|things| things.rules.entry(group.to_owned()).or_default().clear());
                format!("the rules of {group} are revoked")
            }
            _ => {
                let mut policy = self.world.policy.borrow_mut();
                policy.enforcement = match policy.enforcement {
                    Enforcement::NetworkAcl => Enforcement::None,
                    Enforcement::None => Enforcement::NetworkAcl,
                };
                format!("ENFORCEMENT is {:?}", policy.enforcement)
            }
        };
        self.note(what);
    }

    async fn audit(&mut self) {
        self.disturb();
        if self.random.one_in(2) {
            self.plan_faults();
        }
        self.plan_kill();
        self.run_audit().await;
        self.clear_faults();
    }

    async fn run_audit(&mut self) {
        let made = self.world.made.borrow().len();
        let sent = self.world.sent.borrow().len();
        let outcome = self
            .unless_killed(Box::pin(self.world.run(r#"{"mode":"audit"}"#)))
            .await;
        let made = self.world.made.borrow()[made..].to_vec();
        let told: Vec<String> = self.world.sent.borrow()[sent..]
            .iter()
            .map(|told| told["summary"].to_string())
            .collect();
        self.note(format!("audit: {outcome:?}; made {made:?}; told {told:?}"));
        if outcome.is_none() {
            sleep(Duration::from_secs(61)).await;
        }
    }

    /// Nothing goes wrong any more.
    async fn come_to_rest(&mut self) {
        self.note("nothing goes wrong any more");
        self.world.quota.set(40);
        self.world.policy.borrow_mut().enforcement = Enforcement::NetworkAcl;
        sleep(Duration::from_secs(90)).await;
        for _ in 0..100 {
            let Some(message) = (!self.queue.is_empty()).then(|| self.queue.remove(0)) else {
                break;
            };
            self.deliver(message).await;
            self.check_violations();
        }
        assert!(self.queue.is_empty(), "seed {}: messages are left", self.seed);
        for _ in 0..3 {
            sleep(Duration::from_mins(5)).await;
            self.run_audit().await;
            self.check_violations();
        }
        let (calls, sent) = (self.world.calls.borrow().len(), self.world.sent.borrow().len());
        let is_overdue = {
            let now = self.world.clock().now();
            self.world
                .blocks
                .borrow()
                .values()
                .any(|block| block.has_ended(now) && block.is_wanted())
        };
        self.run_audit().await;
        let full = self.is_short_of_room();
        if !is_overdue && !full {
            let calls = self.world.calls.borrow()[calls..].to_vec();
            if calls != ["all ", "survey "] {
                self.fail(&format!("an audit after a clean one calls {calls:?}"));
            }
        }
        if !is_overdue && self.world.sent.borrow().len() != sent {
            self.fail("an audit after a clean one tells something");
        }
    }

    /// Some block has nowhere to be denied.
    fn is_short_of_room(&self) -> bool {
        let policy = self.world.policy.borrow();
        let blocks = self.world.blocks.borrow();
        blocks.values().filter(|block| block.is_wanted()).any(|block| {
            let comparison = compare(block, Goal::of(block), &self.seen(block), &self.others(block), &policy);
            !comparison.refused.is_empty() || !comparison.is_enforced()
        })
    }

    fn check_violations(&self) {
        if let Some(violation) = self.world.violations.borrow().first() {
            self.fail(violation);
        }
    }

    fn check_end(&self) {
        let now = self.world.clock().now();
        let blocks: Vec<Block> = self.world.blocks.borrow().values().cloned().collect();
        let policy = self.world.policy.borrow().clone();
        for block in &blocks {
            if matches!(block.state, actions::block::State::Lifting { .. }) || block.is_overdue(now) {
                self.fail(&format!("still there: {block:?}"));
            }
            if !block.is_wanted() || block.has_ended(now) {
                continue;
            }
            let comparison = compare(block, Goal::of(block), &self.seen(block), &self.others(block), &policy);
            if !comparison.steps.is_empty() || !comparison.then.is_empty() {
                self.fail(&format!(
                    "{} differs: {:?} then {:?}",
                    block.rule, comparison.steps, comparison.then
                ));
            }
            if block.enforced != comparison.is_enforced() {
                self.fail(&format!("the table says enforced {}: {block:?}", block.enforced));
            }
        }
        let known: BTreeSet<(String, u16)> = blocks
            .iter()
            .filter(|block| !block.is_lifted())
            .flat_map(|block| &block.entries)
            .map(|placed| (placed.acl.to_string(), placed.number))
            .collect();
        for ours in self.world.ours.borrow().iter() {
            if !known.contains(ours) {
                self.fail(&format!("off the record: {ours:?}"));
            }
        }
        let things = self.world.things.borrow();
        for (id, rules) in &things.rules {
            let list = ListState::of(things.groups.get(id), &policy.tag);
            if matches!(list, ListState::Attached(_)) && !rules.is_empty() {
                self.fail(&format!("{id} is attached, and has {rules:?}"));
            }
            let is_checked = list == ListState::Detached && !self.untagged.contains(id);
            for rule in rules.keys().filter(|_| is_checked) {
                let is_wanted = |block: &&Block| block.group.as_str() == id && block.rule == *rule && block.is_wanted();
                if !blocks.iter().any(|block| is_wanted(&block)) {
                    self.fail(&format!("the rule {rule} of {id} is nobody's"));
                }
            }
        }
    }
}

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { Simulation::new(seed).history().await });
}

#[test]
fn histories_end_as_the_table_says_and_results_tell_the_truth() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SIMULATION_SEED") {
        return run(seed);
    }
    let seeds = 0..number("SIMULATION_HISTORIES").unwrap_or(HISTORIES);
    let failed: Vec<u64> = seeds
        .filter(|seed| std::panic::catch_unwind(|| run(*seed)).is_err())
        .collect();
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}
