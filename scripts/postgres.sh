#!/bin/sh
# Makes sure that PostgreSQL's server programs are there for the tests; the tests start a server of their own.
set -eu
[ -n "${ELT_DAGSTER_TEST_POSTGRES_URL:-}" ] && exit 0
command -v initdb >/dev/null 2>&1 && exit 0
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing PostgreSQL for the tests ..."
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y postgresql >/dev/null && exit 0
fi
echo "The tests need PostgreSQL's server programs: install them (Debian, Ubuntu: apt-get install postgresql) or set ELT_DAGSTER_TEST_POSTGRES_URL." >&2
exit 1
