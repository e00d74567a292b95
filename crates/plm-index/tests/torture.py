"""Collects FASTA files from the tests of other tools: python3 torture.py FOLDER

They are in the source distributions on PyPI, which are read and never built or run. pip's
configuration says where PyPI is (index-url, cert). A folder that is complete is left as it is.
Otherwise, a failed download is an error.
"""

import hashlib
import io
import json
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

# Name on PyPI, file, SHA-256.
SOURCES = [
    ("biopython", "biopython-1.88.tar.gz", "9aaa31c0bda4d059f7b2ee00bfdb5cbb73ade3057aa4b737a7cc0187091d071a"),
    ("scikit-bio", "scikit_bio-0.7.4.tar.gz", "833f6a9e631483288385d628286f3d452f48383476bf125766d3f197dd9fa4ce"),
    ("pyfastx", "pyfastx-2.3.1.tar.gz", "19d802cc13ee7774a3068bae3e4d4f419cc69aa237f2dd6366ce220a08b03dca"),
    ("pyfaidx", "pyfaidx-0.9.2.2.tar.gz", "6ad50a5ac00b396dc117b7322adcbbac945aa60ac05a345a7628422d7852f038"),
]
SUFFIXES = re.compile(r"\.(fa|fas|fasta|fna|faa|ffn|frn|fsa|mpfa|pro|nu)(\.b?gz)?$", re.IGNORECASE)
MAX_BYTES = 64 << 20


def pip_configuration():
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    # `global.index-url='...'` comes from files, and `:env:.index-url='...'` from the environment,
    # which has precedence.
    settings = re.findall(r"^([\w:]+)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    settings.sort(key=lambda setting: setting[0] == ":env:")
    return {name: value for _, name, value in settings}


def get(url, context, accept="*/*"):
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=180, context=context) as response:
        return response.read(), response.headers.get("Content-Type", ""), response.url


def link(index, name, file, context):
    """The address of a file, from a package index in either form (PEP 503, PEP 691)."""
    page, kind, address = get(
        f"{index.rstrip('/')}/{name}/", context, "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    )
    if "json" in kind:
        links = [entry["url"] for entry in json.loads(page)["files"]]
    else:
        links = re.findall(r'href="([^"]+)"', page.decode())
    for candidate in links:
        if urllib.parse.urlparse(candidate).path.endswith("/" + file):
            return urllib.parse.urljoin(address, candidate)
    raise ValueError(f"it has no {file}")


def is_fasta(path, content):
    return SUFFIXES.search(path) or content[:4096].lstrip(b"\r\n").startswith(b">")


def collect(archive, folder):
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
        for member in members:
            if not member.isfile() or member.size > MAX_BYTES:
                continue
            content = members.extractfile(member).read()
            if is_fasta(member.name, content):
                (folder / member.name.replace("/", "__")).write_bytes(content)


def main():
    folder = Path(sys.argv[1])
    mark = folder / "complete"
    contents = "\n".join(digest for _, _, digest in SOURCES)
    if mark.exists() and mark.read_text() == contents:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    configuration = pip_configuration()
    index = configuration.get("index-url", "https://pypi.org/simple")
    context = ssl.create_default_context(cafile=configuration.get("cert"))
    for name, file, digest in SOURCES:
        print(f"plm-fleet: fetching {file} for the FASTA files in it", file=sys.stderr)
        try:
            archive, _, _ = get(link(index, name, file, context), context)
            if hashlib.sha256(archive).hexdigest() != digest:
                raise ValueError("it is another file than the one whose SHA-256 is known")
        except (OSError, ValueError, urllib.error.URLError) as error:
            sys.exit(
                f"plm-fleet: can't fetch {file} from the package index of pip: {error}\n"
                "The tests with other tools' FASTA files need it once; all others run as `tests/run.sh -p PACKAGE`."
            )
        collect(archive, folder)
    mark.write_text(contents)


main()
