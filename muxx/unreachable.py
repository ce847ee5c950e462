"""Why a provider cannot be reached, in words for the operator: those of the log, and of `muxx providers test`. Pure."""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp

from .errors import UpstreamError, UpstreamUnreachable
from .targets import Provider

EXPIRED, OF_ANOTHER = 10, (62, 64)
"""OpenSSL's numbers (X509_V_ERR_…) of a certificate that has expired, and of one for another name or address."""


def why_unreached(row: Provider, error: UpstreamError) -> str | None:
    """Why a call of the provider was not even sent; None where it was, or may have been."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return why_unreachable(row, cause)
    if not isinstance(error, UpstreamUnreachable):
        return None
    return error.message if cause is None else why_unreachable(row, cause)


def why_unreachable(row: Provider, error: BaseException) -> str:
    """Of errors that are kinds of one another the nearest comes first."""
    match error:
        case aiohttp.ClientProxyConnectionError():
            what = "its proxy is not there. Check proxy, or HTTPS_PROXY and HTTP_PROXY in the environment"
        case aiohttp.ClientHttpProxyError():
            what = f"its proxy refuses with {error.status}. Check proxy, and the user and password in it"
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            what = "nobody knows its host's name. Check base_url, and this machine's DNS"
        case aiohttp.ClientConnectorCertificateError():
            what = _untrusted(error.certificate_error)
        case ssl.SSLCertVerificationError():
            what = _untrusted(error)
        case aiohttp.ClientSSLError() | ssl.SSLError():
            what = "it speaks no TLS there that this machine can. Check whether base_url begins with https:// rightly"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError(errno=errno.ECONNRESET) | ConnectionResetError():
            what = "it hangs up without an answer. Check whether base_url begins with http:// rightly"
        case TimeoutError():
            what = "it takes no connection in time. Check base_url, firewalls and the network"
        case _ if row.api_key_env is None:
            what = "it is not running, or at another address"
        case _:
            what = "base_url, proxy or the network is wrong"
    return f"Cannot be reached: {what}."


def _untrusted(error: Exception) -> str:
    reason = getattr(error, "verify_code", None)
    if reason == EXPIRED:
        return "its certificate has expired. Have it renewed there, and look at this machine's clock"
    if reason in OF_ANOTHER:
        return "its certificate is another host's. Let base_url name the host that the certificate names"
    return "its certificate is not trusted. Let ca_file name the authority that signed it"
