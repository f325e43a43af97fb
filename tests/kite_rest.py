"""Kite's REST API in little, for tests: logins and profiles. What it refuses it quotes, as no server should."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

USER = {"user_id": "AB1234", "user_name": "Somebody"}


class Rest:
    """Takes `tokens` of the app with `key`; who logs in with its `secret` and `request_token`, once, is given `new`."""

    def __init__(self, key: str, *tokens: str, secret: str = "", request_token: str = "", new: str = "") -> None:
        self.tokens = list(tokens)
        self.asked = 0  # for a profile
        self.logins: list[dict[str, str]] = []  # forms, as they came
        rest = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rest.asked += 1
                login = self.headers["Authorization"]
                good = self.path == "/user/profile" and login in [f"token {key}:{token}" for token in rest.tokens]
                self._answer(USER if good else None, quoted=login)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                rest.logins.append(form)
                checksum = hashlib.sha256((key + request_token + secret).encode()).hexdigest()
                expected = {"api_key": key, "request_token": request_token, "checksum": checksum}
                good = self.path == "/session/token" and form == expected and new not in rest.tokens
                if good:
                    rest.tokens.append(new)
                session = {**USER, "access_token": new, "login_time": "2025-10-01 08:41:07"}
                self._answer(session if good else None, quoted=body)

            def _answer(self, data: dict[str, str] | None, quoted: str) -> None:
                refusal = {"status": "error", "error_type": "TokenException", "message": f"no good: {quoted}"}
                body = json.dumps({"status": "success", "data": data} if data else refusal).encode()
                self.send_response(200 if data else 403)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Rest":
        Thread(target=self._server.serve_forever, args=(0.02,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
