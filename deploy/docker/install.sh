#!/bin/sh
# Installs the packages of one image into /opt/weaver, each pinned by its hash, none built here.
set -eu

/tools/bin/pip --python /opt/weaver/bin/python3 install --require-hashes --only-binary :all: \
    -r "/requirements/$1.txt"
# A file system that nobody can write to keeps no byte code: it is made now, and never looked at again.
/opt/weaver/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/weaver/lib
