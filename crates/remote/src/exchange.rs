//! One request of a service: signed, sent, and sent again with other credentials if these are refused.

use leeward_store::bucket::RequestClass;
use leeward_store::{Error, Result};

use crate::answer::At;
use crate::http::{Client, Request, Response};
use crate::service::Service;

/// Signs and sends; with other credentials once more, if the service refuses these and there are others.
pub(crate) fn send(
    service: &dyn Service,
    client: &Client,
    request: Request,
    class: RequestClass,
    at: &At<'_>,
) -> Result<Response> {
    let response = send_once(service, client, request.clone(), class, at)?;
    let code = service.refusal(&response).code;
    let is_expired =
        response.status == 401 || ["ExpiredToken", "ExpiredTokenException"].contains(&code.as_str());
    if is_expired && service.renew() {
        return send_once(service, client, request, class, at);
    }
    Ok(response)
}

fn send_once(
    service: &dyn Service,
    client: &Client,
    mut request: Request,
    class: RequestClass,
    at: &At<'_>,
) -> Result<Response> {
    service.sign(&mut request).map_err(|what| Error::Denied {
        store: at.store.to_owned(),
        action: at.action,
        key: at.key.to_owned(),
        what,
    })?;
    client.send(request, class).map_err(|fault| at.fault(&fault))
}
