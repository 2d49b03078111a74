#!/bin/sh
# Before a removal, not before an upgrade: dpkg says "remove", rpm 0.
set -e
case "$1" in remove|0) [ ! -d /run/systemd/system ] || systemctl disable --now gatehouse.service || true ;; esac
