//! Connections to one server, as many as there are requests under way.
//!
//! HTTP/2 would carry all requests over one connection. On a way that loses packets that is one congestion window for all
//! of them: six writes at once would get a sixth of what six connections get, and each lost packet would hold up all. So
//! each request takes the connection with the fewest requests under way, in the order in which they were opened: small
//! requests one after the other share the first, and no connection is opened that nobody waits for. Beyond the greatest
//! number of connections requests share them as HTTP/2 has it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::location::Location;
use super::transport::Upload;
use super::{Trust, tls};

/// How long a connection may take to come about.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// How long a connection is kept without a request.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// A client that keeps one connection over HTTP/2.
type OneConnection = Client<HttpsConnector<HttpConnector>, Upload>;

/// Connections to one server.
pub(super) struct Lanes {
    clients: Vec<OneConnection>,
    /// Requests under way on each.
    under_way: Mutex<Vec<usize>>,
}

/// A place for one request on a connection.
pub(super) struct Lane<'a> {
    lanes: &'a Lanes,
    number: usize,
}

impl Lanes {
    /// So many connections at most, and one at least. None is opened yet.
    ///
    /// # Errors
    /// The certificates that are trusted make no sense.
    pub(super) fn new(location: &Location, trust: &Trust, connections: usize) -> Result<Self, String> {
        let config = tls::config(trust)?;
        let connections = connections.max(1);
        let clients = (0..connections)
            .map(|_| {
                let mut http = HttpConnector::new();
                http.enforce_http(false);
                http.set_nodelay(true);
                http.set_connect_timeout(Some(CONNECT_TIME));
                let builder = HttpsConnectorBuilder::new().with_tls_config(config.clone());
                let builder = if location.is_secure { builder.https_only() } else { builder.https_or_http() };
                one_connection(builder.enable_all_versions().wrap_connector(http))
            })
            .collect();
        Ok(Self { clients, under_way: Mutex::new(vec![0; connections]) })
    }

    /// Takes a place on the connection that has the fewest requests under way.
    pub(super) fn enter(&self) -> Lane<'_> {
        let mut under_way = self.under_way();
        let number = least(&under_way);
        if let Some(count) = under_way.get_mut(number) {
            *count += 1;
        }
        Lane { lanes: self, number }
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane<'_> {
    /// The connection.
    pub(super) fn client(&self) -> &OneConnection {
        &self.lanes.clients[self.number]
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.lanes.under_way().get_mut(self.number) {
            *count -= 1;
        }
    }
}

/// The first of those with the least.
fn least(under_way: &[usize]) -> usize {
    under_way.iter().enumerate().min_by_key(|(_, count)| **count).map_or(0, |(number, _)| number)
}

fn one_connection(connector: HttpsConnector<HttpConnector>) -> OneConnection {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEPT_FOR)
        .http2_initial_stream_window_size(4 << 20)
        .http2_initial_connection_window_size(32 << 20)
        .http2_max_frame_size(256 << 10)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(20))
        .build(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_at_once_go_apart_and_one_after_the_other_together() {
        let location = Location::parse("http://127.0.0.1:1").unwrap();
        let lanes = Lanes::new(&location, &Trust::default(), 3).unwrap();
        for _ in 0..4 {
            assert_eq!(lanes.enter().number, 0, "nothing else is under way");
        }
        let mut places: Vec<Lane<'_>> = (0..5).map(|_| lanes.enter()).collect();
        let numbers: Vec<usize> = places.iter().map(|place| place.number).collect();
        assert_eq!(numbers, [0, 1, 2, 0, 1], "beyond three they share");
        drop(places.remove(2));
        assert_eq!(lanes.enter().number, 2);
    }
}
