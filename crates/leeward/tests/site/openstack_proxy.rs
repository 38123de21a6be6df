//! A proxy between the daemon and the services of a test bed, which spoils some of what passes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It does not arrive; this is the answer.
    Answer(u16, &'static str),
    /// It is carried out, and the answer does not arrive.
    Lose,
    /// After so many bytes of its body the connection breaks.
    Cut(usize),
    /// It is carried out, and this text in the answer is another.
    Replace(&'static str, &'static str),
}

struct Rule {
    method: &'static str,
    path: &'static str,
    act: Act,
    count: u32,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
}

pub struct Proxy {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let _ = serve(&stream, &state);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, state }
    }

    /// From now on the next `count` requests with this method, whose path contains (or, for `/volumes` and `/images`, ends with)
    /// this, are spoilt.
    pub fn fault(&self, method: &'static str, path: &'static str, act: Act, count: u32) {
        self.state.lock().unwrap().rules.push(Rule { method, path, act, count });
    }

    pub fn clear(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// How many requests are still to be spoilt.
    pub fn left(&self) -> u32 {
        self.state.lock().unwrap().rules.iter().map(|rule| rule.count).sum()
    }
}

fn act_for(state: &Mutex<State>, method: &str, path: &str) -> Option<Act> {
    let path = path.split('?').next().unwrap_or_default();
    let mut state = state.lock().unwrap();
    let rule = state.rules.iter_mut().find(|rule| {
        let fits = if rule.path.ends_with('/') {
            path.contains(rule.path) && !path.ends_with("/detail")
        } else {
            path.ends_with(rule.path)
        };
        rule.count > 0 && rule.method == method && fits
    })?;
    rule.count -= 1;
    Some(rule.act)
}

/// Serves one request; the connection is closed after it.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, url) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let Some((host, path)) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')) else {
        return Ok(());
    };
    let (mut headers, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "connection" | "proxy-connection" | "proxy-authorization" => continue,
            _ => {}
        }
        headers.push_str(&header);
    }
    let act = act_for(state, &method, &format!("/{path}"));
    let mut answer = stream;
    if let Some(Act::Answer(status, body)) = act {
        // The body is taken, so that the answer is not lost with it.
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        let head = format!(
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        return answer.write_all(head.as_bytes());
    }
    let mut service = TcpStream::connect(host)?;
    service
        .write_all(format!("{method} /{path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").as_bytes())?;
    if let Some(Act::Cut(bytes)) = act {
        std::io::copy(&mut (&mut reader).take(bytes as u64), &mut service)?;
        return service.shutdown(Shutdown::Both);
    }
    std::io::copy(&mut (&mut reader).take(length), &mut service)?;
    let mut all = Vec::new();
    match act {
        Some(Act::Lose) => service.read_to_end(&mut all).map(drop),
        Some(Act::Replace(from, to)) => {
            service.read_to_end(&mut all)?;
            let text = String::from_utf8_lossy(&all);
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
            let body = body.replacen(from, to, 1);
            let status = head.lines().next().unwrap_or_default();
            let head = format!(
                "{status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            answer.write_all(head.as_bytes())?;
            answer.write_all(body.as_bytes())
        }
        _ => std::io::copy(&mut service, &mut answer).map(drop),
    }
}
