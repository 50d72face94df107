"""One GET with the Python library that is named; ends with 0 only for a 200."""
import os
import sys

library, url = sys.argv[1], os.environ["BASE"] + "/thing"


def urllib_():
    from urllib import error, request
    try:
        answer = request.urlopen(url, timeout=60)
    except error.HTTPError as refused:
        answer = refused
    return answer.status, answer.read().decode()


def urllib3_():
    import urllib3
    proxy = os.environ.get("HTTPS_PROXY") if url.startswith("https") else os.environ.get("HTTP_PROXY")
    roots = os.environ["SSL_CERT_FILE"]
    if not proxy:
        pool = urllib3.PoolManager(ca_certs=roots)
    elif proxy.startswith("socks"):
        from urllib3.contrib.socks import SOCKSProxyManager
        pool = SOCKSProxyManager(proxy, ca_certs=roots)
    else:
        pool = urllib3.ProxyManager(proxy, ca_certs=roots)
    answer = pool.request("GET", url)
    return answer.status, answer.data.decode()


def requests_():
    import requests
    answer = requests.get(url, timeout=60)
    return answer.status_code, answer.text


def httpx_():
    import httpx
    answer = httpx.get(url, timeout=60)
    return answer.status_code, answer.text


def aiohttp_():
    import asyncio

    import aiohttp

    async def get():
        connector = None
        if os.environ.get("ALL_PROXY", "").startswith("socks"):
            from aiohttp_socks import ProxyConnector
            connector = ProxyConnector.from_url(os.environ["ALL_PROXY"].replace("socks5h", "socks5"), rdns=True)
        async with aiohttp.ClientSession(trust_env=connector is None, connector=connector) as session:
            async with session.get(url) as answer:
                return answer.status, await answer.text()

    return asyncio.run(get())


status, text = globals()[library + "_"]()
print(status, text)
sys.exit(status != 200)
