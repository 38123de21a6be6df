//! `/v1/images`: what the repository holds.

use axum::http::Method;
use axum::response::Response;
use leeward_remote::encode::decoded;
use leeward_repository::ImageName;

use super::access::{Caller, Right};
use super::problem::Problem;
use super::{Asking, SiteState, json, only};

/// `/v1/images`, and `/v1/images/NAME/snapshots`; a name may have slashes.
pub(super) async fn handle(
    state: &SiteState,
    asking: &Asking,
    caller: &Caller,
    rest: &[&str],
) -> Result<Response, Problem> {
    only(asking, &[Method::GET])?;
    caller.needs(Right::See)?;
    match rest {
        [] => Ok(json(&state.call_far(|site| Ok(site.images()?)).await?)),
        [name @ .., "snapshots"] if !name.is_empty() => {
            let name =
                decoded(&name.join("/")).ok_or_else(|| Problem::invalid("the image's name is no text"))?;
            let name: ImageName =
                name.parse().map_err(|error| Problem::not_found(format!("{name:?}: {error}")))?;
            Ok(json(&state.call_far(move |site| Ok(site.image(&name)?)).await?))
        }
        _ => Err(Problem::no_route(&asking.path)),
    }
}
