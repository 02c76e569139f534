//! `schemas` writes the files of `events/schemas`. `schemas read` reads requests, one a line, as the containment function
//! reads them, and answers each with a line: `null`, or why it is refused. The tests compare that with the schema.

use std::io::{self, BufRead, Write};
use std::{env, fs};

use actions::Asked;
use serde_json::{Value, json};

fn main() -> io::Result<()> {
    if env::args().nth(1).as_deref() == Some("read") {
        return read(&mut io::stdin().lock(), &mut io::stdout().lock());
    }
    let folder = schemas::folder();
    fs::create_dir_all(&folder)?;
    for file in schemas::files() {
        fs::write(folder.join(file.name), file.text)?;
    }
    Ok(())
}

fn read(requests: &mut impl BufRead, answers: &mut impl Write) -> io::Result<()> {
    for request in requests.lines() {
        let refusal = Asked::read(&request?, "")
            .err()
            .map_or(Value::Null, |rejection| json!(rejection.refusal.message));
        writeln!(answers, "{refusal}")?;
    }
    Ok(())
}
