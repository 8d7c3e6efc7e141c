#!/bin/sh
# Makes sure that an OpenID provider is there for the tests of connection bridges, in a folder of its own; and says when Chromium is not.
set -eu
missing=""
command -v npm >/dev/null 2>&1 || missing="nodejs npm"
if [ -z "${ELT_DAGSTER_TEST_CHROMIUM:-}" ] && ! command -v chromium >/dev/null 2>&1 && ! command -v google-chrome >/dev/null 2>&1; then
    missing="${missing:+$missing }chromium"
fi
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing $missing for the tests ..."
    # shellcheck disable=SC2086  # several packages
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $missing >/dev/null && missing=""
fi
[ -z "$missing" ] || echo "The tests of connection bridges in a browser need $missing: install it (Debian, Ubuntu: apt-get install $missing). Until then they are skipped (under CI they fail)." >&2
command -v npm >/dev/null 2>&1 || exit 0
ready=.oidc/.ready
cmp -s tests/oidc/package-lock.json "$ready" && exit 0
echo "Installing an OpenID provider for the tests ..."
mkdir -p .oidc
cp tests/oidc/package.json tests/oidc/package-lock.json .oidc/
(cd .oidc && npm ci --no-audit --no-fund --ignore-scripts > install.log 2>&1) && cp tests/oidc/package-lock.json "$ready" && exit 0
tail -n 5 .oidc/install.log >&2
echo "The OpenID provider could not be installed; the tests that need it are skipped (under CI they fail)." >&2
