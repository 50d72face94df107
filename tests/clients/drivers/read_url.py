"""What Python's standard library and libcurl read in a URL, and what Python reads in the query of what is sent: a line of JSON for each that comes in."""
import ctypes
import ctypes.util
import http.client
import ipaddress
import json
import posixpath
import socket
import sys
from urllib.parse import parse_qsl, unquote_to_bytes, urlparse, urlsplit

# curl/urlapi.h
URL, HOST, PORT, PATH, QUERY = 0, 5, 6, 7, 8
DEFAULT_PORT, PUNYCODE = 1, 1 << 12


def library():
    name = ctypes.util.find_library("curl") or sys.exit("libcurl is missing: install curl")
    curl = ctypes.CDLL(name)
    if not hasattr(curl, "curl_url"):
        sys.exit("this libcurl reads no URLs by itself: 7.62 is the oldest that does")
    curl.curl_url.restype = ctypes.c_void_p
    curl.curl_url_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    curl.curl_url_get.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint]
    curl.curl_url_cleanup.argtypes = [ctypes.c_void_p]
    curl.curl_free.argtypes = [ctypes.c_void_p]
    return curl


def dialled(host):
    """The host as the C library would dial it: any notation of IPv4 is the address; a name is without its last dot."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    # What stands behind a space is not read by it.
    if not any(character.isspace() for character in host):
        try:
            return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))
        except (OSError, UnicodeError):
            pass
    return host.lower().removesuffix(".")


def cleaned(path):
    """What is found under a path by those who decode it first: `posixpath` has it without the last slash."""
    clean = posixpath.normpath(path)
    return clean[1:] if clean.startswith(b"//") else clean


def seen(host, port, path, query):
    decoded = unquote_to_bytes(path)
    return {"host": host, "port": port, "path": decoded.hex(), "cleaned": cleaned(decoded).hex(), "query": query}


def python(url):
    parts = urlsplit(url)
    host = parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode()
    return seen(dialled(host), parts.port or 443, parts.path or "/", parts.query)


def curl(library, url):
    if "\0" in url:
        raise ValueError("a string of C ends there")
    handle = library.curl_url()
    try:
        code = library.curl_url_set(handle, URL, url.encode(), 0)
        if code:
            raise ValueError(f"libcurl says {code}")

        def part(which, flags=0):
            text = ctypes.c_void_p()
            code = library.curl_url_get(handle, which, ctypes.byref(text), flags)
            if which == QUERY and code == 16:
                return ""
            if code:
                raise ValueError(f"libcurl says {code} for part {which}")
            value = ctypes.string_at(text)
            library.curl_free(text)
            return value.decode()

        host = part(HOST, PUNYCODE)
        return seen(dialled(host), int(part(PORT, DEFAULT_PORT)), part(PATH), part(QUERY))
    finally:
        library.curl_url_cleanup(handle)


def sent(case):
    """The same of what is sent: its authority as `http.client` has it, its parameters, and the path without those of a path."""
    connection = http.client.HTTPConnection(case["authority"])
    bare = urlparse("https://" + case["authority"] + case["target"])
    pairs = parse_qsl(bare.query, keep_blank_values=True, max_num_fields=1000)
    return {
        "host": dialled(connection.host),
        "port": connection.port,
        "bare": unquote_to_bytes(bare.path).hex(),
        "keys": [value for name, value in pairs if name.lower() == "key"],
    }


def attempt(read, *arguments):
    try:
        return read(*arguments)
    except (ValueError, UnicodeError, http.client.InvalidURL, AttributeError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}


curl_library = library()
for line in sys.stdin:
    case = json.loads(line)
    answer = {
        "python": attempt(python, case["url"]),
        "curl": attempt(curl, curl_library, case["url"]),
    }
    if "target" in case:
        answer["python_sent"] = attempt(sent, case)
    print(json.dumps(answer))
