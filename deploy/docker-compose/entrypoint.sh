#!/bin/sh
# Secrets come as files: NAME_FILE=/run/secrets/... becomes the variable NAME of the process that is started, and is shown by nothing else.
set -eu
secrets=${SECRETS_FOLDER:-/run/secrets}
for pair in $(env | grep -E "^[A-Za-z_][A-Za-z0-9_]*_FILE=$secrets/" || true); do
    name=${pair%%=*}
    file=${pair#*=}
    if [ ! -r "$file" ]; then
        echo "$name names $file, which cannot be read. Make that file, or leave $name away." >&2
        exit 1
    fi
    export "${name%_FILE}=$(cat "$file")"
done
exec "$@"
