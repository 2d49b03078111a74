"""Makes the wheel gatehouse, which carries the program: build.py VERSION GOOS/GOARCH PROGRAM FOLDER. The same input is the same wheel, byte for byte."""

import base64
import hashlib
import os
import re
import sys
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
# The program is linked statically, so it runs with glibc and musl of any age that pip knows, and on every macOS that Go runs on.
PLATFORMS = {
    "linux/amd64": "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64",
    "linux/arm64": "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
    "darwin/amd64": "macosx_12_0_x86_64",
    "darwin/arm64": "macosx_12_0_arm64",
}
METADATA = """Metadata-Version: 2.1
Name: gatehouse
Version: {version}
Summary: External authorization for Envoy: the program, and a pytest plugin that asks it
License: Apache-2.0
Requires-Python: >=3.10
Classifier: Framework :: Pytest
Description-Content-Type: text/markdown

Gatehouse is an external authorization server (ext_authz) for Envoy. This wheel carries its program, `gatehouse`, and `gatehouse.testing`, with which
tests ask what a policy decides.
"""


def python_version(version):
    """v1.2.3-rc.1 is 1.2.3rc1 to Python; what is no release is a development version."""
    m = re.fullmatch(r"v?(\d+\.\d+\.\d+)(?:-(alpha|beta|rc)\.?(\d+))?", version)
    if not m:
        return "0.0.0.dev0"
    return m[1] + ({"alpha": "a", "beta": "b", "rc": "rc"}[m[2]] + m[3] if m[2] else "")


def main(version, platform, program, folder):
    version, tags = python_version(version), PLATFORMS[platform]
    info = f"gatehouse-{version}.dist-info"
    files = {}
    for name in ("__init__.py", "__main__.py", "testing.py"):
        with open(os.path.join(HERE, "gatehouse", name), "rb") as f:
            files["gatehouse/" + name] = f.read()
    with open(program, "rb") as f:
        files[f"gatehouse-{version}.data/scripts/gatehouse"] = f.read()
    with open(os.path.join(HERE, "..", "..", "LICENSE"), "rb") as f:
        files[f"{info}/licenses/LICENSE"] = f.read()
    files[f"{info}/METADATA"] = METADATA.format(version=version).encode()
    files[f"{info}/WHEEL"] = ("Wheel-Version: 1.0\nGenerator: gatehouse\nRoot-Is-Purelib: false\n" + "".join(f"Tag: py3-none-{t}\n" for t in tags.split("."))).encode()
    files[f"{info}/entry_points.txt"] = b"[pytest11]\ngatehouse = gatehouse.testing\n"
    digest = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
    record = [f"{name},sha256={digest(text)},{len(text)}" for name, text in files.items()]
    files[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()

    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"gatehouse-{version}-py3-none-{tags}.whl")
    with zipfile.ZipFile(path + ".new", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if "/scripts/" in name else 0o100644) << 16
            z.writestr(entry, text)
    os.replace(path + ".new", path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
