//! From a request to its route, and to an answer whatever happens on the way.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::failure::Failure;
use super::pages;
use super::request::{Method, Request};
use super::response::Response;
use super::route::{Call, Route};
use super::shared::Shared;
use super::table::ROUTES;
use crate::api::session::Session;
use crate::model::thread::panic_message;

/// The answer to a request. A panic on the way is an answer too (500), and ends no connection.
pub(super) fn answer(shared: &Shared, request: &Request) -> Response {
    let mut session = shared.take_session();
    let answer = || answer_with(shared, &mut session, request);
    match catch_unwind(AssertUnwindSafe(answer)) {
        Ok(response) => {
            // After a failure the session may hold a history that has been moved aside.
            if response.status < 500 {
                shared.return_session(session);
            }
            response
        }
        Err(payload) => {
            let message = panic_message(payload.as_ref());
            log::error!("{} {} panicked: {message}", request.method.name(), request.path);
            Response::error(500, "internal", "mb failed to answer this request; see its log")
        }
    }
}

fn answer_with(shared: &Shared, session: &mut Session, request: &Request) -> Response {
    let fitting = |route: &&Route| part_of(route.path, &request.path).is_some();
    let mut methods = Vec::new();
    for route in ROUTES.iter().filter(fitting) {
        let is_head = request.method == Method::Head && route.method == Method::Get;
        if route.method != request.method && !is_head {
            // A path can fit a route with a part in braces besides its own.
            if !methods.contains(&route.method) {
                methods.push(route.method);
            }
            continue;
        }
        let part = part_of(route.path, &request.path).unwrap_or_default();
        let mut call = Call { shared, session, request, route, part, routes: ROUTES };
        let response = call.answer().unwrap_or_else(|failure| {
            log::debug!("{} {}: {}", request.method.name(), request.path, failure.message);
            refuse(request, failure)
        });
        // Also where an answer needs no token: it may differ with one, which tells whether it was right.
        let is_wrong = route.path != "/healthz" && shared.guard.has_wrong_token(request);
        return if is_wrong { response.wrong_token() } else { response };
    }
    if let Err(refusal) = shared.guard.check_host(request) {
        return refusal.into();
    }
    if request.path.is_empty() {
        return pages::with_slash(&shared.guard);
    }
    if methods.is_empty() {
        return refuse(request, Failure::new(404, "not_found", "nothing is at this address"));
    }
    let mut allowed = Vec::new();
    for method in methods {
        allowed.push(method.name());
        if method == Method::Get {
            allowed.push(Method::Head.name());
        }
    }
    let allowed = allowed.join(", ");
    let message = format!("this address takes {allowed}");
    Response::error(405, "method", &message).header("Allow", allowed)
}

/// JSON for programs; for a browser that opened the address of something that is not there, a page.
fn refuse(request: &Request, failure: Failure) -> Response {
    if failure.status == 404 && pages::is_for_person(request) {
        return pages::not_found(request, &failure.message);
    }
    failure.into()
}

/// The part of `path` that stands where `pattern` has braces, empty if it has none; `None` if they do not fit.
fn part_of<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return (pattern == path).then_some("");
    };
    let (_, behind) = rest.split_once('}')?;
    let part = path.strip_prefix(before)?.strip_suffix(behind)?;
    (!part.is_empty() && !part.contains('/')).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_paths_with_exactly_one_part_in_its_braces() {
        assert_eq!(part_of("/runs/{id}", "/runs/7"), Some("7"));
        assert_eq!(part_of("/runs/{id}/cancel", "/runs/7/cancel"), Some("7"));
        assert_eq!(part_of("/runs", "/runs"), Some(""));
        for path in ["/runs/", "/runs", "/runs/7/cancel", "/runs/7/8"] {
            assert_eq!(part_of("/runs/{id}", path), None, "{path}");
        }
        assert_eq!(part_of("/runs/{id}/cancel", "/runs//cancel"), None);
        assert_eq!(part_of("/runs/{id}/cancel", "/runs/cancel"), None);
    }
}
