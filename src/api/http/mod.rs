//! The page, the JSON API, metrics and health over HTTP.
//!
//! A request's way: `server` accepts its connection, `connection` reads it (`request` takes its bytes apart),
//! `dispatch` finds its route in `table`, `route` checks who may ask (`auth`, by `token` and `sessions`) and calls
//! the route's endpoint, which reads `query` or `bodies` and performs an operation. `response` writes the answer; `failure` says which
//! status an error has. `openapi` describes the API from the same table. `events`, `pages` and `assets` are
//! answers that are no operation. `shared` is what all connections share; `wrong_tokens` says how long the answer
//! to a wrong token waits.

mod assets;
mod auth;
mod bodies;
mod connection;
mod dispatch;
mod events;
mod failure;
mod lists;
mod openapi;
mod pages;
mod query;
mod request;
mod response;
mod route;
mod server;
mod sessions;
mod shared;
mod table;
mod token;
mod wrong_tokens;

#[cfg(feature = "testing")]
pub use self::request::{fields, head};

pub use server::Server;
