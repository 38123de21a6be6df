//! A server that stands in for Google Cloud Storage or for Aliyun OSS, written from their published documentation: no server
//! of either can run here. It checks every signature by its own reading of the documentation, keeps objects in memory, and
//! knows the conditions that the service documents. What the real services do beyond that it cannot tell.
//!
//! Sources: Google, "Signatures", "Canonical requests", "HTTP headers and query string parameters for XML API"; Aliyun,
//! "Include a V4 signature in the Authorization header", "PutObject", "HTTP status code 409".
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

pub const ACCESS_KEY: &str = "ACCESSKEY";
pub const SECRET: &str = "a secret of tests";
/// Objects on one page of a listing.
const PAGE: usize = 100;

/// Whom it stands in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Google,
    Aliyun,
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, (u64, Vec<u8>)>,
    generation: u64,
}

pub struct StandIn {
    pub endpoint: String,
    contents: Arc<Mutex<Contents>>,
}

struct Asked {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer(u16, Vec<(&'static str, String)>, Vec<u8>);

fn error(status: u16, code: &str) -> Answer {
    let text = format!(
        "<?xml version='1.0'?><Error><Code>{code}</Code><Message>says the stand-in</Message></Error>"
    );
    Answer(status, Vec::new(), text.into_bytes())
}

impl StandIn {
    /// Starts one with one bucket, for as long as the process lives.
    pub fn start(dialect: Dialect, bucket: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let contents = Arc::new(Mutex::new(Contents::default()));
        let shared = Arc::clone(&contents);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let contents = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, dialect, bucket, &contents));
            }
        });
        Self { endpoint, contents }
    }

    pub fn object_names(&self) -> Vec<String> {
        self.contents.lock().unwrap().objects.keys().cloned().collect()
    }
}

fn serve(stream: TcpStream, dialect: Dialect, bucket: &str, contents: &Mutex<Contents>) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(asked) = read(&mut reader) {
        let Answer(status, headers, body) = answer(&asked, dialect, bucket, contents);
        let mut text = format!("HTTP/1.1 {status} X\r\n");
        if !headers.iter().any(|(name, _)| *name == "content-length") {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let body = if asked.method == "HEAD" { &[][..] } else { &body };
        // One write for both: two would wait for each other's acknowledgement.
        if writer.write_all(&[text.as_bytes(), body].concat()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The value of a field of the header `Authorization`.
fn field<'a>(authorization: &'a str, name: &str) -> Option<&'a str> {
    let fields = authorization.split_once(' ')?.1.split(',');
    fields.map(str::trim).find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
}

/// Whether a request is signed as the documentation has it.
fn is_signed(asked: &Asked, dialect: Dialect) -> Option<bool> {
    let authorization = asked.headers.get("authorization")?;
    let (own, algorithm, prefix, end, region) = match dialect {
        Dialect::Google => ("x-goog-", "GOOG4-HMAC-SHA256", "GOOG4", "storage/goog4_request", "auto"),
        Dialect::Aliyun => ("x-oss-", "OSS4-HMAC-SHA256", "aliyun_v4", "oss/aliyun_v4_request", "cn-test"),
    };
    let time = asked.headers.get(&format!("{own}date"))?;
    let scope = format!("{}/{region}/{end}", &time[..8]);
    let payload = asked.headers.get(&format!("{own}content-sha256"))?;
    if payload != "UNSIGNED-PAYLOAD" && (dialect == Dialect::Aliyun || *payload != sha256(&asked.body)) {
        return None;
    }
    let names: Vec<String> = match dialect {
        Dialect::Google => field(authorization, "SignedHeaders")?.split(';').map(str::to_owned).collect(),
        Dialect::Aliyun => {
            let must = |name: &&String| {
                name.starts_with(own) || ["content-type", "content-md5"].contains(&name.as_str())
            };
            asked.headers.keys().filter(must).cloned().collect()
        }
    };
    // All headers of the service have to be among the signed ones.
    let is_own = |name: &&String| name.starts_with(own);
    if asked.headers.keys().filter(is_own).any(|name| !names.contains(name)) {
        return None;
    }
    let lines: String = names
        .iter()
        .map(|name| Some(format!("{name}:{}\n", asked.headers.get(name)?)))
        .collect::<Option<_>>()?;
    let mut parameters: Vec<&str> = asked.query.split('&').filter(|pair| !pair.is_empty()).collect();
    if dialect == Dialect::Aliyun {
        parameters = parameters.into_iter().map(|pair| pair.strip_suffix('=').unwrap_or(pair)).collect();
    }
    parameters.sort_unstable();
    let listed = if dialect == Dialect::Google { names.join(";") } else { String::new() };
    let canonical =
        format!("{}\n{}\n{}\n{lines}\n{listed}\n{payload}", asked.method, asked.path, parameters.join("&"));
    let to_sign = format!("{algorithm}\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let key = scope.split('/').fold(format!("{prefix}{SECRET}").into_bytes(), |key, part| mac(&key, part));
    let is_right = authorization.starts_with(algorithm)
        && field(authorization, "Credential")? == format!("{ACCESS_KEY}/{scope}")
        && field(authorization, "Signature")? == hex(&mac(&key, &to_sign));
    Some(is_right)
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
        } else {
            byte
        });
    }
    String::from_utf8(bytes).unwrap()
}

fn answer(asked: &Asked, dialect: Dialect, bucket: &str, contents: &Mutex<Contents>) -> Answer {
    if is_signed(asked, dialect) != Some(true) {
        return error(403, "SignatureDoesNotMatch");
    }
    let path = decoded(&asked.path);
    let (place, name) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    if place != bucket {
        return error(404, "NoSuchBucket");
    }
    let mut contents = contents.lock().unwrap();
    match (asked.method.as_str(), name) {
        ("PUT", "") => error(409, "BucketAlreadyExists"),
        ("GET", "") => of_bucket(asked, dialect, &contents),
        ("GET" | "HEAD", name) => match contents.objects.get(name) {
            None => error(404, "NoSuchKey"),
            Some((generation, content)) => get(asked, dialect, *generation, content),
        },
        ("PUT", name) => put(asked, dialect, name, &mut contents),
        ("DELETE", name) => match (contents.objects.remove(name), dialect) {
            (None, Dialect::Google) => error(404, "NoSuchKey"),
            _ => Answer(204, Vec::new(), Vec::new()),
        },
        _ => error(405, "MethodNotAllowed"),
    }
}

fn put(asked: &Asked, dialect: Dialect, name: &str, contents: &mut Contents) -> Answer {
    if asked.headers.get("content-md5") != Some(&STANDARD.encode(Md5::digest(&asked.body))) {
        return error(400, if dialect == Dialect::Google { "BadDigest" } else { "InvalidDigest" });
    }
    let present = contents.objects.get(name).map_or(0, |(generation, _)| *generation);
    match dialect {
        // Standard conditions concern reads only; a writer who trusts them overwrites.
        Dialect::Google => {
            let expected = asked.headers.get("x-goog-if-generation-match");
            if expected.is_some_and(|expected| expected.parse() != Ok(present)) {
                return error(412, "PreconditionFailed");
            }
        }
        Dialect::Aliyun => {
            let forbids = asked.headers.get("x-oss-forbid-overwrite").is_some_and(|value| value == "true");
            if forbids && present != 0 {
                return error(409, "FileAlreadyExists");
            }
        }
    }
    contents.generation += 1;
    let generation = contents.generation;
    contents.objects.insert(name.to_owned(), (generation, asked.body.clone()));
    Answer(200, tags(dialect, generation), Vec::new())
}

fn tags(dialect: Dialect, generation: u64) -> Vec<(&'static str, String)> {
    let mut headers = vec![("etag", format!("\"{generation:032x}\""))];
    if dialect == Dialect::Google {
        headers.push(("x-goog-generation", generation.to_string()));
    }
    headers
}

fn get(asked: &Asked, dialect: Dialect, generation: u64, content: &[u8]) -> Answer {
    let mut headers = tags(dialect, generation);
    let range = asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = range else {
        headers.push(("content-length", content.len().to_string()));
        return Answer(200, headers, content.to_vec());
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    if first >= content.len() {
        return error(416, "InvalidRange");
    }
    let last = last.min(content.len() - 1);
    headers.push(("content-range", format!("bytes {first}-{last}/{}", content.len())));
    Answer(206, headers, content[first..=last].to_vec())
}

/// A page of a listing, or a setting.
fn of_bucket(asked: &Asked, dialect: Dialect, contents: &Contents) -> Answer {
    let parameters: BTreeMap<String, String> = asked
        .query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    let body = |text: String| Answer(200, Vec::new(), text.into_bytes());
    if parameters.contains_key("versioning") {
        return body("<VersioningConfiguration/>".to_owned());
    }
    if parameters.contains_key("lifecycle") {
        return match dialect {
            Dialect::Google => body("<LifecycleConfiguration/>".to_owned()),
            Dialect::Aliyun => error(404, "NoSuchLifecycle"),
        };
    }
    assert_eq!(parameters.get("list-type").map(String::as_str), Some("2"));
    let (prefix, from) = (&parameters["prefix"], parameters.get("continuation-token"));
    let mut found = contents
        .objects
        .iter()
        .filter(|(name, _)| name.starts_with(prefix) && from.is_none_or(|from| *name > from));
    let page: Vec<_> = found.by_ref().take(PAGE).collect();
    let entries: String = page
        .iter()
        .map(|(name, (_, content))| {
            format!("<Contents><Key>{name}</Key><Size>{}</Size></Contents>", content.len())
        })
        .collect();
    let next = match (found.next(), page.last()) {
        (Some(_), Some((last, _))) => {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>")
        }
        _ => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    body(format!(
        "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>{next}{entries}</ListBucketResult>"
    ))
}
