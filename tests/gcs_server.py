"""A Google Cloud Storage of this process, as far as gcsfs asks for it: objects and conditions."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Objects:
    """The objects of all buckets by their path, and the conditions that came with them."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.honours_conditions = True
        self.lock = threading.Lock()

    def insert(self, path: str, content: bytes, condition: str | None) -> bool:
        """Whether an object was stored; not, if it was to be new and is there."""
        with self.lock:
            if condition == "0" and self.honours_conditions and path in self.content:
                return False
            self.content[path] = content
            return True


class Handler(BaseHTTPRequestHandler):
    """The JSON API."""

    protocol_version = "HTTP/1.1"
    objects: Objects

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        """Insert an object that comes with its metadata as one body of two parts."""
        bucket = self.path.split("/b/")[1].partition("/")[0]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head, rest = body.split(b"\n\n", 2)[1:]
        name = json.loads(head.partition(b"\n--==0==")[0])["name"]
        content = rest.removesuffix(b"\n--==0==--")
        condition = self._query().get("ifGenerationMatch")
        if self.objects.insert(f"{bucket}/{name}", content, condition):
            self._answer(200, self._resource(bucket, name))
        else:
            self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})

    def do_GET(self) -> None:
        """Get an object, its metadata, a list, or a bucket."""
        bucket, name = self._target()
        path = f"{bucket}/{name}"
        if name is None:
            self._answer(200, self._list(bucket) if "/o?" in self.path else {"name": bucket})
        elif path not in self.objects.content:
            self._answer(404, {"error": {"code": 404, "message": "no such object"}})
        elif self._query().get("alt") == "media":
            self._send(200, self.objects.content[path])
        else:
            self._answer(200, self._resource(bucket, name))

    def do_DELETE(self) -> None:
        """Delete an object."""
        bucket, name = self._target()
        found = self.objects.content.pop(f"{bucket}/{name}", None)
        self._send(404 if found is None else 204, b"")

    def _target(self) -> tuple[str, str | None]:
        place = urlsplit(self.path).path.split("/b/")[1]
        bucket, _, rest = place.partition("/")
        return bucket, unquote(rest.removeprefix("o/")) if rest.startswith("o/") else None

    def _query(self) -> dict[str, str]:
        return {key: each[0] for key, each in parse_qs(urlsplit(self.path).query).items()}

    def _resource(self, bucket: str, name: str) -> dict[str, str]:
        size = str(len(self.objects.content.get(f"{bucket}/{name}", b"")))
        return {"name": name, "bucket": bucket, "size": size, "generation": "1"}

    def _list(self, bucket: str) -> dict[str, object]:
        query = self._query()
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, folders = [], set()
        for path in sorted(self.objects.content):
            if path.startswith(f"{bucket}/{prefix}"):
                name = path.removeprefix(f"{bucket}/")
                inner, found, _ = name.removeprefix(prefix).partition(delimiter or "\0")
                if found:
                    folders.add(f"{prefix}{inner}/")
                else:
                    items.append(self._resource(bucket, name))
        return {"items": items, "prefixes": sorted(folders)}

    def _answer(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def gcs_server() -> Iterator[tuple[str, Objects]]:
    """The address of such a server, and what it holds."""
    objects = Objects()
    handler = type("BoundHandler", (Handler,), {"objects": objects})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", objects
    server.shutdown()
    server.server_close()
    thread.join()
