#!/bin/sh
# Writes the secrets that k8s/ refers to, with fresh passwords; run once:
#   HF_TOKEN=... S3_ACCESS_KEY=... S3_SECRET_KEY=... k8s/secrets.sh | kubectl apply -f -
# Without S3_ACCESS_KEY it draws one, for the demo's own S3 server. Run again, all passwords are new: then restart
# Valkey first and everything else after it.
set -eu
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
password=$(random)
access=${S3_ACCESS_KEY:-$(random)}
secret=${S3_SECRET_KEY:-$(random)}

secret() {  # name, then lines of stringData
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: reduxq}\nstringData:\n' "$1"
    shift
    printf '  %s\n' "$@"
}

secret servers \
    "REDUXQ_RECORDS__URL: \"redis://:$password@valkey:6379/0\"" \
    "REDUXQ_BROKER__URL: \"redis://:$password@valkey:6379/1\"" \
    "REDUXQ_STORAGE__ACCESS_KEY: \"$access\"" \
    "REDUXQ_STORAGE__SECRET_KEY: \"$secret\""
secret valkey "password: \"$password\"" "requirepass.conf: \"requirepass $password\""
secret flower "CELERY_BROKER_URL: \"redis://:$password@valkey:6379/1\"" "FLOWER_BASIC_AUTH: \"operator:$(random)\""
secret hub "HF_TOKEN: \"${HF_TOKEN:-}\""
secret s3 "ROOT_ACCESS_KEY: \"$access\"" "ROOT_SECRET_KEY: \"$secret\""
