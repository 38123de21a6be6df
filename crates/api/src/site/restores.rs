//! `/v1/restores` and `/v1/exports`: what goes back out of the repository.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use leeward_runs::RunId;
use leeward_site::{ExportRequest, RestoreRequest};
use serde::Serialize;

use super::access::{Caller, Right};
use super::imports::unique_key;
use super::problem::Problem;
use super::{Asking, SiteState, body_of, body_with, json, only};

/// Begins a restore, or says what one would do. It shows what a machine's disk holds to whoever may use the target, so a token
/// that may begin imports is not enough.
pub(super) async fn restore(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    body: Body,
) -> Result<Response, Problem> {
    only(asking, &[Method::POST])?;
    caller.needs(Right::Command)?;
    let request: RestoreRequest = body_with(body, &["options"]).await?;
    let unique = unique_key(asking, caller, "restore")?;
    let by = caller.by();
    let begun = state.call_far(move |site| Ok(site.restore(&request, &by, unique.as_deref())?)).await?;
    Ok(answer(&begun, begun.run.as_ref().filter(|_| begun.new)))
}

/// Begins an export, or says what one would do.
pub(super) async fn export(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    body: Body,
) -> Result<Response, Problem> {
    only(asking, &[Method::POST])?;
    caller.needs(Right::Command)?;
    let request: ExportRequest = body_of(body).await?;
    let unique = unique_key(asking, caller, "export")?;
    let by = caller.by();
    let begun = state.call_far(move |site| Ok(site.export(&request, &by, unique.as_deref())?)).await?;
    Ok(answer(&begun, begun.run.as_ref().filter(|_| begun.new)))
}

/// The answer, with the place of a run that is new.
fn answer(begun: &impl Serialize, new: Option<&RunId>) -> Response {
    let mut response = json(begun);
    if let Some(run) = new {
        *response.status_mut() = StatusCode::CREATED;
        if let Ok(place) = HeaderValue::from_str(&format!("/v1/runs/{run}")) {
            response.headers_mut().insert(header::LOCATION, place);
        }
    }
    response
}
