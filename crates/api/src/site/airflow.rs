//! The part of Airflow's REST API by which the published function begins an import: it triggers Leeward unchanged, with the
//! token as password. Both forms are taken: `/api/v1` with basic authentication (Airflow 2) and `/api/v2` with a bearer token
//! from `/auth/token` (Airflow 3). <https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html>

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use leeward_runs::{Run, RunState};
use leeward_site::config::Place;
use leeward_site::{ImportOptions, ImportRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{self, Caller, Right};
use super::problem::Problem;
use super::{Asking, SiteState, body_of, body_with};
use super::{json as answer, only};
use crate::token::TokenText;

/// The longest id of a DAG's run, in characters, as Airflow has it.
const DAG_RUN_ID_MAX: usize = 250;
/// The DAG that people know.
pub(super) const DAG: &str = "1_virtual_disk_to_oci_block_volume";

#[derive(Deserialize)]
struct LogIn {
    #[serde(default)]
    password: String,
}

/// `/auth/token`: a token for a password, which is one already.
pub(super) async fn token(state: &SiteState, asking: &Asking, body: Body) -> Result<Response, Problem> {
    only(asking, &[Method::POST])?;
    let given: LogIn = body_of(body).await?;
    access::find(state, asking, &TokenText::new(given.password.clone())).await?.role()?;
    let mut response = answer(&json!({ "access_token": given.password }));
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

#[derive(Deserialize)]
struct Trigger {
    #[serde(default)]
    dag_run_id: Option<String>,
    #[serde(default)]
    conf: Conf,
}

#[derive(Default, Deserialize)]
struct Conf {
    #[serde(default)]
    bucket_name: String,
    #[serde(default)]
    object_name: String,
    #[serde(default)]
    ad_number: Option<Value>,
}

pub(super) async fn handle(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    dag: &str,
    rest: &[&str],
    body: Body,
) -> Result<Response, Problem> {
    if dag != DAG {
        return Err(Problem::not_found(format!("the only DAG here is {DAG}")));
    }
    match (rest, asking.method.as_str()) {
        (["dagRuns"], "POST") => {
            caller.needs(Right::Begin)?;
            begin(state, caller, body_with(body, &["conf"]).await?).await
        }
        (["dagRuns", id], "GET") => {
            caller.needs(Right::See)?;
            let id = super::runs::run_id(id)?;
            let run = state
                .call(move |site| {
                    let found = site.runs().state().load(&id)?;
                    found.map(|(run, _)| run).ok_or_else(|| leeward_runs::Error::NoRun(id.clone()).into())
                })
                .await?;
            Ok(answer(&of_run(&run)))
        }
        (["dagRuns" | "dagRuns/"], _) => Err(Problem::method(&[Method::POST])),
        (["dagRuns", _], _) => Err(Problem::method(&[Method::GET])),
        _ => Err(Problem::no_route(&asking.path)),
    }
}

async fn begin(state: &SiteState, caller: &Caller, trigger: Trigger) -> Result<Response, Problem> {
    let conf = trigger.conf;
    if conf.object_name.is_empty() {
        return Err(Problem::invalid("conf has no object_name"));
    }
    if trigger.dag_run_id.as_ref().is_some_and(|id| id.chars().count() > DAG_RUN_ID_MAX) {
        return Err(Problem::invalid(format!("a dag_run_id has at most {DAG_RUN_ID_MAX} characters")));
    }
    let (source, object) = source_of(state, &conf.bucket_name, &conf.object_name)?;
    let request = ImportRequest {
        source,
        object,
        options: ImportOptions { ad_number: number(conf.ad_number.as_ref())?, ..ImportOptions::default() },
        ..ImportRequest::default()
    };
    let unique = trigger.dag_run_id.map(|id| format!("dag\n{}\n{id}", caller.id));
    let by = caller.by();
    let run = state
        .call(move |site| {
            let (id, _) = site.import(&request, &by, unique.as_deref())?;
            let found = site.runs().state().load(&id)?;
            found.map(|(run, _)| run).ok_or_else(|| leeward_runs::Error::NoRun(id).into())
        })
        .await?;
    Ok(answer(&of_run(&run)))
}

/// The source in whose bucket an object lies, or that is called so, and the object's name there.
fn source_of(state: &SiteState, bucket: &str, object: &str) -> Result<(String, String), Problem> {
    let sources = &state.0.site.config().sources;
    let mut is_of_bucket = false;
    for (name, source) in sources.iter().filter(|(_, source)| !source.is_directory()) {
        match source.place_of(bucket, object) {
            Place::Inside(object) => return Ok((name.clone(), object.to_owned())),
            Place::Outside => is_of_bucket = true,
            Place::Elsewhere => {}
        }
    }
    match sources.contains_key(bucket) {
        _ if is_of_bucket => {
            Err(Problem::invalid(format!("no source of this site in bucket {bucket:?} has {object:?}")))
        }
        true => Ok((bucket.to_owned(), object.to_owned())),
        false => Err(Problem::not_found(format!("no source of this site is bucket {bucket:?}"))),
    }
}

/// Airflow's parameters are often text.
fn number(value: Option<&Value>) -> Result<Option<u32>, Problem> {
    let wrong = || Problem::invalid("ad_number is no number");
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => text.trim().parse().map(Some).map_err(|_| wrong()),
        Some(value) => {
            value.as_u64().and_then(|number| u32::try_from(number).ok()).map(Some).ok_or_else(wrong)
        }
    }
}

fn of_run(run: &Run) -> Value {
    let state = match run.state {
        RunState::Queued => "queued",
        RunState::Running | RunState::Cancelling | RunState::Undoing => "running",
        RunState::Succeeded => "success",
        RunState::Held | RunState::Failed | RunState::Cancelled | RunState::UndoFailed => "failed",
    };
    json!({
        "dag_id": DAG,
        "dag_run_id": run.id,
        "logical_date": run.created,
        "start_date": run.created,
        "end_date": run.finished,
        "state": state,
        "run_type": "manual",
        "conf": {
            "bucket_name": run.inputs.get("source"),
            "object_name": run.inputs.get("object"),
            "ad_number": run.inputs.get("ad_number"),
        },
    })
}
