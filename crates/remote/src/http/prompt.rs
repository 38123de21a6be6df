//! A connection on which what has arrived is acknowledged at once.
//!
//! Linux holds an acknowledgement back for 40 ms where it expects something to send along with it, and on a connection that asks
//! and is answered it always does. A server that sends an answer's head and its body apart, and that has left Nagle's
//! algorithm on, holds the body back until the head is acknowledged. Together they make every answer with a body 40 ms late.
//! Ceph's gateway is such a server unless `tcp_nodelay=1` is in its `rgw frontends`. A client cannot switch the
//! algorithm of the other side off, but it can acknowledge (`TCP_QUICKACK` in tcp(7), which does not last and so is
//! said after each read).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Such a connection.
#[derive(Debug)]
pub(super) struct Prompt {
    stream: TcpStream,
    is_to_proxy: bool,
}

impl Prompt {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, is_to_proxy: false }
    }

    /// A connection to a proxy that is asked as if it were the service itself.
    pub(super) fn to_proxy(stream: TcpStream) -> Self {
        Self { stream, is_to_proxy: true }
    }
}

/// A refusal changes nothing but the time that an answer takes.
#[cfg(target_os = "linux")]
fn acknowledge(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_tcp_quickack(stream, true);
}

#[cfg(not(target_os = "linux"))]
fn acknowledge(_stream: &TcpStream) {}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        // While there is more to read, that is read first.
        if read.is_ready() && buffer.remaining() > 0 {
            acknowledge(&self.stream);
        }
        read
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connection for Prompt {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.is_to_proxy)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use leeward_store::bucket::{RequestClass, Requests};

    use crate::http::{Client, Method, Request};

    /// Answers on one connection as Ceph's gateway does: the head, then the body, with Nagle's algorithm on.
    fn serve(mut stream: TcpStream) {
        let mut request = [0; 4096];
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
        while stream.read(&mut request).is_ok_and(|size| size > 0) {
            if stream.write_all(head).and_then(|()| stream.write_all(b"body")).is_err() {
                return;
            }
        }
    }

    #[test]
    fn no_answer_waits_for_an_acknowledgement() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        // A client may open another connection while the one before is on its way back to it.
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(|| serve(stream))))
        });
        let client = Client::new(Arc::new(Requests::default())).unwrap();
        let mut times: Vec<Duration> = (0..25)
            .map(|_| {
                let began = Instant::now();
                let answer =
                    client.send(Request::new(Method::GET, &origin, "/a"), RequestClass::Get).unwrap();
                assert_eq!(answer.body, b"body");
                began.elapsed()
            })
            .collect();
        times.sort();
        // Each but the first would take 40 ms; on a busy machine some do anyway.
        assert!(times[times.len() / 2] < Duration::from_millis(30), "{times:?}");
    }
}
