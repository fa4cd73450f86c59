//! The page's files, in the binary. What is in them is in `page/`.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::request::Request;
use super::response::Response;

struct Asset {
    /// As under `/assets/`.
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";

const INDEX: Asset =
    Asset { name: "index.html", content_type: HTML, bytes: include_bytes!("page/index.html") };

/// Every file of `page/`.
const ASSETS: &[Asset] = &[INDEX];

/// What each of the page's addresses answers.
pub fn index(request: &Request) -> Response {
    answer(&INDEX, request)
}

/// The file by its name; `None` where there is none.
pub fn asset(name: &str, request: &Request) -> Option<Response> {
    ASSETS.iter().find(|asset| asset.name == name).map(|asset| answer(asset, request))
}

fn answer(asset: &Asset, request: &Request) -> Response {
    let mut hasher = DefaultHasher::new();
    asset.bytes.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let known = request.header("if-none-match").unwrap_or_default();
    let response = if known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag) {
        Response::new(304, asset.content_type, &[][..])
    } else {
        Response::new(200, asset.content_type, Cow::Borrowed(asset.bytes))
    };
    // A browser asks each time whether it is still the same: mb may have become another version.
    response.header("ETag", tag).header("Cache-Control", "no-cache".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/page");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut served: Vec<_> = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        served.sort();
        assert_eq!(served, files, "list in ASSETS what is in src/web/page");
    }
}
