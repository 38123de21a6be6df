//! `/v1/runs`: what runs there are, what they do, and what a person has them do.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use leeward_runs::state::{Filter, Lease, LoggedLine, Progress};
use leeward_runs::{Command, Run, RunId, RunState};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::access::{Caller, Right};
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, body_of, json, only};

/// A run with what is known beside it.
#[derive(Serialize)]
struct Detail {
    run: Run,
    lease: Option<Lease>,
    progress: std::collections::BTreeMap<String, Progress>,
}

/// A part of a log.
#[derive(Serialize)]
struct Log {
    lines: Vec<LoggedLine>,
}

pub(super) async fn handle(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    rest: &[&str],
    body: Body,
) -> Result<Response, Problem> {
    match rest {
        [] => list(state, asking, caller).await,
        [id] => detail(state, asking, caller, &run_id(id)?).await,
        [id, "log"] => log(state, asking, caller, &run_id(id)?).await,
        [id, verb @ ("retry" | "skip" | "cancel" | "undo" | "release")] => {
            only(asking, &[Method::POST])?;
            caller.needs(Right::Command)?;
            let command = command_of(verb, body).await?;
            command_run(state, asking, run_id(id)?, command).await
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}

pub(super) fn run_id(text: &str) -> Result<RunId, Problem> {
    text.parse().map_err(Problem::not_found)
}

async fn list(state: &SiteState, asking: &Asking, caller: &Caller) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let query = Query::parse(&asking.query, &["state", "kind", "text", "past", "most"])?;
    let filter = Filter {
        kind: query.text("kind").map(str::to_owned),
        states: query.list::<RunState>("state")?,
        text: query.text("text").map(str::to_owned),
        past: query.value("past")?,
        most: query.most()?,
        ..Filter::default()
    };
    let page = state.call(move |site| Ok(site.runs().state().list(&filter)?)).await?;
    Ok(json(&page))
}

async fn detail(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    id: &RunId,
) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let id = id.clone();
    let detail = state
        .call(move |site| {
            let runs = site.runs().state();
            let (run, lease) = runs.load(&id)?.ok_or(leeward_runs::Error::NoRun(id.clone()))?;
            let progress = runs.progress(&id)?;
            Ok(Detail { run, lease, progress })
        })
        .await?;
    // Progress changes without the run: the tag is of both.
    let newest = detail.progress.values().map(|progress| progress.at.as_microsecond()).max().unwrap_or(0);
    let tag = format!("\"{}.{newest}\"", detail.run.sequence);
    if asking.header("if-none-match") == Some(tag.as_str()) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(tagged(response, &tag));
    }
    Ok(tagged(json(&detail), &tag))
}

fn tagged(mut response: Response, tag: &str) -> Response {
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

async fn log(state: &SiteState, asking: &Asking, caller: &Caller, id: &RunId) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    let query = Query::parse(&asking.query, &["step", "after", "most"])?;
    let (after, most) = (query.value("after")?.unwrap_or(0), query.most()?);
    let step = query.text("step").map(str::to_owned);
    let id = id.clone();
    let lines = state
        .call(move |site| {
            let runs = site.runs().state();
            runs.load(&id)?.ok_or(leeward_runs::Error::NoRun(id.clone()))?;
            Ok(runs.logged(&id, step.as_deref(), after, most)?)
        })
        .await?;
    Ok(json(&Log { lines }))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetryBody {
    step: Option<String>,
    inputs: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SkipBody {
    step: String,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseBody {
    step: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoBody {}

async fn command_of(verb: &str, body: Body) -> Result<Command, Problem> {
    Ok(match verb {
        "retry" => {
            let RetryBody { step, inputs } = body_of(body).await?;
            Command::Retry { step, inputs: inputs.map(Value::Object) }
        }
        "skip" => {
            let SkipBody { step, reason } = body_of(body).await?;
            Command::Skip { step, reason }
        }
        "release" => {
            let ReleaseBody { step } = body_of(body).await?;
            Command::Release { step }
        }
        "cancel" => body_of::<NoBody>(body).await.map(|_| Command::Cancel)?,
        _ => body_of::<NoBody>(body).await.map(|_| Command::Undo)?,
    })
}

async fn command_run(
    state: &SiteState,
    asking: &Asking,
    id: RunId,
    command: Command,
) -> Result<Response, Problem> {
    // With If-Match the command is given to the run that the person has seen, or not at all.
    let seen = asking.header("if-match").map(str::to_owned);
    let run = state
        .call(move |site| {
            if let Some(seen) = seen {
                let (run, _) =
                    site.runs().state().load(&id)?.ok_or(leeward_runs::Error::NoRun(id.clone()))?;
                let is_same =
                    seen.trim_matches('"').split('.').next() == Some(run.sequence.to_string().as_str());
                if !is_same {
                    return Err(Problem::changed(format!("run {id} has changed since you looked at it")));
                }
            }
            Ok(site.runs().command(&id, &command)?)
        })
        .await?;
    Ok(json(&run))
}
