//! The way to a service: a connection straight to it, or through the proxy that the environment names, with TLS inside.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::Scheme;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tower_service::Service;

use super::prompt::Prompt;

/// How long a connection may take to come about, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection without traffic is tried.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

type BoxError = Box<dyn StdError + Send + Sync>;
type Opening<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Opens connections on which requests can be sent.
#[derive(Clone)]
pub(super) struct Way {
    inner: HttpsConnector<Line>,
    proxies: Arc<Matcher>,
}

impl Way {
    /// The way that the environment describes: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, and the authorities of
    /// the system or of `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(super) fn of_environment() -> Result<Self, String> {
        Self::by(Matcher::from_env(), system_roots())
    }

    /// The same way, where the authorities in a PEM file are trusted as well.
    ///
    /// # Errors
    /// The file holds none, or TLS cannot be set up.
    pub(super) fn trusting(pem: &[u8]) -> Result<Self, String> {
        let mut roots = system_roots();
        let wrong = |error: &dyn std::fmt::Display| format!("the file of authorities is none: {error}");
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
            count += 1;
        }
        match count {
            0 => Err("the file of authorities holds no certificate".to_owned()),
            _ => Self::by(Matcher::from_env(), roots),
        }
    }

    fn by(proxies: Matcher, roots: RootCertStore) -> Result<Self, String> {
        let proxies = Arc::new(proxies);
        let line = Line { http: plain(), proxies: Arc::clone(&proxies) };
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls(roots)?);
        let inner = builder.https_or_http().enable_http1().wrap_connector(line);
        Ok(Self { inner, proxies })
    }

    /// What a request itself must show to a proxy: one without TLS is passed on by it, the others go through unseen.
    pub(super) fn credential(&self, to: &Uri) -> Option<HeaderValue> {
        if to.scheme() != Some(&Scheme::HTTP) {
            return None;
        }
        self.proxies.intercept(to)?.basic_auth().cloned()
    }
}

fn plain() -> HttpConnector {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE));
    http.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    http.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
    http
}

/// A system without authorities trusts nobody, and then no service is believed: that is told when one is spoken to.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, String> {
    // Chosen here and not by the process, which may hold several providers and then has no default.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

impl Service<Uri> for Way {
    type Response = MaybeHttpsStream<TokioIo<Prompt>>;
    type Error = BoxError;
    type Future = Opening<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let opening = self.inner.call(to);
        Box::pin(async move { tokio::time::timeout(CONNECT_TIMEOUT, opening).await? })
    }
}

/// Opens connections below TLS.
#[derive(Clone)]
struct Line {
    http: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Line {
    fn direct(&mut self, to: Uri) -> Opening<TokioIo<Prompt>> {
        let opening = self.http.call(to);
        Box::pin(async move { Ok(TokioIo::new(Prompt::new(opening.await?.into_inner()))) })
    }

    /// Asks a proxy in place of the service.
    fn by(&mut self, proxy: &Intercept) -> Opening<TokioIo<Prompt>> {
        let opening = self.http.call(proxy.uri().clone());
        Box::pin(async move { Ok(TokioIo::new(Prompt::to_proxy(opening.await?.into_inner()))) })
    }

    /// Has a proxy pass everything on unseen.
    fn through(&mut self, proxy: &Intercept, to: Uri) -> Opening<TokioIo<Prompt>> {
        let tunnel = Tunnel::new(proxy.uri().clone(), self.http.clone());
        let mut tunnel = match proxy.basic_auth() {
            Some(credential) => tunnel.with_auth(credential.clone()),
            None => tunnel,
        };
        let opening = tunnel.call(to);
        Box::pin(async move { Ok(TokioIo::new(Prompt::new(opening.await?.into_inner()))) })
    }
}

impl Service<Uri> for Line {
    type Response = TokioIo<Prompt>;
    type Error = BoxError;
    type Future = Opening<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.intercept(&to) else { return self.direct(to) };
        if proxy.uri().scheme() != Some(&Scheme::HTTP) {
            let what = "the proxy that the environment names (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) is not one of http://";
            return Box::pin(async move { Err(what.into()) });
        }
        if to.scheme() == Some(&Scheme::HTTP) { self.by(&proxy) } else { self.through(&proxy, to) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use http_body_util::Empty;
    use hyper::body::Bytes;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    use super::*;

    /// A proxy that answers one request with 403, and what it was asked.
    fn proxy() -> (u16, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8(request).unwrap()
        });
        (port, asked)
    }

    /// What comes of a request when the environment names this proxy.
    fn ask(address: &str, proxy: &str) -> Result<u16, String> {
        let way = Way::by(Matcher::builder().all(proxy).build(), system_roots()).unwrap();
        let mut request = hyper::Request::get(address).body(Empty::<Bytes>::new()).unwrap();
        if let Some(credential) = way.credential(request.uri()) {
            request.headers_mut().insert("proxy-authorization", credential);
        }
        let asked = crate::runtime::wait(async move {
            let client = Client::builder(TokioExecutor::new()).build(way);
            client.request(request).await.map(|answer| answer.status().as_u16())
        });
        asked.unwrap().map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))
    }

    #[test]
    fn a_proxy_is_asked_in_place_of_a_service_without_tls() {
        let (port, asked) = proxy();
        let answer = ask("http://service.invalid/a", &format!("http://me:word@127.0.0.1:{port}"));
        assert_eq!(answer, Ok(403));
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("GET http://service.invalid/a HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_lowercase().contains("proxy-authorization: basic bwu6d29yza=="), "{asked}");
    }

    #[test]
    fn a_proxy_passes_tls_on_unseen() {
        let (port, asked) = proxy();
        let answer = ask("https://service.invalid/a", &format!("http://me:word@127.0.0.1:{port}"));
        assert!(answer.is_err(), "it would not let it pass");
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("CONNECT service.invalid:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_lowercase().contains("proxy-authorization: basic bwu6d29yza=="), "{asked}");
    }

    #[test]
    fn a_proxy_of_another_kind_is_refused() {
        let answer = ask("http://service.invalid/a", "socks5://127.0.0.1:1");
        assert!(answer.as_ref().is_err_and(|what| what.contains("not one of http://")), "{answer:?}");
    }
}
