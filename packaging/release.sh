#!/usr/bin/env bash
# release.sh VERSION KEY: makes everything of a release in dist/, from the commit that is checked out.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1 key=$(realpath "$2")
export PATH=$PWD/bin:$PATH
commit=$(git rev-parse HEAD) when=$(git log -1 --format=%ct)

rm -rf dist dist-docs
make -s build
VERSION=$version bin/goreleaser release --snapshot --clean --skip=publish,announce
# Without the commit it takes the time of now for that of the files.
grep -q "\"commit\":\"$commit\"" dist/metadata.json || { echo "goreleaser does not see the commit: make a release in a clone, and not in a linked work tree (git worktree)"; exit 1; }
(cd packaging/image && go run . -dist ../../dist -version "$version" -commit "$commit" -time "$when" -source "${SOURCE:-https://example.com/gatehouse}" \
  -authorities "${AUTHORITIES:-/etc/ssl/certs/ca-certificates.crt}")

# The attestations are a bundle, signed and verified like those of a policy.
attestations=dist/gatehouse_${version}_attestations.tar.gz
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
cp dist/SHA256SUMS dist/provenance.json dist/image.digest dist/*.cdx.json "$parts"
tar -C "$parts" --sort=name --mtime="@$when" --owner=0 --group=0 --numeric-owner -cf - . | gzip -n >"$attestations"
bin/gatehouse bundle sign "$attestations" --key "$key" --key-id release --algorithm EdDSA
rm -rf dist-docs
