"""The built documentation in a browser; `make docs` builds it and runs this."""

import functools
import re
import shutil
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fused_acts
import fused_acts.distributed
import fused_acts.integrations.transformers
from fused_acts import nn, reference

pytestmark = pytest.mark.slow

SITE = Path(__file__).resolve().parent.parent / "site"
LOCAL = re.compile("http://127.0.0.1:|data:")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PUBLIC = [
    *(f"fused_acts.{name}" for name in fused_acts.__all__ if name not in ("nn", "reference")),
    *(f"fused_acts.nn.{name}" for name in nn.__all__),
    *(f"fused_acts.reference.{name}" for name in reference.__all__),
    "fused_acts.distributed.ExpertParallel",
    "fused_acts.distributed.PackedColwiseParallel",
    "fused_acts.integrations.transformers.patch",
    "fused_acts.integrations.transformers.unpatch",
]
GUIDE = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if path.name != "index.html"  # which leads to README.html
    and (path.parent.name != "api" or path.stem in ("fused_acts", "fused_acts.swiglu"))
)
MISSING = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the site."""
    if not (SITE / "index.html").is_file():
        pytest.skip("no site/: run `make docs`")
    handler = functools.partial(Quiet, directory=SITE)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(site):
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `docs` has it")
    if not CHROMIUM:
        pytest.skip("no chromium on PATH (Debian: apt install chromium)")
    with playwright.sync_playwright() as p:
        # no sandbox: as root, as in a container, Chromium refuses to start with one
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """A tab in which nothing may go wrong."""
    complaints = []
    page = browser.new_page()
    page.on(
        "console",
        lambda m: m.type in ("error", "warning") and complaints.append(f"{m.text} {m.location}"),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    # aborted: what was still loading when the tab went on to another page
    page.on(
        "requestfailed",
        lambda request: (
            request.failure == "net::ERR_ABORTED" or complaints.append(f"not loaded: {request.url}")
        ),
    )
    # 304: what another tab has loaded is still as it was
    page.on(
        "response", lambda r: r.ok or r.status == 304 or complaints.append(f"{r.status}: {r.url}")
    )
    page.on("request", lambda r: LOCAL.match(r.url) or complaints.append(f"elsewhere: {r.url}"))
    yield page
    page.close()
    assert not complaints


@pytest.mark.parametrize("path", GUIDE)
def test_a_page_opens(path, site, tab):
    tab.goto(site + path, wait_until="load")
    tab.evaluate("for (const image of document.images) image.loading = 'eager'")
    tab.wait_for_function(f"{MISSING}.length == 0", timeout=5000)


def test_the_search_finds_a_function(site, tab):
    tab.goto(site)
    tab.wait_for_url("**/README.html")
    tab.locator("input[name=q]").first.fill("swiglu")
    tab.keyboard.press("Enter")
    results = tab.locator("#search-results li a")
    results.first.wait_for()
    targets = [link.get_attribute("href") for link in results.all()]
    assert any("docs/api/fused_acts.swiglu.html" in target for target in targets)


def test_light_and_dark(site, browser):
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128"
    for scheme, bright in (("light", True), ("dark", False)):
        page = browser.new_page(color_scheme=scheme)
        page.goto(site + "README.html")
        assert page.evaluate(brightness) is bright
        page.locator(".theme-toggle:visible").first.click()
        assert page.evaluate(brightness) is not bright
        page.close()


class Page(HTMLParser):
    """Where a page leads to, and the places in it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = set(), {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src"):
                self.links.add(value)
            elif name == "id":
                self.places.add(value)


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in SITE.rglob("*.html")}


def test_every_link_leads_somewhere(pages):
    broken, count = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:  # elsewhere, which needs a network
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            places = pages[target].places if target in pages else {""}
            count += 1
            if not target.is_file() or parts.fragment not in places:
                broken.append((path.name, link))
    assert not broken and count > 1000


def test_every_public_name_has_its_place(pages):
    places = set().union(*(page.places for page in pages.values()))
    assert not set(PUBLIC) - places
