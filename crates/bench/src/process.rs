//! What a process has used, from Linux's `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// CPU time of all threads that are alive, in nanoseconds; `/proc/<pid>/stat` would give hundredths of a second.
///
/// # Errors
/// Where the process is gone.
pub fn cpu(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let ran = schedstat.split(' ').next().unwrap_or_default();
        nanoseconds += ran.parse::<u64>().context("schedstat has no number")?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The most memory the process has had so far, in KiB.
///
/// # Errors
/// Where the process is gone.
pub fn peak_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_ascii_whitespace().next());
    number.context("no VmHWM")?.parse().context("VmHWM is no number")
}
