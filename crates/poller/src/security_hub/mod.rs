//! Security Hub, with findings taken as text.

pub mod query;
pub mod rate;
pub mod v1;

use aws_support::{AwsError, Deadline};
use aws_text::Region;

pub use query::{Filters, Query, Range};
pub use v1::{GET_FINDINGS, SecurityHub};

/// Where findings come from.
pub trait FindingSource {
    /// One page of a query: the body of the answer, as it came. `token` is the page's, `None` for the first.
    ///
    /// # Errors
    /// Where there is no page.
    fn page(
        &self,
        region: &Region,
        query: &Query,
        token: Option<&str>,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<String, AwsError>>;

    /// How often the region has asked for fewer requests since this was last called.
    fn take_throttles(&self, region: &Region) -> u64;
}
