//! The one server: AWS and the Lambda runtime API at one address.

use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::aws::{self, Hub, Seen};
use crate::ec2::Network;
use crate::http::{self, Answer, Request};
use crate::runtime::{self, Runtime};

/// What stands behind the address.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    /// How long AWS takes for a call
    latency: Duration,
    state: Mutex<State>,
}

/// AWS.
#[derive(Debug)]
pub struct State {
    /// Findings to be given
    pub hub: Hub,
    /// What reached it
    pub seen: Seen,
    /// Calls under way, and the most there were at once
    pub under_way: u64,
    /// The most calls that were under way at once
    pub at_once: u64,
    /// Of the calls that are over, the longest row in which each began after the one before had ended
    pub in_sequence: u64,
    /// The network that a block is put into
    pub network: Network,
}

impl Server {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    /// Where there is none.
    pub fn start(runtime: Runtime, hub: Hub, latency: Duration) -> io::Result<(Arc<Self>, SocketAddr)> {
        let server = Arc::new(Self {
            runtime,
            latency,
            state: Mutex::new(State {
                hub,
                seen: Seen::default(),
                under_way: 0,
                at_once: 0,
                in_sequence: 0,
                network: Network::default(),
            }),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let accepting = Arc::clone(&server);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let server = Arc::clone(&accepting);
                // A connection that breaks is the contender's end, or its fault, which its counts show.
                thread::spawn(move || server.serve(connection));
            }
        });
        Ok((server, address))
    }

    /// What AWS knows.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut requests = BufReader::with_capacity(256 * 1024, connection.try_clone()?);
        while let Some(request) = http::read(&mut requests)? {
            let answer = if request.path.starts_with(runtime::PATH) {
                self.runtime.answer(&request)
            } else {
                Some(self.call(&request))
            };
            let Some(answer) = answer else {
                break;
            };
            http::write(&mut connection, &answer)?;
        }
        Ok(())
    }

    fn call(&self, request: &Request) -> Answer {
        let place = {
            let mut state = self.state();
            state.under_way += 1;
            state.at_once = state.at_once.max(state.under_way);
            state.in_sequence + 1
        };
        thread::sleep(self.latency);
        let mut state = self.state();
        let State { hub, seen, network, .. } = &mut *state;
        let answer = aws::answer(request, hub, seen).or_else(|| {
            let (action, answer) = network.answer(request)?;
            *seen.calls.entry(action).or_default() += 1;
            Some(answer)
        });
        state.under_way -= 1;
        state.in_sequence = state.in_sequence.max(place);
        answer.unwrap_or_else(|| Answer::refused(&format!("no such call: {} {}", request.path, request.target)))
    }
}
