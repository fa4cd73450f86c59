#!/usr/bin/env bash
# Runs `mb lag` from the project's root, with the flags and defaults of `mb lag`; builds mb where it is not built.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -x target/release/mb ]] || cargo build --release --locked --quiet
exec target/release/mb lag "$@"
