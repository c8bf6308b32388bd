#!/bin/sh
exec /opt/weaver/bin/python -m services.cli "$@"
