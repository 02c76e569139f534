//! One run at a time.

use aws_support::{AwsError, Deadline};
use jiff::{SignedDuration, Timestamp};

/// The right to poll, until an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The run that has it
    pub holder: String,
    /// When it ends by itself
    pub until: Timestamp,
}

/// An invocation lasts 15 minutes at most (Lambda's quotas). A lease for longer was taken by a clock that was wrong.
pub const LONGEST: SignedDuration = SignedDuration::from_mins(16);

/// Where the lease is.
pub trait Leases {
    /// Takes the lease, or gives the instant until which another run has it.
    ///
    /// # Errors
    /// Where it is not known to be taken.
    fn take(
        &self,
        lease: &Lease,
        now: Timestamp,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Result<(), Timestamp>, AwsError>>;

    /// Gives it back, if the run still has it.
    ///
    /// # Errors
    /// Where it may still be taken: it then ends by itself.
    fn release(&self, lease: &Lease, deadline: &Deadline) -> impl Future<Output = Result<(), AwsError>>;
}
