"""Fetching what a stranger's message points to, without being led anywhere else.

Every address, also of every redirect, is resolved once and checked, and the connection goes to the address that was
checked: a name that answers differently the second time (DNS rebinding) gains nothing. Only https, no proxies, nothing
compressed, a limit of bytes that is kept while they come. Credentials go only where `headers_for` gives some.
"""

import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from core.errors import BadInput, NotAllowed, TooLarge, Unavailable

MAX_REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Fetched:
    """What came."""

    content: bytes
    type: str


def fetch(
    url: str,
    *,
    types: Sequence[str],
    max_bytes: int,
    headers_for: Callable[[str], dict[str, str]] = lambda host: {},
    trusted: frozenset[str] = frozenset(),
    seconds: float = 30.0,
) -> Fetched:
    """Get one file.

    Args:
        types: content types that are taken; one that ends in "/" takes all below it.
        headers_for: what to send to a host beyond the usual, credentials above all.
        trusted: `host:port` of our own vendor servers: http and private addresses are allowed there.
        seconds: for everything together.

    Raises:
        NotAllowed: the address, or one it redirects to, is none that a stranger may send us to.
        BadInput: it is of another type, or compressed.
        TooLarge: more than `max_bytes`.
        Unavailable: it does not come now.
    """
    end = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        found = _one(url, types, max_bytes, headers_for, trusted, end)
        if isinstance(found, Fetched):
            return found
        url = found
    raise NotAllowed("The file's address redirects too often.")


def _one(
    url: str,
    types: Sequence[str],
    max_bytes: int,
    headers_for: Callable[[str], dict[str, str]],
    trusted: frozenset[str],
    end: float,
) -> Fetched | str:
    """The file, or where it is said to be."""
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError):
        raise NotAllowed("The file's address is none.") from None
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    ours = f"{host}:{port}" in trusted
    if not host or parsed.userinfo or (parsed.scheme != "https" and not (ours and parsed.scheme == "http")):
        raise NotAllowed("Files are fetched over https only, from addresses without a user in them.")
    address = _checked(host, port, ours)
    headers = {
        "Host": parsed.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": "npllm", **headers_for(host)
    }  # fmt: skip
    left = max(0.1, min(10.0, end - time.monotonic()))
    try:
        with (
            httpx.Client(trust_env=False, follow_redirects=False, timeout=left) as client,
            client.stream(
                "GET", parsed.copy_with(host=address), headers=headers, extensions={"sni_hostname": host}
            ) as response,
        ):  # fmt: skip
            if response.is_redirect:
                return str(parsed.join(response.headers.get("location", "")))
            if not response.is_success:
                raise Unavailable(f"The file's server answered {response.status_code}.")
            return _read(response, types, max_bytes, end)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last two: of a redirect's address
        raise Unavailable(f"The file did not come: {type(error).__name__}.") from error


def _read(response: httpx.Response, types: Sequence[str], max_bytes: int, end: float) -> Fetched:
    kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
    if not any(kind.startswith(one) if one.endswith("/") else kind == one for one in types):
        raise BadInput(f"Files of type '{kind[:100]}' are not taken.")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadInput("The file is compressed, although we asked for it as it is.")
    chunks, size = [], 0
    for chunk in response.iter_raw():
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"The file has more than {max_bytes} bytes.")
        if time.monotonic() > end:
            raise Unavailable("The file comes too slowly.")
        chunks.append(chunk)
    return Fetched(b"".join(chunks), kind)


def _checked(host: str, port: int, ours: bool) -> str:
    """An address of the host; all that it has must be public, or it is ours."""
    try:
        found = {str(info[4][0]).split("%")[0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise Unavailable("The file's server has no address.") from None
    if not ours and not all(is_public(address) for address in found):
        raise NotAllowed("The file's server is inside a private network.")
    return sorted(found, key=lambda address: ":" in address)[0]


def is_public(address: str) -> bool:
    """Whether an address is the internet's: not private, loopback, link-local, multicast, reserved, nor one of these
    wrapped in an IPv6 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(one is not None and not is_public(str(one)) for one in inner):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
