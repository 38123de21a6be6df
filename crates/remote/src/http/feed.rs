//! A request whose body comes from its caller part by part, so that no more of it than a few parts is ever in memory.

use std::sync::mpsc as std_mpsc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{Fault, Response};
use crate::runtime;

/// Parts that were given and are not sent yet, at most.
pub(super) const PARTS_AHEAD: usize = 2;

/// Such a request while it is sent. Dropped before its end, it breaks the connection: the service sees that the body is not
/// whole.
#[derive(Debug)]
pub struct Feed {
    host: String,
    parts: mpsc::Sender<Bytes>,
    is_over: watch::Receiver<bool>,
    answer: std_mpsc::Receiver<Result<Response, Fault>>,
}

/// Where the answer of such a request is told.
pub(super) struct Done {
    over: watch::Sender<bool>,
    answer: std_mpsc::SyncSender<Result<Response, Fault>>,
}

impl Done {
    pub(super) fn tell(self, answer: Result<Response, Fault>) {
        // A caller that has gone does not want to know.
        let _ = self.answer.try_send(answer);
        let _ = self.over.send(true);
    }
}

impl Feed {
    pub(super) fn new(host: String, parts: mpsc::Sender<Bytes>) -> (Self, Done) {
        let (over, is_over) = watch::channel(false);
        let (sender, answer) = std_mpsc::sync_channel(1);
        (Self { host, parts, is_over, answer }, Done { over, answer: sender })
    }

    /// Gives the next part, and waits while those before it are on their way. `false` when there is an answer, or none to
    /// come, before the body is whole: see [`Feed::finish`].
    pub fn push(&mut self, part: Bytes) -> bool {
        if part.is_empty() {
            return true;
        }
        let (parts, mut is_over) = (self.parts.clone(), self.is_over.clone());
        let given = runtime::wait(async move {
            tokio::select! {
                given = parts.send(part) => given.is_ok(),
                _ = is_over.wait_for(|is_over| *is_over) => false,
            }
        });
        given == Some(true)
    }

    /// Waits for the answer. A body that is not whole breaks the connection, unless the service has answered before.
    ///
    /// # Errors
    /// There is no answer.
    pub fn finish(self) -> Result<Response, Fault> {
        let Self { host, parts, answer, .. } = self;
        drop(parts);
        let lost = || Fault::Broken { host, what: "the request was given up".to_owned() };
        answer.recv().unwrap_or_else(|_| Err(lost()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, mpsc};
    use std::thread::JoinHandle;
    use std::time::Duration;

    use bytes::Bytes;
    use leeward_store::bucket::{RequestClass, Requests};

    use crate::http::{Client, Method, Request};

    /// Serves one connection, and returns all that came on it.
    fn serve(act: impl FnOnce(&mut TcpStream) -> Vec<u8> + Send + 'static) -> (Request, JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || act(&mut listener.accept().unwrap().0));
        (Request::new(Method::PUT, origin, "/file"), served)
    }

    fn client() -> Client {
        Client::new(Arc::new(Requests::default())).unwrap().with_idle_timeout(Duration::from_millis(400))
    }

    #[test]
    fn a_body_of_many_parts_arrives_whole_however_slowly_it_is_given() {
        let (request, served) = serve(|stream| {
            let mut all = Vec::new();
            while !all.ends_with(b"the end") {
                let mut part = [0; 65536];
                let read = stream.read(&mut part).unwrap();
                all.extend_from_slice(&part[..read]);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            all
        });
        let zeros = Bytes::from(vec![0; 1 << 20]);
        let mut feed = client().feed(request, (4 << 20) + 7, RequestClass::Other).unwrap();
        for number in 0..4 {
            if number == 2 {
                // Longer than nothing may move.
                std::thread::sleep(Duration::from_millis(900));
            }
            assert!(feed.push(zeros.clone()), "part {number}");
        }
        assert!(feed.push(Bytes::from_static(b"the end")));
        assert_eq!(feed.finish().unwrap().status, 204);
        let all = served.join().unwrap();
        let head = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert!(String::from_utf8_lossy(&all[..head]).to_lowercase().contains("content-length: 4194311\r\n"));
        assert_eq!(all.len() - head, (4 << 20) + 7);
    }

    #[test]
    fn an_answer_in_the_middle_ends_it_and_is_told() {
        let (request, served) = serve(|stream| {
            let mut part = [0; 65536];
            let _ = stream.read(&mut part).unwrap();
            stream
                .write_all(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nfull")
                .unwrap();
            // Closed in order, so that the answer is not lost with what was not read.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            while stream.read(&mut part).is_ok_and(|read| read > 0) {}
            Vec::new()
        });
        let mut feed = client().feed(request, 1 << 30, RequestClass::Other).unwrap();
        let zeros = Bytes::from(vec![0; 1 << 20]);
        let given = (0..1024).take_while(|_| feed.push(zeros.clone())).count();
        assert!(given < 1024, "the answer was not noticed");
        let answer = feed.finish().unwrap();
        assert_eq!((answer.status, answer.body), (413, b"full".to_vec()));
        served.join().unwrap();
    }

    #[test]
    fn a_body_that_is_not_whole_breaks_the_connection() {
        let (arrived, has_arrived) = mpsc::channel();
        let (request, served) = serve(move |stream| {
            let (mut all, mut part) = (Vec::new(), [0; 65536]);
            while let Ok(read @ 1..) = stream.read(&mut part) {
                all.extend_from_slice(&part[..read]);
                if all.ends_with(b"a part") {
                    let _ = arrived.send(());
                }
            }
            all
        });
        let mut feed = client().feed(request, 1 << 20, RequestClass::Other).unwrap();
        assert!(feed.push(Bytes::from_static(b"a part")));
        // A body that is given up at once may never begin: what was not sent yet is dropped with the connection.
        has_arrived.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(feed.finish().is_err());
        let all = served.join().unwrap();
        assert!(all.ends_with(b"a part"), "{}", String::from_utf8_lossy(&all));
    }

    #[test]
    fn a_service_that_takes_nothing_is_given_up() {
        let (request, served) = serve(|stream| {
            std::thread::sleep(Duration::from_secs(3));
            drop(stream.shutdown(std::net::Shutdown::Both));
            Vec::new()
        });
        let mut feed = client().feed(request, 1 << 40, RequestClass::Other).unwrap();
        let zeros = Bytes::from(vec![0; 8 << 20]);
        while feed.push(zeros.clone()) {}
        assert!(feed.finish().unwrap_err().is_transient());
        served.join().unwrap();
    }
}
