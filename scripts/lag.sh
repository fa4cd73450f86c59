#!/usr/bin/env bash
# Runs `mb lag`, with its flags and defaults, from the folder that it is called in; builds mb where it is not built.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -x $root/target/release/mb ]] || cargo build --manifest-path "$root/Cargo.toml" --release --locked --quiet
exec "$root/target/release/mb" lag "$@"
