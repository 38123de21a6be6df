"""Receivers of notices for the tests: what they take they write down, one line of JSON each.

    receivers.py webhook PORT CERT KEY SECRET_FILE BEHAVIOUR_FILE OUT
    receivers.py mail PORT CERT KEY OUT MODE       (MODE: starttls, tls, plain)

The signature of a webhook is checked by the reference library of Standard Webhooks, mail is taken by aiosmtpd.
"""

import http.server
import json
import ssl
import sys
import threading


def note(out, what):
    with open(out, "a") as file:
        file.write(json.dumps(what) + "\n")


def tls(cert, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def webhook(port, cert, key, secret_file, behaviour_file, out):
    from standardwebhooks.webhooks import Webhook, WebhookVerificationError

    verifier = Webhook(open(secret_file).read().strip())

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                verifier.verify(body, headers)
                verified = True
            except WebhookVerificationError as error:
                verified = str(error)
            try:
                verifier.verify(body + b" ", headers)
                tampered = True
            except WebhookVerificationError:
                tampered = False
            status = int(open(behaviour_file).read())
            note(out, {
                "method": self.command, "path": self.path, "headers": headers, "verified": verified,
                "tampered": tampered, "body": body.decode(), "status": status,
            })
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.socket = tls(cert, key).wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


def mail(port, cert, key, out, mode):
    from email import message_from_bytes, policy

    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult, LoginPassword

    class Handler:
        async def handle_DATA(self, server, session, envelope):
            message = message_from_bytes(envelope.content, policy=policy.default)
            note(out, {
                "tls": session.ssl is not None or mode == "tls", "user": getattr(session, "user", None),
                "from": envelope.mail_from, "to": envelope.rcpt_tos, "helo": session.host_name,
                "headers": [[name, str(value)] for name, value in message.items()],
                "raw_headers": envelope.content.split(b"\r\n\r\n")[0].decode("ascii"),
                "text": message.get_content(),
            })
            return "250 taken"

    def authenticate(server, session, envelope, mechanism, data):
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"leeward", b"correct horse")
        if right:
            session.user = data.login.decode()
        return AuthResult(success=right, handled=False)

    options = {"hostname": "127.0.0.1", "port": int(port), "server_hostname": "localhost"}
    if mode == "starttls":
        options |= {
            "tls_context": tls(cert, key), "require_starttls": True, "authenticator": authenticate, "auth_required": True,
        }
    elif mode == "tls":
        options |= {
            "ssl_context": tls(cert, key), "authenticator": authenticate, "auth_required": True, "auth_require_tls": False,
        }
    Controller(Handler(), **options).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    {"webhook": webhook, "mail": mail}[sys.argv[1]](*sys.argv[2:])
