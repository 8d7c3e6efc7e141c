#!/bin/sh
# Makes sure that Redis' server program is there for the tests of Celery; the tests start a server of their own.
set -eu
[ -n "${ELT_DAGSTER_TEST_REDIS_URL:-}" ] && exit 0
command -v redis-server >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Redis for the tests ..."
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y redis-server >/dev/null && exit 0
fi
echo "The tests of Celery need redis-server: install it (Debian, Ubuntu: apt-get install redis-server) or set ELT_DAGSTER_TEST_REDIS_URL. Until then they are skipped (under CI they fail)." >&2
