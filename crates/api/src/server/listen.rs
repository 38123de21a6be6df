//! The listener: connections with TLS, bounded in number and patience.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::Peer;

/// Bounds of a listener.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Connections at once.
    pub connections: usize,
    /// How long a handshake, and the head of a request, may take.
    pub handshake_time: Duration,
    /// How long a connection may be open without a request that was let in.
    pub idle_time: Duration,
    /// How long what is under way may take once the server is to end.
    pub drain_time: Duration,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshake_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(300),
            drain_time: Duration::from_secs(30),
        }
    }
}

/// What a connection does, for who judges whether it is idle.
pub(crate) struct Activity {
    inside: AtomicUsize,
    last: Mutex<Instant>,
}

/// Counts as activity while it lives.
pub(crate) struct Inside(Arc<Activity>);

impl Activity {
    fn new() -> Arc<Self> {
        Arc::new(Self { inside: AtomicUsize::new(0), last: Mutex::new(Instant::now()) })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Inside {
        self.inside.fetch_add(1, Ordering::Relaxed);
        Inside(Arc::clone(self))
    }

    fn idle_time(&self) -> Duration {
        match self.inside.load(Ordering::Relaxed) {
            0 => self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed(),
            _ => Duration::ZERO,
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Shared {
    router: Router,
    tls: Option<TlsAcceptor>,
    options: ListenOptions,
    stop: watch::Receiver<bool>,
}

/// Serves until `must_stop` says so; then takes no more, and lets what is under way end. Without TLS the listener must be of
/// this machine alone.
///
/// # Errors
/// The listener is open to others without TLS, or the system gives no threads.
pub fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    options: ListenOptions,
    must_stop: &(dyn Fn() -> bool + Sync),
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    if tls.is_none() && !address.ip().is_loopback() {
        return Err(std::io::Error::other(format!(
            "{address} can be reached from other machines: TLS is needed"
        )));
    }
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    let done = runtime.block_on(accept_all(listener, tls, router, options, must_stop));
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

async fn accept_all(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    options: ListenOptions,
    must_stop: &(dyn Fn() -> bool + Sync),
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (stopper, stop) = watch::channel(false);
    let (places, connections) = (Arc::new(Semaphore::new(options.connections)), options.connections);
    let drain_time = options.drain_time;
    let shared = Arc::new(Shared { router, tls: tls.map(TlsAcceptor::from), options, stop });
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        let place = tokio::select! {
            _ = tick.tick() => if must_stop() { break } else { continue },
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let accepted = loop {
            tokio::select! {
                _ = tick.tick() => if must_stop() { break None },
                accepted = listener.accept() => break Some(accepted),
            }
        };
        match accepted {
            None => break,
            Some(Ok((stream, address))) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    shared.connection(stream, address).await;
                    drop(place);
                });
            }
            // Too many open files, for instance: that passes.
            Some(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    drop(listener);
    let _ = stopper.send(true);
    let all = u32::try_from(connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(drain_time, places.acquire_many(all)).await;
    Ok(())
}

impl Shared {
    async fn connection(&self, stream: TcpStream, address: SocketAddr) {
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => self.speak(stream, address).await,
            Some(acceptor) => {
                // What fails here is a client without TLS, without our trust or without patience.
                if let Ok(Ok(stream)) =
                    tokio::time::timeout(self.options.handshake_time, acceptor.accept(stream)).await
                {
                    self.speak(stream, address).await;
                }
            }
        }
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, address: SocketAddr) {
        let peer = Peer {
            address: address.ip(),
            cut: Arc::new(Notify::new()),
            activity: Activity::new(),
            stop: self.stop.clone(),
        };
        let (cut, activity) = (Arc::clone(&peer.cut), Arc::clone(&peer.activity));
        let router = self.router.clone();
        let service = tower_service(router, peer);
        let builder = self.builder();
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let (mut stop, mut is_stopping) = (self.stop.clone(), false);
        let mut tick =
            tokio::time::interval(self.options.idle_time.div_f32(4.0).max(Duration::from_millis(50)));
        loop {
            tokio::select! {
                _ = connection.as_mut() => return,
                () = cut.notified() => return,
                _ = stop.wait_for(|stop| *stop), if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = tick.tick() => if activity.idle_time() > self.options.idle_time { return },
            }
        }
    }

    fn builder(&self) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.handshake_time)
            .max_buf_size(128 << 10);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(64)
            .max_header_list_size(16 << 10)
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(256 << 10)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        builder
    }
}

/// The routes, with the other side of the connection beside each request.
fn tower_service(
    router: Router,
    peer: Peer,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone {
    let inner = TowerToHyperService::new(router);
    WithPeer { inner, peer }
}

#[derive(Clone)]
struct WithPeer {
    inner: TowerToHyperService<Router>,
    peer: Peer,
}

impl hyper::service::Service<hyper::Request<Incoming>> for WithPeer {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = <TowerToHyperService<Router> as hyper::service::Service<hyper::Request<Incoming>>>::Future;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.inner.call(request)
    }
}
