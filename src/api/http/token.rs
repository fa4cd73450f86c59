//! The token of `--token-file`: read once, at the start, and compared. Which requests need it is decided in `auth`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::limits;
use crate::model::error::{Error, Result};

/// Compares in a time that does not depend on where they differ. Lengths are not secret.
pub(super) fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let difference =
        a.iter().zip(b).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    difference == 0
}

/// The token in the file.
///
/// # Errors
/// `Config` if the file cannot be read, or what it has cannot be a token.
pub(super) fn read_token(path: &Path) -> Result<String> {
    let unfit = |why: &str| {
        Err(Error::Config(format!(
            "--token-file: {}: {why}, expected one line of {} to {} visible ASCII characters",
            path.display(),
            limits::TOKEN_BYTES_MIN,
            limits::TOKEN_BYTES_MAX
        )))
    };
    let read = || -> std::io::Result<(Vec<u8>, u32)> {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut bytes = Vec::new();
        // With room for the end of the line.
        file.take(limits::TOKEN_BYTES_MAX as u64 + 2).read_to_end(&mut bytes)?;
        Ok((bytes, mode))
    };
    let (bytes, mode) = match read() {
        Ok(read) => read,
        Err(cause) => return unfit(&format!("cannot read it: {cause}")),
    };
    let token = bytes.trim_ascii();
    let Some(token) = str::from_utf8(token).ok().filter(|_| token.iter().all(u8::is_ascii_graphic))
    else {
        return unfit("it contains other characters");
    };
    if !(limits::TOKEN_BYTES_MIN..=limits::TOKEN_BYTES_MAX).contains(&token.len()) {
        return unfit(&format!("it has {} bytes", token.len()));
    }
    if mode & 0o004 != 0 {
        // Not refused: secrets that an orchestrator mounts often have this mode.
        log::warn!(
            "--token-file: {} is readable by every user of this machine; chmod 600 makes it private",
            path.display()
        );
    }
    Ok(token.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    pub(in crate::api::http) fn token_file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a folder for it");
        file.write_all(text.as_bytes()).expect("room for it");
        file
    }

    #[test]
    fn a_token_that_is_too_short_or_cannot_be_sent_is_refused() {
        for text in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcd\u{e9}\u{e9}"] {
            let error = read_token(token_file(text).path()).expect_err(text);
            assert!(error.to_string().starts_with("--token-file: "), "{error}");
        }
        assert!(read_token(token_file(&"x".repeat(5000)).path()).is_err());
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(is_same(b"abc", b"abc") && is_same(b"", b""));
        assert!(!is_same(b"abc", b"abd") && !is_same(b"abc", b"abcd"));
    }
}
