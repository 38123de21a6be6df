//! `/v1/schedules`: what is begun by the clock, and having it begun, paused and resumed.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use leeward_site::ScheduleView;
use serde::{Deserialize, Serialize};

use super::access::{Caller, Right};
use super::imports::{Begun, unique_key};
use super::problem::Problem;
use super::query::Query;
use super::{Asking, SiteState, body_of, json, only};

#[derive(Serialize)]
struct Schedules {
    schedules: Vec<ScheduleView>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FireBody {
    /// Whether the whole work is to be done.
    full: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoBody {}

pub(super) async fn handle(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    rest: &[&str],
    body: Body,
) -> Result<Response, Problem> {
    match rest {
        [] => list(state, asking, caller).await,
        [name, "fire"] => fire(state, asking, caller, name, body).await,
        [name, verb @ ("pause" | "resume")] => {
            only(asking, &[Method::POST])?;
            caller.needs(Right::Command)?;
            body_of::<NoBody>(body).await?;
            let (name, paused) = ((*name).to_owned(), *verb == "pause");
            let by = caller.by();
            Ok(json(&state.call(move |site| Ok(site.pause(&name, paused, &by)?)).await?))
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}

async fn list(state: &SiteState, asking: &Asking, caller: &Caller) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    Query::parse(&asking.query, &[])?;
    let schedules = state.call(|site| Ok(site.schedules()?)).await?;
    Ok(json(&Schedules { schedules }))
}

async fn fire(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    name: &str,
    body: Body,
) -> Result<Response, Problem> {
    only(asking, &[Method::POST])?;
    caller.needs(Right::Command)?;
    let FireBody { full } = body_of(body).await?;
    let unique = unique_key(asking, caller, "asked")?;
    let (name, by) = (name.to_owned(), caller.by());
    let (run, new) = state.call(move |site| Ok(site.fire(&name, full, &by, unique.as_deref())?)).await?;
    let mut response = json(&Begun { run: run.to_string(), new });
    *response.status_mut() = if new { StatusCode::CREATED } else { StatusCode::OK };
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/runs/{run}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}
