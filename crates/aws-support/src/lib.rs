//! What both functions share on the way to AWS: the SDK's configuration, what an SDK error means, the deadline that
//! bounds every call, and the reading of settings.
//!
//! What it guarantees: no call outlives the invocation ([`deadline`]), and every error says whether a retry can help
//! ([`error::ErrorKind`]).

pub mod capture;
pub mod clock;
pub mod credentials;
pub mod deadline;
pub mod error;
pub mod metrics;
pub mod sdk;
pub mod settings;

pub use clock::{Clock, SystemClock};
pub use deadline::Deadline;
pub use error::{AwsError, ErrorKind, call};
pub use settings::{Settings, SettingsError};
