#!/bin/sh
# Run by the database image at its first start.
set -eu
psql --set ON_ERROR_STOP=1 --set vigil_password="$VIGIL_DATABASE_PASSWORD" \
    --username "${POSTGRES_USER:-postgres}" --dbname vigil --file /vigil/bootstrap.sql
