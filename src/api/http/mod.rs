//! The page, the JSON API, metrics and health over HTTP.
//!
//! `server` listens, owns the connections and ends them; `connection` is the life of one of them;
//! `request` and `response` are HTTP as bytes; `auth` decides who may ask for what; `routes` has
//! the table of what is answered, `bodies` what is read of a request; `events`, `pages` and
//! `assets` are what some routes answer. What the answers say is not made here but in `control::requests`.

mod assets;
mod auth;
mod bodies;
mod connection;
mod events;
mod pages;
mod request;
mod response;
mod routes;
mod server;

pub use server::Server;
