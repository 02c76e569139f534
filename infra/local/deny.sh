#!/usr/bin/env bash
# deny.sh: licences, bans, sources and duplicates of the dependencies, by cargo-deny; and advisories, where their database
# can be had. With REQUIRE_ADVISORIES set it fails where it cannot.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=0.20.2
tools=${CARGO_TARGET_DIR:-target}/tools
deny=$tools/bin/cargo-deny

if ! [ -x "$deny" ] || [ "$("$deny" --version)" != "cargo-deny $version" ]; then
    echo "installing cargo-deny $version (the first time: some minutes)"
    CARGO_TARGET_DIR=$tools/build infra/local/heartbeat.sh \
        cargo install --quiet --locked --root "$tools" --version "$version" cargo-deny
    rm -rf "$tools/build"
fi
"$deny" --locked check --hide-inclusion-graph licenses bans sources
if "$deny" --locked fetch db; then
    "$deny" --locked check --disable-fetch advisories
elif [ -n "${REQUIRE_ADVISORIES:-}" ]; then
    echo "advisories could not be checked, and have to be: what stands above says why" >&2
    exit 1
else
    echo "advisories were NOT checked: their database cannot be had from here; what stands above says why"
fi
