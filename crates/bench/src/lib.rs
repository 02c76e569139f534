//! What the benchmarks need beside the functions: a canned AWS and Lambda runtime API in one server, and what a process
//! has used.
//!
//! The server keeps count of what reached it, so that a benchmark can tell that every contender did the whole work. It
//! has no framework and a thread for each connection: what it costs is not the contender's, but they share a machine.

pub mod aws;
pub mod ec2;
pub mod findings;
pub mod http;
pub mod process;
pub mod runtime;
pub mod server;
