//! The page in Chromium.

mod support;

use support::browser::Browser;

#[test]
fn chromium_opens() {
    let browser = Browser::start();
    browser.look(400, 800, true);
    browser.open("data:text/html,<title>x</title><body><h1 id=a>hello</h1>");
    browser.wait_for("#a", "hello");
    browser.screenshot("try");
    assert_eq!(browser.errors(), [""; 0]);
}
