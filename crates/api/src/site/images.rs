//! `/v1/images` and `/v1/repository`: what the repository holds, and what keeps it.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use leeward_remote::encode::decoded;
use leeward_repository::{ImageName, SnapshotId};
use leeward_site::HoldRequest;

use super::access::{Caller, Right};
use super::problem::Problem;
use super::{Asking, SiteState, body_of, files, json, only};

/// `/v1/images`, and what is below an image; its name may have slashes.
pub(super) async fn handle(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    rest: &[&str],
    body: Body,
) -> Result<Response, Problem> {
    match rest {
        [] => {
            see(asking, caller)?;
            Ok(json(&state.call_far(|site| Ok(site.images()?)).await?))
        }
        [name @ .., "snapshots", id, "holds"] => {
            only(asking, &[Method::POST])?;
            caller.needs(Right::Hold)?;
            let request: HoldRequest = body_of(body).await?;
            let (image, id) = snapshot(name, id)?;
            let (held, new) = state.call_far(move |site| Ok(site.hold(&image, id, &request)?)).await?;
            let mut response = json(&held);
            *response.status_mut() = if new { StatusCode::CREATED } else { StatusCode::OK };
            Ok(response)
        }
        [name @ .., "snapshots", id, "holds", hold] => {
            only(asking, &[Method::DELETE])?;
            caller.needs(Right::Hold)?;
            let (image, id) = snapshot(name, id)?;
            let hold = decoded(hold).ok_or_else(|| Problem::not_found("the hold's name is no text"))?;
            Ok(json(&state.call_far(move |site| Ok(site.let_go(&image, id, &hold)?)).await?))
        }
        [name @ .., "snapshots", id, "files"] => {
            only(asking, &[Method::GET])?;
            caller.needs(Right::Files)?;
            let (image, id) = snapshot(name, id)?;
            files::list(state, asking, image, id).await
        }
        [name @ .., "snapshots", id, "files", "content"] => {
            only(asking, &[Method::GET])?;
            caller.needs(Right::Files)?;
            let (image, id) = snapshot(name, id)?;
            files::content(state, asking, image, id).await
        }
        [name @ .., "snapshots"] if !name.is_empty() => {
            see(asking, caller)?;
            let name = image(name)?;
            Ok(json(&state.call_far(move |site| Ok(site.image(&name)?)).await?))
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}

/// `/v1/repository`.
pub(super) async fn repository(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
) -> Result<Response, Problem> {
    see(asking, caller)?;
    Ok(json(&state.call_far(|site| Ok(site.repository_figures()?)).await?))
}

fn see(asking: &Asking, caller: &Caller) -> Result<(), Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)
}

fn image(parts: &[&str]) -> Result<ImageName, Problem> {
    let name = decoded(&parts.join("/")).ok_or_else(|| Problem::invalid("the image's name is no text"))?;
    name.parse().map_err(|error| Problem::not_found(format!("{name:?}: {error}")))
}

fn snapshot(name: &[&str], id: &str) -> Result<(ImageName, SnapshotId), Problem> {
    Ok((image(name)?, id.parse().map_err(Problem::not_found)?))
}
