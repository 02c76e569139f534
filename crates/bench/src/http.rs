//! As much of HTTP/1.1 as SDKs and runtimes speak to a server: requests with a length, connections that are kept.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A request.
#[derive(Debug, Default)]
pub struct Request {
    /// Such as `POST`
    pub method: String,
    /// Path and query
    pub path: String,
    /// `X-Amz-Target`, which names the operation of a JSON service; empty where there is none
    pub target: String,
    /// The body
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Such as 200
    pub status: u16,
    /// Beside the length
    pub headers: Vec<(&'static str, String)>,
    /// The body
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer of 200.
    #[must_use]
    pub fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", content_type.to_owned())],
            body: body.into(),
        }
    }

    /// What no contender should get: the benchmark then fails, for work is missing.
    #[must_use]
    pub fn refused(why: &str) -> Self {
        Self {
            status: 400,
            headers: vec![("content-type", "text/plain".to_owned())],
            body: why.as_bytes().to_vec(),
        }
    }
}

/// The next request of a connection; `None` at its end.
///
/// # Errors
/// Where the connection breaks, or what it brings is no request this server can read.
pub fn read(connection: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut request = Request::default();
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    words.next().unwrap_or_default().clone_into(&mut request.method);
    words.next().unwrap_or_default().clone_into(&mut request.path);
    let mut length = 0;
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().map_err(io::Error::other)?,
            "x-amz-target" => value.clone_into(&mut request.target),
            "transfer-encoding" => return Err(io::Error::other("a request without a length")),
            _ => {}
        }
    }
    request.body = vec![0; length];
    connection.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// Sends an answer.
///
/// # Errors
/// Where the connection breaks.
pub fn write(connection: &mut TcpStream, answer: &Answer) -> io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} .\r\ncontent-length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    // One write: two small ones would wait for each other's acknowledgement.
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&answer.body);
    connection.write_all(&bytes)
}
