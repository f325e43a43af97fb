"""The dashboard as one document."""

import base64
import hashlib
import re

import pytest

from pipeline.web import page


def write(folder, html, css="a { color: red }\n", js="'é';\n"):
    """Write the three files."""
    for suffix, content in (("html", html), ("css", css), ("js", js)):
        (folder / f"dashboard.{suffix}").write_text(content, encoding="utf-8")


@pytest.mark.parametrize("folder", [None, "made up"])
def test_policy_names_what_is_in_the_document(folder, tmp_path):
    """The hashes are those of the bytes between the tags, as a browser takes them."""
    if folder:
        write(tmp_path, "<html><!-- dashboard.css --><p>&</p><!-- dashboard.js --></html>")
    loaded = page.load(tmp_path) if folder else page.load()
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), loaded.document, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in loaded.policy
    assert b"<!-- dashboard." not in loaded.document


@pytest.mark.parametrize(
    "files",
    [
        {"html": "<!-- dashboard.css -->"},
        {"html": "<!-- dashboard.css --><!-- dashboard.js --><!-- dashboard.js -->"},
        {"html": "<!-- dashboard.css --><!-- dashboard.js -->", "js": "'</SCRIPT>'"},
        {"html": "<!-- dashboard.css --><!-- dashboard.js -->", "css": "</style >"},
        {"html": "<!-- dashboard.css --><!-- dashboard.js -->", "js": "'<!--'"},
    ],
)
def test_files_that_do_not_fit(files, tmp_path):
    """What would be another document in a browser is not served at all."""
    write(tmp_path, **files)
    with pytest.raises(ValueError, match="has to stand in the document once"):
        page.load(tmp_path)
