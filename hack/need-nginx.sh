#!/bin/sh
# Makes sure that nginx is there for the end-to-end tests: installs Debian's package where it is missing and apt-get and
# the rights are there.
set -eu

# /usr/sbin is where Debian has it, and not on every user's PATH.
PATH="$PATH:/usr/sbin:/sbin"
command -v nginx >/dev/null && exit 0

advice="nginx is missing: install it (on Debian and Ubuntu: apt-get install nginx), or put it on PATH"
root=""
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null && sudo -n true 2>/dev/null || { echo "$advice" >&2; exit 1; }
	root="sudo -n"
fi
command -v apt-get >/dev/null || { echo "$advice" >&2; exit 1; }

# RUNLEVEL=1 asks the package to leave its service alone: the tests start their own nginx.
echo "installing nginx" >&2
$root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 sh -c \
	'apt-get -qq update && apt-get -qq -y install --no-install-recommends nginx' >/dev/null 2>&1 ||
	{ echo "$advice; apt-get could not" >&2; exit 1; }
command -v nginx >/dev/null || { echo "$advice" >&2; exit 1; }
