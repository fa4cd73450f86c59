//! Names the commit that a release build is made from, in the variable BUILD_COMMIT, for `mb --version`. It is empty in a
//! source archive, which has no .git, and in other builds, which would otherwise be made anew after each commit.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// How many digits of a commit are shown; as many as git shows.
const DIGITS: usize = 7;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let project = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let found = if is_release { commit(&project) } else { None };
    let (commit, files) = found.unwrap_or_default();
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
}

/// The commit that is checked out in `project`, and the files that change when it is another one. The files are read
/// without git, which may be missing, and which refuses the folder of another user.
pub(crate) fn commit(project: &Path) -> Option<(String, Vec<PathBuf>)> {
    let dot_git = project.join(".git");
    // In a worktree .git is a file that names the folder, which in turn names the folder with the branches.
    let own = match fs::read_to_string(&dot_git) {
        Ok(text) => project.join(text.strip_prefix("gitdir:")?.trim()),
        Err(_) => dot_git,
    };
    let shared = match fs::read_to_string(own.join("commondir")) {
        Ok(text) => own.join(text.trim()),
        Err(_) => own.clone(),
    };
    let head = own.join("HEAD");
    let text = fs::read_to_string(&head).ok()?;
    // The log of HEAD grows with each commit, also if the branch is only in packed-refs until then.
    let mut files = vec![head, own.join("logs/HEAD")];
    let id = match text.trim().strip_prefix("ref: ") {
        None => text.trim().to_owned(),
        Some(branch) => {
            let (loose, packed) = (shared.join(branch), shared.join("packed-refs"));
            let of_its_own = fs::read_to_string(&loose);
            files.push(if of_its_own.is_ok() { loose } else { packed.clone() });
            of_its_own.ok().or_else(|| packed_id(&packed, branch))?
        }
    };
    let digits = id.get(..DIGITS)?;
    let is_id = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    // A file that does not exist would make cargo run this each time.
    files.retain(|file| file.is_file());
    is_id.then(|| (digits.to_owned(), files))
}

fn packed_id(packed: &Path, branch: &str) -> Option<String> {
    let text = fs::read_to_string(packed).ok()?;
    let id = text.lines().find_map(|line| line.strip_suffix(branch)?.strip_suffix(' '))?;
    Some(id.to_owned())
}
