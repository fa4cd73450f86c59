#!/usr/bin/env bash
# Runs `mb lag` with the same flags and defaults, in the current folder. The binary is $MB, or else this project's, which is
# built first if it is missing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mb=${MB:-$root/target/release/mb}
[[ -x $mb ]] || cargo build --manifest-path "$root/Cargo.toml" --release --locked --quiet
exec "$mb" lag "$@"
