"""The server's certificate and key, and whose clients it takes; read again when they change."""

import logging
import ssl
import threading
from pathlib import Path

import grpc

from treeserve.errors import ConfigError
from treeserve.server.config import TlsFiles
from treeserve.server.file_watch import FileWatch

logger = logging.getLogger(__name__)


class Tls:
    """Credentials of both doors; connections made after the files change get what they hold then.

    Args:
        files: Must be right when the server starts; if they are wrong later, that is logged, and
            the old ones stay.

    Raises:
        ConfigError: Names the option, the file and what is wrong.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._watch = FileWatch(files.paths())
        self._lock = threading.Lock()
        self._configuration = _read(files)
        self._http_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._http_context.load_cert_chain(files.cert, files.key, _no_password)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For gRPC, whose own thread asks for the files before every new connection."""

        def fetch() -> "grpc.ServerCertificateConfiguration":
            self.reload(only_if_changed=True)
            return self._configuration

        must_show = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(self._configuration, fetch, must_show)

    def http_context(self) -> ssl.SSLContext:
        """For HTTP, where probes need no client certificate."""
        return self._http_context

    def reload(self, *, only_if_changed: bool = False) -> None:
        """Read the files again; from any thread."""
        with self._lock:
            if not (self._watch.has_changed() or not only_if_changed):
                return
            try:
                self._configuration = _read(self._files)
                self._http_context.load_cert_chain(self._files.cert, self._files.key, _no_password)
            except (ConfigError, ssl.SSLError, OSError) as error:
                logger.error("the old certificate stays: %s", error)
            else:
                logger.info("read the certificate again")


def _read(files: TlsFiles) -> "grpc.ServerCertificateConfiguration":
    cert, key = _bytes("tls_cert", files.cert), _bytes("tls_key", files.key)
    roots = None if files.client_ca is None else _bytes("tls_client_ca", files.client_ca)
    # gRPC would only say that a port cannot be bound, and of some wrong files nothing at all.
    _check_certificates("tls_cert", files.cert)
    _check_key(files)
    if files.client_ca is not None:
        _check_certificates("tls_client_ca", files.client_ca)
    return grpc.ssl_server_certificate_configuration([(key, cert)], roots)


def _check_key(files: TlsFiles) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key, _no_password)
    except ssl.SSLError as error:
        if error.reason and "MISMATCH" in error.reason:
            raise ConfigError(
                f"tls_key: {files.key} does not belong to the certificate {files.cert}"
            ) from None
        raise ConfigError(
            f"tls_key: {files.key} holds no private key in PEM without a password"
        ) from None


def _check_certificates(option: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError(f"{option}: {path} holds no certificate in PEM") from None


def _bytes(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option}: cannot read {path}: {error.strerror}") from None


def _no_password() -> str:
    """OpenSSL would ask the terminal for one."""
    return ""
