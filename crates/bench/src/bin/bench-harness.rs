//! Runs one contender: starts it under the canned AWS and Lambda runtime API, gives it events, and says in JSON what each
//! took and what reached AWS.
//!
//! `bench-harness OPTION... -- COMMAND...`, with the options
//! `--findings N` (for each event), `--kilobytes 1.5|5|15` (a finding's size), `--latency-ms N` (of each AWS call),
//! `--event JSON`, `--events N`, `--rest-ms N` (between events), `--env NAME=VALUE`, `--log FILE` (its output).

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bench::aws::{Hub, Seen};
use bench::ec2::Network;
use bench::findings::Findings;
use bench::process;
use bench::runtime::{Runtime, Said};
use bench::server::Server;
use serde_json::{Value, json};

/// Longer than any invocation takes.
const PATIENCE: Duration = Duration::from_mins(20);
/// How often it is looked whether the contender is still there.
const LOOK: Duration = Duration::from_millis(100);

struct Options {
    findings: u64,
    kilobytes: String,
    latency: Duration,
    event: String,
    events: u64,
    rest: Duration,
    env: BTreeMap<String, String>,
    log: Option<String>,
    command: Vec<String>,
}

/// Ends the contender with the harness.
struct Contender(Child);

impl Contender {
    fn wait_for(&mut self, said: &Receiver<Said>) -> Result<Said> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Ok(said) = said.recv_timeout(LOOK) {
                return Ok(said);
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("the contender has ended: {status}");
            }
        }
        bail!("the contender says nothing")
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

fn main() -> Result<()> {
    let options = Options::read(env::args().skip(1))?;
    let report = measure(&options)?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            findings: 0,
            kilobytes: "5".to_owned(),
            latency: Duration::ZERO,
            event: "{}".to_owned(),
            events: 0,
            rest: Duration::ZERO,
            env: BTreeMap::new(),
            log: None,
            command: Vec::new(),
        };
        while let Some(word) = words.next() {
            if word == "--" {
                options.command = words.collect();
                ensure!(!options.command.is_empty(), "no command");
                return Ok(options);
            }
            let value = words.next().with_context(|| format!("{word} has no value"))?;
            match word.as_str() {
                "--findings" => options.findings = value.parse()?,
                "--kilobytes" => options.kilobytes = value,
                "--latency-ms" => options.latency = Duration::from_millis(value.parse()?),
                "--event" => options.event = value,
                "--events" => options.events = value.parse()?,
                "--rest-ms" => options.rest = Duration::from_millis(value.parse()?),
                "--env" => {
                    let (name, value) = value.split_once('=').context("--env NAME=VALUE")?;
                    options.env.insert(name.to_owned(), value.to_owned());
                }
                "--log" => options.log = Some(value),
                _ => bail!("no such option: {word}"),
            }
        }
        bail!("no command")
    }
}

fn measure(options: &Options) -> Result<Value> {
    let (say, said) = mpsc::channel();
    let (give, events) = mpsc::channel();
    let hub = Hub {
        findings: Findings::of_size(&options.kilobytes).context("no findings of that size")?,
        first: 0,
        count: options.findings,
    };
    let (server, address) = Server::start(Runtime::new(say, events), hub, options.latency)?;

    let output = || match &options.log {
        Some(path) => Ok::<_, anyhow::Error>(Stdio::from(File::options().append(true).create(true).open(path)?)),
        None => Ok(Stdio::null()),
    };
    let url = format!("http://{address}");
    let mut command = Command::new(&options.command[0]);
    command
        .args(&options.command[1..])
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .envs([
            ("AWS_LAMBDA_RUNTIME_API", address.to_string().as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "bench"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
            ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "bench"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "bench"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "bench"),
            ("AWS_SECRET_ACCESS_KEY", "bench"),
            ("AWS_SESSION_TOKEN", "bench"),
            ("AWS_ENDPOINT_URL", &url),
            ("FINDINGS_QUEUE_URL", &format!("{url}/123456789012/findings")),
            ("RESULTS_QUEUE_URL", &format!("{url}/123456789012/results")),
            ("STATE_TABLE_NAME", "state"),
            ("INITIAL_LOOKBACK_SECONDS", "0"),
            // No other contender sweeps.
            ("SWEEP_HOURS", "0"),
        ])
        .envs(&options.env)
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?);
    let started = Instant::now();
    let mut contender = Contender(command.spawn().context("the contender does not start")?);
    let pid = contender.0.id();
    let ready = wait_until_ready(&mut contender, &said)?;
    let start_cpu = process::cpu(pid)?;

    let mut invocations = Vec::new();
    for number in 0..options.events {
        if number > 0 {
            thread::sleep(options.rest);
        }
        invocations.push(invoke(options, number, &server, &mut contender, &give, &said)?);
    }
    Ok(json!({
        "start_ms": milliseconds(ready - started),
        "start_cpu_ms": milliseconds(start_cpu),
        "finding_bytes": server.state().hub.findings.text(0).len(),
        "peak_kib": process::peak_kib(pid)?,
        "invocations": invocations,
    }))
}

fn invoke(
    options: &Options,
    number: u64,
    server: &Server,
    contender: &mut Contender,
    give: &Sender<String>,
    said: &Receiver<Said>,
) -> Result<Value> {
    {
        let mut state = server.state();
        state.hub.first = number * options.findings;
        state.seen = Seen::default();
        state.network = Network::default();
        (state.at_once, state.in_sequence) = (0, 0);
    }
    let pid = contender.0.id();
    let before = process::cpu(pid)?;
    let given = Instant::now();
    give.send(options.event.clone())?;
    let (answered, answer) = match contender.wait_for(said)? {
        Said::Answered(at, answer) => (at, answer),
        said => bail!("{said:?} in place of an answer"),
    };
    wait_until_ready(contender, said)?;
    let used = process::cpu(pid)?.saturating_sub(before);
    let state = server.state();
    Ok(json!({
        "wall_ms": milliseconds(answered - given),
        "cpu_ms": milliseconds(used),
        "seen": state.seen,
        "intact": state.seen.is_intact(),
        "blocked": state.network.is_blocked(),
        "calls_at_once": state.at_once,
        "calls_in_sequence": state.in_sequence,
        "answer": serde_json::from_str::<Value>(&answer).unwrap_or(Value::String(answer)),
    }))
}

fn wait_until_ready(contender: &mut Contender, said: &Receiver<Said>) -> Result<Instant> {
    match contender.wait_for(said)? {
        Said::Next(at) => Ok(at),
        said => bail!("{said:?} in place of asking for an event"),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
