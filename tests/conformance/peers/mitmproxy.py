"""The suite's policy as an addon of mitmproxy, with the hooks and options that its documentation describes: http_connect, requestheaders,
responseheaders.

Credentials are taken out of answers by the options modify_body and modify_headers (see the adapter). A transparent mode exists and needs NAT, which does
not exist here.
"""

import re

from mitmproxy import http

REAL = "@REAL@"
V1 = r"/v1/[^/?]+(\?.*)?"
FETCH = r"/org/repo\.git/(info/refs|git-upload-pack)(\?.*)?"
# host, port, scheme, methods, path, whether the credential is added, whether a WebSocket may pass
RULES = [
    (r"api\.good\.test", 443, "https", {"GET", "POST"}, V1, True, False),
    (r"api\.good\.test", 443, "https", {"GET"}, r"/ws/[^/?]+(\?.*)?", True, True),
    (r"git\.good\.test", 443, "https", {"GET", "POST"}, FETCH, False, False),
    (r"pypi\.good\.test", 443, "https", {"GET", "HEAD"}, r"/.*", False, False),
    (r"plain\.good\.test", 80, "http", {"GET", "POST"}, V1, False, False),
    (r"hosts\.good\.test", 443, "https", {"GET"}, V1, False, False),
    (r"[a-z0-9-]+\.wild\.test", 443, "https", {"GET"}, V1, False, False),
    (r"xn--bcher-kva\.test", 443, "https", {"GET"}, V1, False, False),
    (r"[a-z0-9-]+\.rebind\.test", 443, "https", {"GET"}, V1, False, False),
    (r"[a-z0-9-]+\.rebind\.test", 80, "http", {"GET"}, V1, False, False),
    (r"(wrong|expired|self)\.good\.test", 443, "https", {"GET", "POST"}, r"/.*", True, False),
]
BASE = {"good": "api.good.test", "git": "git.good.test", "pypi": "pypi.good.test"}
REMOVED = [
    "authorization", "proxy-authorization", "proxy_authorization", "cookie", "x-api-key", "x_api_key", "x-api_key", "api-key",
    "x-goog-api-key", "private-token", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port",
    "x_forwarded_host", "x-original-url", "x-original-host", "x-rewrite-url", "x-http-host-override", "x-real-ip", "true-client-ip",
    "x-http-method-override", "x-method-override", "x-http-method", "http2-settings", "trailer",
]
ODD = re.compile(r"\.\.|//|\\|%2[ef]|%5c|%00|%0[ad]|%25|%(?![0-9a-f]{2})|[^\x21-\x7e]", re.I)


def hosts(port):
    return [host for host, on, *_ in RULES if on == port]


def canonical(name):
    try:
        return (name or "").encode("idna").decode().lower().rstrip(".")
    except UnicodeError:
        return ""


def named(name, port):
    return any(re.fullmatch(host, canonical(name)) for host in hosts(port))


def deny(flow, status=403):
    flow.response = http.Response.make(status, b"denied by policy\n", {"connection": "close"})


def http_connect(flow):
    if not named(flow.request.host, flow.request.port):
        deny(flow)


def requestheaders(flow):
    request = flow.request
    reverse = flow.client_conn.proxy_mode.type_name == "reverse"
    if reverse:
        first, _, rest = request.path.lstrip("/").partition("/")
        if first not in BASE:
            return deny(flow)
        request.path = "/" + rest
        request.host, request.port, request.scheme = BASE[first], 443, "https"
    elif flow.client_conn.tls and canonical(flow.client_conn.sni) != canonical(request.host):
        return deny(flow, 421)
    elif canonical(re.sub(rf":{request.port}$", "", request.host_header or "")) != canonical(request.host):
        return deny(flow, 421)
    if len(request.headers.get_all("host")) > 1:
        return deny(flow, 400)
    path = request.path
    rule = next(
        (
            rule for rule in RULES
            if re.fullmatch(rule[0], canonical(request.host)) and rule[1] == request.port and rule[2] == request.scheme
            and request.method in rule[3] and re.fullmatch(rule[4], path)
        ),
        None,
    )
    if rule is None or ODD.search(path.split("?")[0]):
        return deny(flow)
    if "upgrade" in request.headers and not (rule[6] and request.headers["upgrade"].lower() == "websocket"):
        return deny(flow)
    for name in REMOVED:
        request.headers.pop(name, None)
    if rule[5]:
        request.headers["authorization"] = f"Bearer {REAL}"
    if reverse:
        request.headers["host"] = request.host


def responseheaders(flow):
    flow.response.headers.pop("alt-svc", None)
    flow.response.headers.pop("set-cookie", None)


def tcp_start(flow):
    flow.kill()
