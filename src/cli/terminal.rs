//! Stderr as a terminal: one progress bar at its bottom, with log lines written above it.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};

use crate::model::sync::{Mutex, MutexGuard};

/// Stderr, with the current bar if there is one. Clones share the bar.
#[derive(Clone, Debug, Default)]
pub struct Terminal {
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Terminal {
    /// Whether stderr is a terminal.
    pub fn is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Whether log lines may be coloured (no-color.org).
    pub fn takes_colours(&self) -> bool {
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        self.is_watched() && !no_colour && env::var_os("TERM").is_some_and(|term| term != "dumb")
    }

    /// Shows a bar until the returned value is dropped; `doing` reads as in "5 of 10 posted".
    pub fn bar(&self, to_do: u64, doing: &str) -> Bar {
        let style = format!(
            "{{wide_bar}} {{human_pos}} of {{human_len}} {doing}, {{per_sec}}, {{eta}} left"
        );
        // If `doing` makes no valid template, the default bar is shown.
        let style =
            ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(to_do).with_style(style);
        bar.tick();
        *self.lock() = Some(bar);
        Bar { terminal: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock()
    }
}

/// For the log, which writes whole lines.
impl Write for Terminal {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().write_all(lines);
        match self.lock().as_ref() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A visible bar; dropping it removes it from the terminal.
pub struct Bar {
    terminal: Terminal,
}

impl Bar {
    pub fn set(&self, done: u64) {
        if let Some(bar) = self.terminal.lock().as_ref() {
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.terminal.lock().take() {
            bar.finish_and_clear();
        }
    }
}
