#!/usr/bin/env bash
# Installs what the server's `cargo test` needs: the broker of jobs, from Debian.
set -euo pipefail
command -v nats-server >/dev/null && exit 0
[ "$(id -u)" = 0 ] || { echo "install the Debian package nats-server first" >&2; exit 1; }
apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends nats-server >/dev/null
