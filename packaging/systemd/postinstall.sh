#!/bin/sh
# After an installation or an upgrade: nothing is started before there is a configuration; what runs is replaced.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
systemctl try-restart gatehouse.service || true
