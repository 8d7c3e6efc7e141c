#!/bin/sh
# Makes sure that Prefect's server is there for the tests, in an environment of its own: it wants other versions than ours.
set -eu
ready=.prefect/.ready
cmp -s tests/prefect.txt "$ready" && exit 0
echo "Installing Prefect's server for the tests ..."
"${PYTHON:-python3}" -m venv --clear .prefect
.prefect/bin/python -m pip install --disable-pip-version-check -r tests/prefect.txt > .prefect/install.log 2>&1 && cp tests/prefect.txt "$ready" && exit 0
tail -n 5 .prefect/install.log >&2
echo "Prefect's server could not be installed; the tests that need it are skipped (under CI they fail)." >&2
