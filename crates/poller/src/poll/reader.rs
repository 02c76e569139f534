//! Reads a window page by page, each delivered while the next is fetched. In memory are one page in hand and one on its
//! way.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use asff::{Event, Observed};
use aws_support::{AwsError, Clock, ErrorKind};
use jiff::Timestamp;

use super::checkpoint::Window;
use crate::delivery::{Counts, DeliveredItems, EventSink, Finding, ParkedEvents, Pipeline};
use crate::security_hub::{Filters, Query};
use crate::security_hub::{FindingSource, GET_FINDINGS};

/// How often a page token may be unusable before the position has moved.
const MAX_RESTARTS: u32 = 3;
/// A checkpoint is kept after so many pages: to read them again costs two calls each, and to keep it one.
const PAGES_A_CHECKPOINT: u32 = 20;

/// Reads windows of one region.
#[derive(Debug)]
pub struct Reader<'a, F, S, T, C> {
    /// Where findings come from
    pub source: &'a F,
    /// Filters from the settings
    pub filters: &'a Filters,
    /// With less than this left no further page is begun
    pub stop_margin: Duration,
    /// What becomes of findings
    pub pipeline: Pipeline<'a, S, T, C>,
}

/// How the reading of a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its end
    Finished,
    /// Time ran out
    OutOfTime,
}

impl<F: FindingSource, S: EventSink, T: DeliveredItems + ParkedEvents, C: Clock> Reader<'_, F, S, T, C> {
    /// Whether no further page is to be begun.
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        self.pipeline.deadline.left() < self.stop_margin
    }

    /// Reads a window from where an earlier run left it. However it ends, the window then says what is delivered.
    ///
    /// # Errors
    /// Where a page cannot be read or delivered.
    pub async fn read(
        &mut self,
        window: &mut Window,
        counts: &mut Counts,
        mut keep: impl AsyncFnMut(&Window) -> Result<(), AwsError>,
    ) -> Result<End, AwsError> {
        match self.read_pages(window, counts, &mut keep).await {
            Err(error) if error.kind == ErrorKind::OutOfTime => Ok(End::OutOfTime),
            end => end,
        }
    }

    async fn read_pages(
        &mut self,
        window: &mut Window,
        counts: &mut Counts,
        keep: &mut impl AsyncFnMut(&Window) -> Result<(), AwsError>,
    ) -> Result<End, AwsError> {
        let (source, filters) = (self.source, self.filters);
        let (region, deadline) = (self.pipeline.region, self.pipeline.deadline);
        let fetch = async |window: &Window| {
            let query = Query::pages(filters.clone(), window.range());
            source.page(region, &query, window.token.as_deref(), deadline).await
        };
        let mut tokens: HashSet<u64> = window.token.iter().map(|token| hash(token)).collect();
        let mut restarts = 0;
        let mut pages_since_kept = 0;
        let mut body = fetch(window).await;
        loop {
            let text = match body {
                Err(error) if window.token.is_some() && is_about_the_token(&error) => {
                    restarts += 1;
                    if restarts > MAX_RESTARTS {
                        return Err(error);
                    }
                    tracing::warn!(%region, %error, "the page token is not usable: reading the instant again");
                    window.token = None;
                    tokens.clear();
                    body = fetch(window).await;
                    continue;
                }
                body => body?,
            };
            let at = self.pipeline.clock.stamp();
            let (mut findings, token) = page(&text, region.as_str(), &at)?;
            counts.pages += 1;
            counts.findings_seen += findings.len() as u64;

            let is_new = token.as_deref().is_none_or(|token| tokens.insert(hash(token)));
            let updated: Vec<Option<Timestamp>> = findings.iter().map(|finding| finding.updated).collect();
            let mut next = window.after(&updated, token);
            match &mut next {
                Some(next) if next.progress() == window.progress() => {
                    if !is_new {
                        restarts += 1;
                        if restarts > MAX_RESTARTS {
                            return Err(unusable("Security Hub keeps giving page tokens it gave before"));
                        }
                        tracing::warn!(%region, "a page token came again: reading the instant again");
                        next.token = None;
                        tokens.clear();
                    }
                }
                _ => {
                    restarts = 0;
                    tokens.clear();
                }
            }
            if window.range().is_none() {
                // Without a filter there may be newer ones, which are left to the push.
                findings.retain(|finding| finding.updated.is_none_or(|updated| updated <= window.end));
            }
            let goes_on = next.as_ref().filter(|_| !self.is_out_of_time());
            let following = async {
                match goes_on {
                    Some(next) => Some(fetch(next).await),
                    None => None,
                }
            };
            let (delivered, following) = futures::join!(self.pipeline.deliver(findings, counts), following);
            let has_failures = !delivered?;
            window.has_failures |= has_failures;
            let Some(mut next) = next else {
                return Ok(End::Finished);
            };
            next.has_failures |= has_failures;
            *window = next;
            pages_since_kept += 1;
            let Some(following) = following.filter(|_| !self.is_out_of_time()) else {
                return Ok(End::OutOfTime);
            };
            if pages_since_kept == PAGES_A_CHECKPOINT {
                keep(window).await?;
                pages_since_kept = 0;
            }
            body = following;
        }
    }
}

/// The findings of a page, and the token of the next.
fn page<'a>(body: &'a str, region: &'a str, at: &'a str) -> Result<(Vec<Finding<'a>>, Option<String>), AwsError> {
    let observed = Observed { region, at };
    let page = asff::split(body, |finding| Finding::new(Event::from_finding(&finding, observed)))
        .map_err(|error| unusable(&format!("{error}: {}", error.0)))?;
    Ok((page.findings, page.next_token.map(Into::into)))
}

/// Tokens are long, and an instant can have thousands. Two of one hash would only start it again.
fn hash(token: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    token.hash(&mut hasher);
    hasher.finish()
}

/// Security Hub refuses a token that has gone stale, or that is not one of the query, as an invalid input.
fn is_about_the_token(error: &AwsError) -> bool {
    error.action == GET_FINDINGS && error.has_code("InvalidInputException")
}

/// An answer of Security Hub that cannot be used; the next one may be.
fn unusable(message: &str) -> AwsError {
    AwsError::new(GET_FINDINGS, ErrorKind::Unreachable, message.to_owned())
}
