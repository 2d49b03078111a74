"""Makes the pages in docs a site that stands alone.

Pages link to files of the checkout, such as an example's. On a code host these links work as they are; here each of these files gets a
page that shows it. At the end no page may load anything from another host.
"""

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))
ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
LANGUAGES = {".py": "python", ".go": "go", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".rego": "rego", ".html": "html", ".conf": "nginx"}
MAX_BYTES = 200_000  # of a file that is shown


def outside(page_uri, target):
    """The file of the checkout that a link leads to, if it is not a page of docs."""
    if "://" in target or target.startswith(("#", "mailto:", "/")):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page_uri), target))
    full = ROOT / path
    inside = path.startswith("docs/") and not full.is_dir()
    return path if not inside and full.exists() else None


def shown(path):
    """The page that shows a file or folder of the checkout."""
    return f"source/{path}.md" if (ROOT / path).is_file() else f"source/{path}/folder.md"


def tracked(path):
    out = subprocess.run(["git", "ls-files", "--", path], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return out.splitlines()


def content(path):
    full = ROOT / path
    if full.is_dir():
        lines = [f"- [{name[len(path) + 1:]}]({posixpath.relpath(shown(name), posixpath.dirname(shown(path)))})" for name in tracked(path)]
        return f"# {path}\n\n" + "\n".join(lines) + "\n"
    text = full.read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    fence = "`" * 6
    return f"# {path}\n\n{fence}{LANGUAGES.get(full.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def on_files(files, config):
    from mkdocs.structure.files import File

    todo = []
    for file in list(files.documentation_pages()):
        for _, target, _ in LINK.findall(file.content_string):
            if (path := outside(file.src_uri, target)) is not None:
                todo.append(path)
    done = set()
    while todo:
        path = todo.pop()
        if path in done or (ROOT / path).is_file() and (ROOT / path).stat().st_size > MAX_BYTES:
            continue
        done.add(path)
        if (ROOT / path).is_dir():
            todo += tracked(path)
        files.append(File.generated(config, shown(path), content=content(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri.startswith("source/"):
        # Links of these pages are relative to the checkout, not to the site: what leads nowhere here is text.
        if page.file.src_uri.endswith("/folder.md"):
            return markdown
        return LINK.sub(lambda m: m[0] if "://" in m[2] else "](" + to_site(page.file.src_uri, m[2], files) + m[3], markdown)

    def local(m):
        path = outside(page.file.src_uri, m[2])
        if path is None:
            return m[0]
        return m[1] + posixpath.relpath(shown(path), posixpath.dirname(page.file.src_uri) or ".") + ")"

    return LINK.sub(local, markdown)


def to_site(uri, target, files):
    path = posixpath.normpath(posixpath.join(posixpath.dirname(uri.removeprefix("source/")), target))
    for candidate in (path.removeprefix("docs/"), shown(path) if (ROOT / path).exists() else ""):
        if candidate and files.get_file_from_path(candidate):
            return posixpath.relpath(candidate, posixpath.dirname(uri))
    return posixpath.relpath("README.md", posixpath.dirname(uri))


# What a browser would load by itself. A link that somebody clicks is none of these.
LOADED = re.compile(r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']?(?:https?:)?//|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon|modulepreload))[^>]*?\bhref=["']?(?:https?:)?//""", re.I)
IMPORTED = re.compile(r"""(?:@import\s+|url\()["']?(?:https?:)?//""", re.I)


def on_post_build(config):
    bad = []
    for file in Path(config["site_dir"]).rglob("*"):
        if file.suffix in (".html", ".css"):
            text = file.read_text(encoding="utf-8")
            if found := (LOADED if file.suffix == ".html" else IMPORTED).search(text):
                bad.append(f"{file}: {found[0]}")
    if bad:
        raise SystemExit("these pages load something from another host:\n" + "\n".join(bad))
