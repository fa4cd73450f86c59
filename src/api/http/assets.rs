//! The page's files, which are in the binary. They are kept in `page/`.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::request::Request;
use super::response::Response;

struct Asset {
    /// The name under `/assets/`.
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";

const JS: &str = "text/javascript; charset=utf-8";

const INDEX: Asset = file("index.html", HTML, include_bytes!("page/index.html"));

const fn file(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Asset {
    Asset { name, content_type, bytes }
}

/// Every file of `page/`.
const ASSETS: &[Asset] = &[
    INDEX,
    file("style.css", "text/css; charset=utf-8", include_bytes!("page/style.css")),
    file("icon.svg", "image/svg+xml", include_bytes!("page/icon.svg")),
    file("api.js", JS, include_bytes!("page/api.js")),
    file("app.js", JS, include_bytes!("page/app.js")),
    file("base.js", JS, include_bytes!("page/base.js")),
    file("charts.js", JS, include_bytes!("page/charts.js")),
    file("controls.js", JS, include_bytes!("page/controls.js")),
    file("dead-letter.js", JS, include_bytes!("page/dead-letter.js")),
    file("dead-letters.js", JS, include_bytes!("page/dead-letters.js")),
    file("dom.js", JS, include_bytes!("page/dom.js")),
    file("follow-worker.js", JS, include_bytes!("page/follow-worker.js")),
    file("follow.js", JS, include_bytes!("page/follow.js")),
    file("glossary.js", JS, include_bytes!("page/glossary.js")),
    file("help.js", JS, include_bytes!("page/help.js")),
    file("lag.js", JS, include_bytes!("page/lag.js")),
    file("live.js", JS, include_bytes!("page/live.js")),
    file("overview.js", JS, include_bytes!("page/overview.js")),
    file("records.js", JS, include_bytes!("page/records.js")),
    file("run.js", JS, include_bytes!("page/run.js")),
    file("runs.js", JS, include_bytes!("page/runs.js")),
    file("table.js", JS, include_bytes!("page/table.js")),
    file("text.js", JS, include_bytes!("page/text.js")),
    file("ticks.js", JS, include_bytes!("page/ticks.js")),
    file("words.js", JS, include_bytes!("page/words.js")),
];

/// The answer at each of the page's addresses; `root` is the way from there to the first of them, to which the file's
/// own links begin with `./`.
pub fn index(request: &Request, root: &str) -> Response {
    let text = include_str!("page/index.html").replace("=\"./", &format!("=\"{root}"));
    answer(INDEX.content_type, text.into_bytes().into(), request)
}

/// The file of this name, if there is one.
pub fn asset(name: &str, request: &Request) -> Option<Response> {
    let asset = ASSETS.iter().find(|asset| asset.name == name)?;
    Some(answer(asset.content_type, Cow::Borrowed(asset.bytes), request))
}

fn answer(content_type: &'static str, bytes: Cow<'static, [u8]>, request: &Request) -> Response {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let known = request.header("if-none-match").unwrap_or_default();
    let response = if known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag) {
        Response::new(304, content_type, &[][..])
    } else {
        Response::new(200, content_type, bytes)
    };
    // A browser must check each time whether the file is still the same: mb may have been upgraded.
    response.header("ETag", tag).header("Cache-Control", "no-cache".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/http/page");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut served: Vec<_> = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        served.sort();
        assert_eq!(served, files, "list in ASSETS what is in src/api/http/page");
    }
}
