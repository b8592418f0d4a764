"""An S3-compatible server of moto's on this machine, with faults on demand."""

import threading
import time
from collections import deque
from contextlib import contextmanager

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_arguments):
        pass


class Server:
    """The server at `url`. `faults` are for the next requests whose path or query holds the text:
    each one is met once, in order. `requests` are those that came, as method, path and query."""

    def __init__(self):
        self.inner = DomainDispatcherApplication(create_backend_app)
        self.faults = deque()
        self.requests = []
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Handler
        )
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.client = boto3.client("s3", endpoint_url=self.url)

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fill(self, bucket, files):
        """Make a bucket with these files, their contents by their names."""
        self.client.create_bucket(Bucket=bucket)
        for name, content in files.items():
            self.client.put_object(Bucket=bucket, Key=name, Body=content)

    def names(self, bucket, prefix=""):
        listing = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [each["Key"] for each in listing.get("Contents", [])]

    def content(self, bucket, name):
        return self.client.get_object(Bucket=bucket, Key=name)["Body"].read()

    def downloaded(self, bucket, prefix, folder):
        """The folder with what lies below a prefix."""
        for name in self.names(bucket, prefix):
            file = folder / name.removeprefix(f"{prefix}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.content(bucket, name))
        return folder

    def written(self):
        """The paths that were written, in order."""
        return [path for method, path, _ in self.requests if method == "PUT"]

    def got(self, name, method="GET"):
        """How often a path that ends with this name was asked for."""
        return sum(kind == method and path.endswith(name) for kind, path, _ in self.requests)

    def _answer(self, environ, start):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = environ.get("QUERY_STRING", "")
        self.requests.append((method, path, query))
        for fault in self.faults:
            kind, wanted, text = fault
            if wanted == method and text in f"{path}?{query}":
                self.faults.remove(fault)
                return self._failing(kind, environ, start)
        return self.inner(environ, start)

    def _failing(self, kind, environ, start):
        if kind.isdecimal():
            start(f"{kind} No", [("Content-Length", "0")])
            return [b""]
        if kind == "hang":
            time.sleep(2.5)  # longer than the client waits
            return self.inner(environ, start)
        assert kind == "cut"
        headers = []
        content = b"".join(self.inner(environ, lambda *given: headers.append(given)))
        start(*headers[0][:2])
        return _cut(content)


def _cut(content):
    yield content[: len(content) // 2]
    raise ConnectionError  # the server closes the connection


@contextmanager
def bucket_server(patch):
    """A server that this process and those that it starts find in their environment."""
    for name, value in CREDENTIALS.items():
        patch.setenv(name, value)
    server = Server()
    patch.setenv("AWS_ENDPOINT_URL", server.url)
    try:
        yield server
    finally:
        server.close()
