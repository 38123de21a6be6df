//! `/v1/imports`, `/v1/hear`, `/v1/heard`, `/v1/sources`: what comes in.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use leeward_remote::encode::decoded;
use leeward_site::{Hint, ImportRequest};
use serde::Serialize;

use super::access::{self, Caller, Right};
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, body_with, bytes_of, json, only};
use crate::token::TokenText;

/// What was begun.
#[derive(Serialize)]
pub(super) struct Begun {
    pub run: String,
    /// Whether it is new; false where the same key, or the same version of an object, began it before.
    pub new: bool,
}

pub(super) async fn begin(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    body: Body,
) -> Result<Response, Problem> {
    only(asking, &[Method::POST])?;
    caller.needs(Right::Begin)?;
    let request: ImportRequest = body_with(body, &["options"]).await?;
    let unique = unique_key(asking, caller, "asked")?;
    let by = caller.by();
    let (run, new) = state.call(move |site| Ok(site.import(&request, &by, unique.as_deref())?)).await?;
    let mut response = json(&Begun { run: run.to_string(), new });
    *response.status_mut() = if new { StatusCode::CREATED } else { StatusCode::OK };
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/runs/{run}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// The caller's key for asking once for something (`asked` for an import): its own among all callers'.
pub(super) fn unique_key(asking: &Asking, caller: &Caller, what: &str) -> Result<Option<String>, Problem> {
    match asking.header("idempotency-key") {
        None => Ok(None),
        Some(key) if (1..=128).contains(&key.len()) => Ok(Some(format!("{what}\n{}\n{key}", caller.id))),
        Some(_) => Err(Problem::invalid("an idempotency key has 1 to 128 characters")),
    }
}

/// How many objects a message was about.
#[derive(Serialize)]
struct Heard {
    heard: usize,
}

/// Takes a message of a source. Its sender knows the source's secret (which may stand in the query, as those who send
/// events can often do nothing else), or has a token that may begin imports.
pub(super) async fn hear(
    state: &SiteState,
    asking: &Asking,
    source: &str,
    body: Body,
) -> Result<Response, Problem> {
    only(asking, &[Method::POST])?;
    let query = Query::parse(&asking.query, &["token"])?;
    match query.text("token") {
        Some(text) => check_secret(state, asking, source, text)?,
        None => access::caller(state, asking).await?.needs(Right::Begin)?,
    }
    let message = bytes_of(body).await?;
    let message: serde_json::Value = serde_json::from_slice(&message)
        .map_err(|error| Problem::invalid(format!("the event makes no sense: {error}")))?;
    if !message.is_object() {
        return Err(Problem::invalid("the event makes no sense: it is no object"));
    }
    let source = source.to_owned();
    let heard = state.call(move |site| Ok(site.hear(&source, &message)?)).await?;
    let mut response = json(&Heard { heard });
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

fn check_secret(state: &SiteState, asking: &Asking, source: &str, text: &str) -> Result<(), Problem> {
    let wrong = || access::refused(state, asking, "the secret is not that of the source".to_owned());
    let configured = state.0.site.config().sources.get(source);
    let file = configured.and_then(|source| source.event_token_file.as_ref()).ok_or_else(wrong)?;
    let secret = std::fs::read_to_string(file).map_err(|error| {
        eprintln!("leeward: {}: the secret of source {source} cannot be read: {error}", file.display());
        Problem::busy("the daemon cannot read the source's secret; its log says why")
    })?;
    let (given, secret) = (TokenText::new(text), TokenText::new(secret.trim()));
    // Digests of both are compared, so that time tells nothing of where they differ.
    let digest = |text: &TokenText| blake3::hash(text.reveal().as_bytes());
    match !secret.reveal().is_empty() && digest(&given) == digest(&secret) {
        true => Ok(()),
        false => Err(wrong()),
    }
}

/// A part of what was heard.
#[derive(Serialize)]
struct HeardPage {
    hints: Vec<Hint>,
    next: Option<u64>,
}

pub(super) async fn heard(state: &SiteState, asking: &Asking, caller: &Caller) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let query = Query::parse(&asking.query, &["before", "most"])?;
    let (before, most) = (query.value("before")?, query.most()?);
    let most_number = u32::try_from(most).unwrap_or(u32::MAX);
    let hints = state.call(move |site| Ok(site.hints(before, most_number)?)).await?;
    let next = hints.last().filter(|_| hints.len() == most).map(|hint| hint.number);
    Ok(json(&HeardPage { hints, next }))
}

/// An object of a source.
#[derive(Serialize)]
struct Object {
    name: String,
    bytes: u64,
    modified: Option<jiff::Timestamp>,
}

#[derive(Serialize)]
struct Objects {
    objects: Vec<Object>,
    next: Option<String>,
}

pub(super) async fn objects(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    source: &str,
) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let query = Query::parse(&asking.query, &["prefix", "after"])?;
    let prefix = query.text("prefix").unwrap_or_default().to_owned();
    let after = query.text("after").map(str::to_owned);
    let source = decoded(source).ok_or_else(|| Problem::invalid("the source's name is no text"))?;
    let page = state.call_far(move |site| Ok(site.objects(&source, &prefix, after.as_deref())?)).await?;
    let next = page.last.filter(|_| page.goes_on);
    let object = |object: leeward_remote::objects::ListedObject| Object {
        name: object.name,
        bytes: object.bytes,
        modified: object.modified,
    };
    Ok(json(&Objects { objects: page.objects.into_iter().map(object).collect(), next }))
}

#[cfg(test)]
mod tests {
    use leeward_site::{Config, ImportRequest};
    use serde_json::json;

    #[test]
    fn the_page_asks_for_what_there_is_and_names_tables_as_they_are_called() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ui/app/imports.js");
        let page = std::fs::read_to_string(path).unwrap();
        let lines = page.lines().filter_map(|line| line.trim().strip_prefix("{ name: '"));
        let mut asked = Vec::new();
        for line in lines {
            let (name, rest) = line.split_once('\'').unwrap();
            let value = if rest.contains("type: 'number'") { json!(1) } else { json!("x") };
            let request = json!({"source": "s", "object": "o", "options": {name: value}});
            let request: ImportRequest = serde_json::from_value(request).unwrap();
            if rest.contains("'Name of the volume'") {
                assert_eq!(request.options.volume_name.as_deref(), Some("x"));
            }
            asked.push(name);
        }
        assert!(asked.contains(&"volume_name") && asked.len() >= 5, "{asked:?}");
        for table in ["[source.NAME]", "[target.NAME]"] {
            assert!(page.contains(&format!("'{table}'")), "{table}");
            let location = if table.contains("source") { "location='/x'" } else { "kind='oci'" };
            let text = format!("name='a'\nstate='s'\n{table}\n{location}\n");
            Config::parse(&text, std::path::Path::new("/")).unwrap();
        }
    }
}
