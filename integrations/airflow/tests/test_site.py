"""How a site is spoken to: who gets the token, and what becomes of refusals."""

import json
import sys
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from leeward_airflow.site import Site, SiteError, of_connection


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        status, headers, body = self.server.answers.get(self.path.split("?")[0], (404, {}, "nothing"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET

    def log_message(self, *_):
        pass


def connection(**given):
    plain = {"host": "site.example", "port": None, "schema": None, "password": "secret-token", "extra_dejson": {}}
    return SimpleNamespace(**{**plain, **given})


class Connections(unittest.TestCase):
    def test_an_address_is_https_unless_the_site_is_on_this_machine(self):
        self.assertEqual(of_connection(connection(port=7443)).url, "https://site.example:7443")
        self.assertEqual(
            of_connection(connection(host="https://site.example:1/", port=2)).url, "https://site.example:1"
        )
        self.assertEqual(of_connection(connection(host="::1", schema="http", port=3)).url, "http://[::1]:3")
        self.assertEqual(of_connection(connection(host="127.0.0.1", schema="http")).url, "http://127.0.0.1")
        for wrong in (
            {"schema": "http"},
            {"password": ""},
            {"host": ""},
            {"host": "ftp://a"},
            {"host": "https://u:p@a"},
        ):
            with self.assertRaises(ValueError, msg=wrong):
                of_connection(connection(**wrong))

    def test_the_token_is_not_in_the_representation(self):
        self.assertNotIn("secret-token", repr(of_connection(connection())))


class Answers(unittest.TestCase):
    def setUp(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.asked, self.server.answers = [], {}
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.site = Site(f"http://127.0.0.1:{self.server.server_port}", "secret-token", timeout_seconds=10)

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()

    def test_the_token_does_not_follow_a_redirect(self):
        self.server.answers["/v1/whoami"] = (302, {"Location": "/elsewhere"}, "")
        with self.assertRaises(SiteError) as raised:
            self.site.whoami()
        self.assertEqual([path for path, _ in self.server.asked], ["/v1/whoami"])
        self.assertEqual(self.server.asked[0][1], "Bearer secret-token")
        self.assertEqual(raised.exception.status, 302)

    def test_a_problem_is_told_with_its_hint_and_whether_it_may_pass(self):
        for status, passing in ((401, False), (409, False), (412, False), (429, True), (503, True)):
            body = json.dumps({"detail": f"no {status}", "hint": "do that"})
            self.server.answers["/v1/runs/r"] = (status, {}, body)
            with self.assertRaises(SiteError) as raised:
                self.site.see("r")
            self.assertEqual((raised.exception.status, raised.exception.passing), (status, passing))
            self.assertIn(f"no {status} — do that", str(raised.exception))
            self.assertNotIn("secret-token", str(raised.exception))

    def test_what_is_no_answer_of_a_site_may_pass(self):
        self.server.answers["/v1/runs/r"] = (200, {}, "<html>")
        with self.assertRaises(SiteError) as raised:
            self.site.see("r")
        self.assertTrue(raised.exception.passing)
        self.tearDown()
        with self.assertRaises(SiteError) as raised:
            self.site.see("r")
        self.assertTrue(raised.exception.passing)
        self.setUp()

    def test_a_source_is_found_by_its_name_or_its_bucket(self):
        sources = [{"name": "inbox", "location": "/srv/inbox"}, {"name": "uploads", "location": "oci://images@ns/x"}]
        self.server.answers["/v1/site"] = (200, {}, json.dumps({"sources": sources}))
        self.assertEqual(self.site.source_of("inbox"), "inbox")
        self.assertEqual(self.site.source_of("images"), "uploads")
        with self.assertRaises(SiteError) as raised:
            self.site.source_of("srv")
        self.assertIn("inbox, uploads", str(raised.exception))


if __name__ == "__main__":
    unittest.main()
