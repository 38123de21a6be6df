"""A Leeward site, as its REST API has it. The standard library is all that it takes.

Nothing here knows Airflow, so it can be tested without.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

#: The longest answer that is read, in bytes: a run's document is far smaller.
ANSWER_BYTES_MAX = 32 << 20
#: Lines of a log in one answer.
PAGE = 1000


class SiteError(Exception):
    """The site did not do what it was asked to. ``passing`` says whether asking again may help."""

    def __init__(self, message: str, *, hint: str = "", status: int | None = None, passing: bool = False):
        super().__init__(f"{message} — {hint}" if hint else message)
        self.status = status
        self.passing = passing


@dataclass(frozen=True)
class Seen:
    """A run as it was when it was looked at."""

    run: dict[str, Any]
    progress: dict[str, Any]
    tag: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for this site alone: it is not carried to where an answer points."""

    def redirect_request(self, *_arguments, **_named):
        return None


@dataclass
class Site:
    """Where a site is, and who asks it."""

    url: str
    # Not in the representation: those are written to logs.
    token: str = field(repr=False)
    ca_file: str | None = None
    ca: str | None = field(default=None, repr=False)
    client_cert: str | None = None
    client_key: str | None = None
    timeout_seconds: float = 30.0

    def __post_init__(self):
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.url!r} is no address of a site: use https://HOST:PORT")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("the address of a site has no user, query or fragment; the token is the password")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError(f"{parts.hostname} is another machine: a token goes there over https only")
        if not self.token:
            raise ValueError("there is no token: it is the connection's password")
        self.url = self.url.rstrip("/")
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=self._tls()))
        if _is_loopback(parts.hostname):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file, cadata=self.ca)
        if self.client_cert:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context

    # What can be asked.

    def whoami(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/whoami")[0]

    def source_of(self, bucket: str) -> str:
        """The name of the source that is called so, or whose bucket this is."""
        sources = self._ask("GET", "/v1/site")[0]["sources"]
        if any(source["name"] == bucket for source in sources):
            return bucket
        for source in sources:
            _, found, rest = source["location"].partition("://")
            if found and rest.split("/")[0].split("?")[0].split("@")[0] == bucket:
                return source["name"]
        names = ", ".join(source["name"] for source in sources) or "none"
        raise SiteError(f"no source of the site is bucket {bucket!r}", hint=f"its sources are: {names}")

    def begin(self, request: dict[str, Any], key: str) -> str:
        """Begins an import, once under one key; returns the run."""
        return self._ask("POST", "/v1/imports", body=request, headers={"Idempotency-Key": key})[0]["run"]

    def see(self, run: str) -> Seen:
        answer, headers = self._ask("GET", f"/v1/runs/{quote(run, safe='')}")
        return Seen(answer["run"], answer.get("progress") or {}, headers.get("ETag") or "")

    def command(self, run: str, verb: str, body: dict[str, Any], tag: str) -> None:
        """Has something done to the run that was seen; one that has changed since is left alone, with status 412."""
        path = f"/v1/runs/{quote(run, safe='')}/{verb}"
        self._ask("POST", path, body=body, headers={"If-Match": tag} if tag else {})

    def log(self, run: str, step: str, after: int) -> list[dict[str, Any]]:
        query = urlencode({"step": step, "after": after, "most": PAGE})
        return self._ask("GET", f"/v1/runs/{quote(run, safe='')}/log?{query}")[0]["lines"]

    def page_of(self, run: str) -> str:
        """Where a person looks at a run."""
        return f"{self.url}/#/runs/{quote(run, safe='')}"

    # How.

    def _ask(self, method: str, path: str, *, body: Any = None, headers: dict[str, str] | None = None):
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Accept": "application/json",
                **({} if body is None else {"Content-Type": "application/json"}),
                **(headers or {}),
            },
        )
        try:
            with self._opener.open(request, timeout=self.timeout_seconds) as answer:
                content = answer.read(ANSWER_BYTES_MAX + 1)
                if len(content) > ANSWER_BYTES_MAX:
                    raise SiteError(f"{self.url}: the answer to {method} {path} is too long")
                return json.loads(content), answer.headers
        except urllib.error.HTTPError as error:
            raise _problem(self.url, error) from None
        except ssl.SSLCertVerificationError as error:
            raise SiteError(f"{self.url}: {error.verify_message}", hint=_TLS_HINT) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise SiteError(f"{self.url}: {error.reason.verify_message}", hint=_TLS_HINT) from error
            raise SiteError(f"{self.url} does not answer: {error.reason}", passing=True) from error
        except (OSError, ValueError) as error:
            raise SiteError(f"{self.url} does not answer as a site does: {error}", passing=True) from error


_TLS_HINT = "name the authority of the site's certificate as ca_file or ca in the connection's extra"


def _problem(url: str, error: urllib.error.HTTPError) -> SiteError:
    """What an answer says that is none of success (RFC 9457)."""
    try:
        with error:
            problem = json.loads(error.read(1 << 20))
        message, hint = problem["detail"], problem.get("hint", "")
    except (OSError, ValueError, KeyError, TypeError):
        message, hint = f"it answers {error.code} {error.reason}", ""
    passing = error.code in (408, 429) or error.code >= 500
    return SiteError(f"{url}: {message}", hint=hint, status=error.code, passing=passing)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def of_connection(connection) -> Site:
    """The site of an Airflow connection: host, port, schema (https where absent), the token as password, and in its
    extra ``ca_file`` or ``ca`` (PEM), ``client_cert`` and ``client_key``, ``timeout_seconds``."""
    extra = connection.extra_dejson
    known = {"ca_file", "ca", "client_cert", "client_key", "timeout_seconds"}
    named = {name: value for name, value in extra.items() if name in known and value not in (None, "")}
    if "timeout_seconds" in named:
        named["timeout_seconds"] = float(named["timeout_seconds"])
    return Site(url=_address(connection), token=(connection.password or "").strip(), **named)


def _address(connection) -> str:
    host = connection.host or ""
    if "://" in host:
        url = host.rstrip("/")
    else:
        named = f"[{host}]" if ":" in host and not host.startswith("[") else host
        url = f"{connection.schema or 'https'}://{named}"
    if connection.port and urlsplit(url).port is None:
        url = f"{url}:{connection.port}"
    return url
