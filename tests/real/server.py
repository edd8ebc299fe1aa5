"""An HTTP server on 127.0.0.1 that serves what a test gives it, and misbehaves as it is told."""
import gzip
import http.server
import re
import ssl
import subprocess
import threading

from qmp import PATIENCE


class Page:
    """One file of the server: its bytes, and how it is served. The modes each hold for one request, the last for all after."""

    def __init__(self, data=b"", etag='"1"', modified=None, modes=("whole",), to=None, status=200, password=None):
        self.data, self.etag, self.modified, self.modes, self.to, self.status = data, etag, modified, list(modes), to, status
        self.password = password
        self.after = None  # called when a request has been served

    def mode(self):
        return self.modes.pop(0) if len(self.modes) > 1 else self.modes[0]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        page = self.server.pages.get(self.path.split("?")[0])
        self.server.requests.append((self.path, dict(self.headers)))
        try:
            self.answer(page) if page else self.send_error(404)
        except (BrokenPipeError, ConnectionResetError):
            pass
        if page and page.after:
            page.after()

    def answer(self, page):
        mode = page.mode()
        if page.password and self.headers.get("Authorization") != page.password:
            return self.send_error(401)
        if mode == "redirect":
            return self.simple(302, {"Location": page.to})
        if mode == "error":
            return self.send_error(page.status)
        if mode == "close":
            self.close_connection = True
            return None
        return self.send_file(page, mode)

    def simple(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def first(self, page, mode):
        """The byte that is asked for, where it may be answered so."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not asked or mode in ("no-range", "gzipped", "no-length"):
            return 0
        condition = self.headers.get("If-Range")
        if condition and condition not in (page.etag, page.modified) and mode != "ignores-if-range":
            return 0
        return int(asked[1])

    def send_file(self, page, mode):
        data, first = page.data, self.first(page, mode)
        if page.etag and self.headers.get("If-None-Match") == page.etag:
            return self.simple(304, {"ETag": page.etag})
        if mode == "gzipped":
            data = gzip.compress(data)
        if first >= len(data) > 0:
            return self.simple(416, {"Content-Range": f"bytes */{len(data)}"})
        body = data[first:]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        for name, value in (("ETag", page.etag), ("Last-Modified", page.modified)):
            if value:
                self.send_header(name, value)
        if mode == "gzipped":
            self.send_header("Content-Encoding", "gzip")
        length = len(body) // 2 if mode == "short-length" else len(body)
        if mode == "no-length":
            self.send_header("Connection", "close")
        elif mode == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if mode in ("cut", "stall"):
            body = body[:len(body) // 2]
        if mode == "chunked":
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        self.wfile.write(body)
        self.wfile.flush()
        if mode == "stall":
            self.server.released.wait(4 * PATIENCE)
        if mode != "chunked" and length != len(body) or mode == "no-length":
            self.close_connection = True
        return None


class Server(http.server.ThreadingHTTPServer):
    """SERVER.pages: path -> Page; SERVER.requests: what was asked."""

    daemon_threads = True

    def __init__(self, certificate=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.requests = {}, []
        self.released = threading.Event()
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def handle_error(self, request, client_address):
        pass  # a client that trusts us not goes in the middle

    def url(self, path):
        return f"{self.scheme}://127.0.0.1:{self.server_port}{path}"

    def close(self):
        self.released.set()
        self.shutdown()
        self.thread.join(10)
        self.server_close()


def make_certificate(folder):
    """An authority of our own, and a certificate for 127.0.0.1 by it: (authority's file, certificate, key)."""
    ca, key, cert, request, ca_key = (f"{folder}/{n}" for n in ("ca.pem", "key.pem", "cert.pem", "request.pem", "ca-key.pem"))
    extension = f"{folder}/extension"
    with open(extension, "w", encoding="ascii") as f:
        f.write("subjectAltName=IP:127.0.0.1\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for argv in (["req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-subj", "/CN=authority", "-days", "2"],
                 ["req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=server"],
                 ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert,
                  "-extfile", extension, "-days", "2"]):
        subprocess.run(["openssl", *argv], check=True, capture_output=True)
    return ca, cert, key
