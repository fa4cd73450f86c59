//! Chromium, driven as a person would by its driver (WebDriver: W3C, and Chromium's own command for
//! width and colours). Its JSON goes over HTTP.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{eventually, eventually_some, free_port};

/// What a page may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How W3C's WebDriver names an element in JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A Chromium of its own, without a screen. Dropping it ends it.
pub struct Browser {
    driver: Child,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// # Panics
    /// Where there is no chromedriver, with the way to get it.
    pub fn start() -> Browser {
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver and chromium are installed: run scripts/setup test");
        let server = format!("http://127.0.0.1:{port}");
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Browser { driver, session: server.clone(), _profile: profile };
        eventually(LIMIT, "chromedriver listens", || {
            minreq::get(format!("{server}/status")).with_timeout(5).send().is_ok()
        });
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--force-prefers-reduced-motion".to_owned(),
            // Names that no browser takes for this machine, nor for secure, as it does with localhost.
            "--host-resolver-rules=MAP *.test 127.0.0.1".to_owned(),
            format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = browser.post("/session", &wanted);
        let id = made["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("{server}/session/{id}");
        browser
    }

    /// The window's width and height in pixels, and whether the system's colours are dark.
    pub fn look(&self, width: u32, height: u32, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        self.chromium(
            "Emulation.setDeviceMetricsOverride",
            &json!({
                "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false
            }),
        );
        self.chromium(
            "Emulation.setEmulatedMedia",
            &json!({
                "features": [
                    { "name": "prefers-color-scheme", "value": scheme },
                    { "name": "prefers-reduced-motion", "value": "reduce" },
                ]
            }),
        );
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// The text that can be seen in the first element that `css` selects; `None` where none is.
    pub fn text(&self, css: &str) -> Option<String> {
        let script = "const e = document.querySelector(arguments[0]); return e && e.innerText;";
        self.script(script, &json!([css])).as_str().map(str::to_owned)
    }

    /// How many elements `css` selects.
    pub fn count(&self, css: &str) -> u64 {
        let script = "return document.querySelectorAll(arguments[0]).length;";
        self.script(script, &json!([css])).as_u64().expect("a number")
    }

    /// Waits for an element whose text has `part` in it; returns the text.
    ///
    /// # Panics
    /// With what the page shows, where it does not come.
    pub fn wait_for(&self, css: &str, part: &str) -> String {
        let mut last = None;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(LIMIT, &format!("{css} has {part:?}"), || {
                last = self.text(css);
                last.clone().filter(|text| text.contains(part))
            })
        }));
        found.unwrap_or_else(|_| {
            self.screenshot("failed");
            panic!("{css} never had {part:?} but {last:?}; the page: {:?}", self.text("body"))
        })
    }

    /// Clicks what a person could click: an element that is there, seen, and not covered.
    pub fn click(&self, css: &str) {
        let mut why = String::new();
        let clicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(LIMIT, &format!("{css} can be clicked"), || {
                // The page may put another one in its place between the two.
                match self
                    .element(css)
                    .and_then(|at| self.try_post(&format!("{at}/click"), &json!({})))
                {
                    Ok(_) => true,
                    Err(cause) => {
                        why = cause;
                        false
                    }
                }
            });
        }));
        if clicked.is_err() {
            self.screenshot("failed");
            panic!("{css} cannot be clicked: {why}; the page: {:?}", self.text("body"));
        }
    }

    /// Types into a field, in place of what it has.
    pub fn fill(&self, css: &str, text: &str) {
        // Control and A; then no key is held.
        const ALL: &str = "\u{e009}a\u{e000}";
        self.click(css);
        let at = self.element(css).unwrap_or_else(|cause| panic!("{css}: {cause}"));
        self.post(&format!("{at}/value"), &json!({ "text": format!("{ALL}{text}") }));
    }

    /// Chooses an option of a select by its value.
    pub fn choose(&self, css: &str, value: &str) {
        self.click(&format!("{css} option[value={value:?}]"));
    }

    /// Moves the pointer over an element.
    pub fn hover(&self, css: &str) {
        let at = self.element(css).unwrap_or_else(|cause| panic!("{css}: {cause}"));
        let id = at.strip_prefix("/element/").expect("an element's path");
        let over = json!({ "type": "pointerMove", "origin": { ELEMENT: id }, "x": 0, "y": 0 });
        self.post(
            "/actions",
            &json!({ "actions": [{ "type": "pointer", "id": "mouse", "actions": [over] }] }),
        );
    }

    /// Keys of the keyboard, to whatever has the focus.
    pub fn keys(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        self.post(
            "/actions",
            &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }),
        );
    }

    /// Runs a function's body in the page; its value.
    pub fn script(&self, body: &str, arguments: &Value) -> Value {
        self.post("/execute/sync", &json!({ "script": body, "args": arguments }))
    }

    /// A picture of the whole window, kept as `target/screenshots/NAME.png`.
    pub fn screenshot(&self, name: &str) -> PathBuf {
        let picture = self.get("/screenshot");
        let bytes = STANDARD.decode(picture.as_str().expect("a picture")).expect("base64");
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.png"));
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Errors that the page's scripts and policies had since this was asked last.
    pub fn errors(&self) -> Vec<String> {
        let lines = self.post("/se/log", &json!({ "type": "browser" }));
        let lines = lines.as_array().expect("a list").iter();
        lines
            .filter(|line| line["level"] == "SEVERE")
            .map(|line| line["message"].to_string())
            .collect()
    }

    /// What axe finds that is serious or critical, each as its rule and where.
    pub fn serious_faults(&self, axe: &str) -> Vec<String> {
        self.post("/execute/sync", &json!({ "script": axe, "args": [] }));
        let script = "const done = arguments[0]; axe.run(document).then(r => done(r.violations
            .filter(v => v.impact === 'serious' || v.impact === 'critical')
            .map(v => v.id + ' at ' + v.nodes.map(n => n.html.slice(0, 200)).join(' | '))));";
        let found = self.post("/execute/async", &json!({ "script": script, "args": [] }));
        found.as_array().expect("a list").iter().map(Value::to_string).collect()
    }

    fn chromium(&self, command: &str, parameters: &Value) {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    fn element(&self, css: &str) -> Result<String, String> {
        let found = self.try_post("/element", &json!({ "using": "css selector", "value": css }))?;
        Ok(format!("/element/{}", found[ELEMENT].as_str().ok_or("no element")?))
    }

    fn get(&self, path: &str) -> Value {
        let answer = minreq::get(format!("{}{path}", self.session)).with_timeout(60).send();
        value(answer).unwrap_or_else(|cause| panic!("chromedriver: {path}: {cause}"))
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.try_post(path, body).unwrap_or_else(|cause| panic!("chromedriver: {path}: {cause}"))
    }

    fn try_post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let request = minreq::post(format!("{}{path}", self.session)).with_timeout(60);
        value(
            request
                .with_header("Content-Type", "application/json")
                .with_body(body.to_string())
                .send(),
        )
    }
}

fn value(answer: Result<minreq::Response, minreq::Error>) -> Result<Value, String> {
    let answer = answer.map_err(|cause| cause.to_string())?;
    let mut json: Value =
        serde_json::from_slice(answer.as_bytes()).map_err(|cause| cause.to_string())?;
    match json["value"]["error"].as_str() {
        Some(error) => Err(format!("{error}: {}", json["value"]["message"])),
        None => Ok(json["value"].take()),
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; the driver goes with or without it.
        let _ = minreq::delete(&self.session).with_timeout(10).send();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
