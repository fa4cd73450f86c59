//! The page, the JSON API, metrics and health over HTTP.
