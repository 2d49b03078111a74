#!/usr/bin/env bash
# check.sh: a release of the commit that is checked out, made twice and looked into, and what runs it elsewhere. Publishes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '\n== %s\n' "$*"; }

say "alerts: promtool"
bin/promtool check rules packaging/prometheus/rules.yaml
bin/promtool test rules packaging/prometheus/rules_test.yaml
python3 - <<'P' >"$work/queries"
import json
for panel in json.load(open("packaging/grafana/gatehouse.json"))["panels"]:
    for target in panel.get("targets", []):
        print(target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*"))
P
n=0
while read -r query; do
  bin/promtool --experimental promql format "$query" >/dev/null || { echo "the dashboard has a query that is none: $query"; exit 1; }
  n=$((n + 1))
done <"$work/queries"
echo "the dashboard's $n queries are PromQL"

say "systemd unit"
if command -v systemd-analyze >/dev/null; then
  systemd-analyze security --offline=true --threshold=20 packaging/systemd/gatehouse.service | tail -n 1
else
  echo "systemd-analyze is not installed: the unit was not checked"
  exit 1
fi

say "compose file"
make -s build
cp -r examples/flask-orders "$work/example"
rm -f "$work/example"/jwks.json "$work/example"/*.pem
for first in token serve; do
  sed -n "s/^ *command: \(\[\"$first\".*\)/\1/p" packaging/compose.yaml >"$work/command"
  python3 -c 'import json, sys; print("\0".join(json.load(sys.stdin)), end="")' <"$work/command" >"$work/args"
  # What is served is only looked at here.
  if [ "$first" = serve ]; then printf '\0--check' >>"$work/args"; fi
  (cd "$work/example" && xargs -0 "$OLDPWD/bin/gatehouse" <"$work/args" >"$work/said" 2>&1) || { cat "$work/said"; echo "the compose file's gatehouse $first does not work"; exit 1; }
done
echo "its commands work in the example"

say "a release, twice"
openssl genpkey -algorithm ed25519 -out "$work/private.pem"
openssl pkey -in "$work/private.pem" -pubout -out "$work/public.pem"
version=0.0.0-check
packaging/release.sh "$version" "$work/private.pem"
digests() { (cd dist && sha256sum ./*.tar.gz ./*.deb ./*.rpm ./*.cdx.json image.digest provenance.json); }
digests >"$work/first"
packaging/release.sh "$version" "$work/private.pem"
digests >"$work/second"
diff "$work/first" "$work/second"
echo "both have the same bytes: $(wc -l <"$work/first") files"

say "what is in it"
bin/gatehouse bundle verify "dist/gatehouse_${version}_attestations.tar.gz" --key "$work/public.pem" --key-id release --algorithm EdDSA
tar -xzOf "dist/gatehouse_${version}_attestations.tar.gz" SHA256SUMS >"$work/SHA256SUMS"
(cd dist && sha256sum --check --quiet --ignore-missing "$work/SHA256SUMS")
echo "the sums hold"
tar -tzf "dist/gatehouse_${version}_linux_amd64.tar.gz" | sed 's|^[^/]*/||' | sort >"$work/names"
for name in gatehouse LICENSE man/gatehouse.1 completions/gatehouse.bash systemd/gatehouse.service prometheus/rules.yaml grafana/gatehouse.json; do
  grep -qx "$name" "$work/names" || { echo "the archive lacks $name"; exit 1; }
done
tar -xzOf "dist/gatehouse_${version}_linux_amd64.tar.gz" --wildcards '*/gatehouse' >"$work/gatehouse" && chmod +x "$work/gatehouse"
"$work/gatehouse" version | tee "$work/version"
sed -n 's|^Exec[A-Za-z]*=/usr/bin/gatehouse ||p' packaging/systemd/gatehouse.service | while read -r args; do
  # shellcheck disable=SC2086 # the unit's words
  "$work/gatehouse" $args --help >/dev/null || { echo "the unit runs what there is not: gatehouse $args"; exit 1; }
done
grep -q "v$version" "$work/version"
if command -v dpkg-deb >/dev/null; then
  dpkg-deb -c "dist/gatehouse_${version}_linux_amd64.deb" | awk '{print $1, $2, $6}'
fi
python3 - "$version" <<'P'
import json, sys, tarfile, io, hashlib
layout = "dist/image/"
def blob(digest): return open(layout + "blobs/" + digest.replace(":", "/"), "rb").read()
index = json.loads(blob(json.load(open(layout + "index.json"))["manifests"][0]["digest"]))
for m in index["manifests"]:
    manifest = json.loads(blob(m["digest"]))
    config = json.loads(blob(manifest["config"]["digest"]))
    layer = tarfile.open(fileobj=io.BytesIO(blob(manifest["layers"][0]["digest"])))
    assert config["config"]["User"] == "65532:65532" and config["architecture"] == m["platform"]["architecture"], config
    inside = hashlib.sha256(layer.extractfile("usr/bin/gatehouse").read()).hexdigest()
    arch = m["platform"]["architecture"]
    archive = tarfile.open(f"dist/gatehouse_{sys.argv[1]}_linux_{arch}.tar.gz")
    name = next(n for n in archive.getnames() if n.endswith("/gatehouse"))
    assert inside == hashlib.sha256(archive.extractfile(name).read()).hexdigest(), "image and archive have different binaries"
    print("image", arch, "user", config["config"]["User"], "has the archive's binary")
P
