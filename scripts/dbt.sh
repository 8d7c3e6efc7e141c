#!/bin/sh
# Makes sure that dbt is there for the tests, in an environment of its own: it wants another pathspec than mypy.
set -eu
ready=.dbt/.ready
cmp -s tests/dbt.txt "$ready" && exit 0
echo "Installing dbt for the tests ..."
"${PYTHON:-python3}" -m venv --clear .dbt
.dbt/bin/python -m pip install --disable-pip-version-check -r tests/dbt.txt > .dbt/install.log 2>&1 && cp tests/dbt.txt "$ready" && exit 0
tail -n 5 .dbt/install.log >&2
echo "dbt could not be installed; the tests that need it are skipped (under CI they fail)." >&2
