//! One poll: every page of a region, each delivered while the next is fetched.

use std::borrow::Cow;

use asff::{Event, Observed};
use aws_support::{AwsError, Clock, Deadline, ErrorKind};
use aws_text::Region;

use crate::deliver::{self, EventSink, Message};
use crate::query::Query;
use crate::report::{GET_FINDINGS, RegionError, RegionReport};
use crate::security_hub::FindingSource;

/// Delivers every finding of the query in one region. Memory is bounded: one page in hand, one on its way.
pub async fn poll_region(
    source: &impl FindingSource,
    sink: &impl EventSink,
    clock: &impl Clock,
    region: &Region,
    query: &Query,
    deadline: &Deadline,
) -> RegionReport {
    let mut report = RegionReport {
        region: region.clone(),
        pages: 0,
        findings_seen: 0,
        events_sent: 0,
        duplicates_skipped: 0,
        updated_through: None,
        complete: false,
        error: None,
    };
    let mut refused = Vec::new();
    let mut token: Option<String> = None;
    let mut page = source.page(region, query, None, deadline).await;
    let failure = loop {
        let batch = match page.and_then(|body| read_page(&body, region, clock)) {
            Ok(batch) => batch,
            Err(error) => break Some(error),
        };
        if batch.token.is_some() && batch.token == token {
            break Some(unusable("the answer names its own page as the next one"));
        }
        token = batch.token;
        report.pages += 1;
        report.findings_seen += batch.messages.len() as u64;
        let (delivery, next) = futures::join!(deliver::deliver(sink, &batch.messages, deadline), async {
            match &token {
                Some(token) => Some(source.page(region, query, Some(token), deadline).await),
                None => None,
            }
        });
        report.events_sent += delivery.confirmed.len() as u64;
        for refused in &delivery.refused {
            tracing::error!(
                %region,
                event_id = refused.event_id,
                finding_id = refused.finding_id,
                code = refused.code,
                "SQS did not take the event: {}", refused.message
            );
        }
        refused.extend(delivery.refused);
        if let Some(error) = delivery.error {
            break Some(error);
        }
        match next {
            Some(next) => page = next,
            None => break None,
        }
    };
    report.complete = failure.is_none() && refused.is_empty();
    report.error = failure
        .and_then(|error| RegionError::of_call(&error, region))
        .or_else(|| RegionError::of_refused(&refused));
    report
}

/// A page, ready to be sent.
struct Batch {
    messages: Vec<Message>,
    token: Option<String>,
}

fn read_page(body: &str, region: &Region, clock: &impl Clock) -> Result<Batch, AwsError> {
    let page = asff::split(body).map_err(|error| unusable(&format!("{error}: {}", error.0)))?;
    let at = clock.stamp();
    let observed = Observed {
        region: region.as_str(),
        at: &at,
    };
    let messages = page
        .findings
        .into_iter()
        .map(|finding| {
            let event = Event::from_finding(finding, observed);
            Ok(Message {
                body: event.to_body()?,
                attributes: event.attributes(),
                finding_id: event.external_id.map(Cow::into_owned),
                event_id: event.event_id,
            })
        })
        .collect::<Result<Vec<_>, serde_json::Error>>()
        .map_err(|error| unusable(&error.to_string()))?;
    Ok(Batch {
        messages,
        token: page.next_token.map(Cow::into_owned),
    })
}

/// An answer of Security Hub that cannot be used; the next one may be.
fn unusable(message: &str) -> AwsError {
    AwsError {
        kind: ErrorKind::Unreachable,
        message: message.to_owned(),
        ..AwsError::out_of_time(GET_FINDINGS)
    }
}
