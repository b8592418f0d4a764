"""Login: roles of a study, with an OpenID provider on this machine and a real browser."""

import json
import re
import time
from base64 import urlsafe_b64encode
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")
pytest.importorskip("authlib", reason="the extra `login` is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

import in_chromium
import score_folders
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from playwright.sync_api import expect

from anodetect.commands import study as command
from anodetect.record import reviews
from benchmarks.review import PAINTED, browser, free_port, served

pytestmark = in_chromium.CHROMIUM
KEY = rsa.generate_private_key(65537, 2048)
PERSON, ASKED = {}, {}  # who is logged in at the provider, and what each code stands for
CLIENT, SECRET = "anodetect", "not a secret of anybody"
SECRETS = """[auth]
redirect_uri = "{app}/oauth2callback"
cookie_secret = "a text that is long enough to sign cookies with"
client_id = "{client}"
client_secret = "{secret}"
server_metadata_url = "{provider}/.well-known/openid-configuration"
"""


def encoded(content):
    """Return bytes, or an object as JSON, in the base 64 of tokens."""
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def signed(claims):
    """Return claims as a JSON Web Token (RS256)."""
    text = f"{encoded({'alg': 'RS256', 'kid': 'test'})}.{encoded(claims)}"
    return f"{text}.{encoded(KEY.sign(text.encode(), padding.PKCS1v15(), SHA256()))}"


class Provider(BaseHTTPRequestHandler):
    """An OpenID provider at which PERSON is logged in."""

    def do_GET(self):
        address = urlsplit(self.path)
        own = f"http://127.0.0.1:{self.server.server_port}"
        if address.path == "/.well-known/openid-configuration":
            names = {"authorization": "authorize", "token": "token"}
            endpoints = {f"{name}_endpoint": f"{own}/{path}" for name, path in names.items()}
            types = {"response_types_supported": ["code"], "subject_types_supported": ["public"]}
            algorithms = {"id_token_signing_alg_values_supported": ["RS256"]}
            self.answer({"issuer": own, "jwks_uri": f"{own}/keys"} | endpoints | types | algorithms)
        elif address.path == "/keys":
            numbers = KEY.public_key().public_numbers()
            n = numbers.n.to_bytes(256, "big")
            key = {"kty": "RSA", "kid": "test", "alg": "RS256", "use": "sig"}
            self.answer({"keys": [key | {"n": encoded(n), "e": encoded(b"\1\0\1")}]})
        elif address.path == "/authorize":
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            code = str(len(ASKED))
            ASKED[code] = query
            self.send_response(302)
            back = urlencode({"code": code, "state": query["state"]})
            self.send_header("Location", f"{query['redirect_uri']}?{back}")
            self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = ASKED[parse_qs(body)["code"][0]]
        own = f"http://127.0.0.1:{self.server.server_port}"
        claims = {"iss": own, "aud": CLIENT, "iat": int(time.time()), "exp": time.time() + 600}
        claims |= PERSON | ({"nonce": asked["nonce"]} if "nonce" in asked else {})
        token = {"access_token": "none", "token_type": "Bearer", "expires_in": 600}
        self.answer(token | {"id_token": signed(claims)})

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def provided():
    """Serve a provider, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    folder = score_folders.write(tmp_path_factory.mktemp("login"), 4)
    people = {"readers": ["ada@here.org"], "viewers": ["dan@here.org"]}
    command.plan(folder, **people, each=1, login=True)
    return folder


@pytest.fixture(scope="module")
def address(scores, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    port = free_port()
    with provided() as provider:
        (home / ".streamlit").mkdir()
        values = {"app": f"http://127.0.0.1:{port}", "client": CLIENT, "secret": SECRET}
        text = SECRETS.format(**values, provider=provider)
        (home / ".streamlit" / "secrets.toml").write_text(text)
        with served([scores], port=port, home=home) as found:
            yield found


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture
def log_in(chromium, address):
    """Logs in somebody of whom the provider says this, and returns their page."""
    contexts = []

    def run(**person):
        def note(received):
            page.received.append(received)

        PERSON.clear()
        PERSON.update({"sub": "1"} | person)
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.received = []
        page.on("websocket", lambda socket: socket.on("framereceived", note))
        # Whoever is in the address counts for nothing.
        page.goto(f"{address}?reviewer=ada@here.org")
        expect(page.get_by_text("from a login alone")).to_be_visible()
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")
        return page

    yield run
    for context in contexts:
        context.close()


def test_a_reader_judges_under_the_address_of_the_login(log_in, scores):
    page = log_in(email="ada@here.org", email_verified=True)
    expect(page.get_by_text("Logged in as ada@here.org")).to_be_visible()
    page.wait_for_selector(PAINTED)
    expect(page.get_by_text("Case 1 of 4")).to_be_visible()
    page.get_by_role("button", name=re.compile("Normal")).click()
    expect(page.get_by_text("Case 2 of 4")).to_be_visible()
    expect(page.locator("#viewer .receipt")).to_contain_text("record 1")
    received = [each if isinstance(each, bytes) else each.encode() for each in page.received]
    assert len(received) > 3 and not any(b"part-0" in each for each in received)
    assert "part-0" not in page.content()
    (given,) = reviews.read(scores / reviews.FILE)
    assert (given.reviewer, given.blind) == ("ada@here.org", True)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()


def test_a_viewer_sees_everything_and_records_nothing(log_in, scores):
    before = len(reviews.read(scores / reviews.FILE))
    page = log_in(email="dan@here.org")
    page.wait_for_selector(PAINTED)
    assert "part-0" in page.content()
    page.get_by_role("button", name=re.compile("Normal")).click()
    expect(page.get_by_text("may look at this study, and not judge")).to_be_visible()
    assert len(reviews.read(scores / reviews.FILE)) == before


@pytest.mark.parametrize(
    ("person", "said"),
    [
        ({"email": "eve@here.org"}, "no part in this reader study"),
        ({"email": "ada@here.org", "email_verified": False}, "is not verified"),
    ],
)
def test_others_are_told_why_they_see_nothing(log_in, person, said):
    page = log_in(**person)
    expect(page.get_by_text(said)).to_be_visible()
    expect(page.locator(PAINTED)).to_have_count(0)
